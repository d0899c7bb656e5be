// out[t] = table[ids[t]], for the ids that lie in this part of the table.
//
// ids   [T]        u32
// table [rows, d]  f16, two to an element: rows first .. first + rows of the whole table, filled up to multiples of 8
// out   [T, d]     f32
//
// Grid: x = groups of 64 pairs of channels, y = rows t.
// Workgroup memory: none.
// Limits: ids outside every part leave their row as it was; they are refused before.
struct Params {
    d: u32,
    first: u32,
    rows: u32,
}

@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read> table: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let pair = group.x * 64u + lane;
    let row = ids[group.y] - p.first;
    // An id below `first` wraps round and is past the end too.
    if 2u * pair >= p.d || row >= p.rows {
        return;
    }
    let value = unpack2x16float(table[row * ((p.d + 7u) / 8u * 4u) + pair]);
    let to = group.y * p.d + 2u * pair;
    out[to] = value.x;
    if 2u * pair + 1u < p.d {
        out[to + 1u] = value.y;
    }
}
