// y = x, from f32 to f16 as shared/halves.wgsl says, or back (WIDEN).
//
// x [pairs] f32, two elements to a pair; f16, one element, with WIDEN
// y [pairs] the other
//
// Grid: x, y = groups of 64 pairs.
// Workgroup memory: none.
struct Params {
    pairs: u32,
    x_offset: u32,
    y_offset: u32,
}

override WIDEN: bool = false;

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i >= p.pairs {
        return;
    }
    if WIDEN {
        let pair = bitcast<vec2<u32>>(from_halves(x[p.x_offset / 2u + i]));
        y[p.y_offset + 2u * i] = pair.x;
        y[p.y_offset + 2u * i + 1u] = pair.y;
    } else {
        let at = p.x_offset + 2u * i;
        y[p.y_offset / 2u + i] = to_halves(bitcast<vec2<f32>>(vec2<u32>(x[at], x[at + 1u])));
    }
}
