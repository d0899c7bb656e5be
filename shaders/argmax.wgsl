// out[r] = the lowest column at which x[r] is largest.
//
// x   [rows, n] f32
// out [rows]    u32
//
// Grid: x = rows, one workgroup each.
// Workgroup memory: 8 * WG bytes.
// Numerics: comparisons only. Ties go to the lowest column, as torch.argmax does on a CPU.
// Why: a vocabulary of 32,000 is 125 loads for each of 256 invocations; a second dispatch would cost more.
struct Params {
    n: u32,
    x_offset: u32,
}

override WG: u32 = 256u;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
@group(0) @binding(2) var<uniform> p: Params;

var<workgroup> values: array<f32, WG>;
var<workgroup> columns: array<u32, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let start = p.x_offset + group.x * p.n;
    // Lanes past the end repeat column 0, which changes no result.
    var best = select(0u, lane, lane < p.n);
    var largest = x[start + best];
    for (var i = lane + WG; i < p.n; i += WG) {
        let value = x[start + i];
        if value > largest {
            largest = value;
            best = i;
        }
    }
    values[lane] = largest;
    columns[lane] = best;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if lane < half {
            let value = values[lane + half];
            let column = columns[lane + half];
            if value > values[lane] || (value == values[lane] && column < columns[lane]) {
                values[lane] = value;
                columns[lane] = column;
            }
        }
        workgroupBarrier();
    }
    if lane == 0u {
        out[group.x] = columns[0];
    }
}
