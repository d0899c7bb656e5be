// out[r, c] = x[r, c] for c < x_width, and 0 for the columns after: rows made wider with zeros, or cut.
//
// x   [rows, x_width]   f32
// out [rows, out_width] f32
//
// Grid: x, y = groups of 64 elements of out, folded.
// Workgroup memory: none.
// Why: kernels read rows and heads several channels at a time. Where a model's are no multiple of that, this runs before
// them; published ones are.
struct Params {
    len: u32,
    x_offset: u32,
    x_width: u32,
    out_width: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i >= p.len {
        return;
    }
    let column = i % p.out_width;
    var value = 0.0;
    if column < p.x_width {
        value = x[p.x_offset + i / p.out_width * p.x_width + column];
    }
    out[i] = value;
}
