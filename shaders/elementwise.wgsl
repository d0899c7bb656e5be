// y = scale * x (ADD = false) or y += scale * x (ADD = true), element by element.
//
// x [len] f32
// y [len] f32
//
// Grid: x, y = groups of 64 elements, folded.
// Workgroup memory: none.
struct Params {
    len: u32,
    x_offset: u32,
    y_offset: u32,
    scale: f32,
}

override ADD: bool = false;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
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
    var value = p.scale * x[p.x_offset + i];
    if ADD {
        value += y[p.y_offset + i];
    }
    y[p.y_offset + i] = value;
}
