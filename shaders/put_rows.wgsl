// out[index[i]] = x[i]: image features take the places of the image placeholders.
//
// x     [R, d] f32
// index [R]    u32, distinct rows of out
// out   [T, d] f32
//
// Grid: x = groups of 64 channels, y = rows of x.
// Workgroup memory: none.
struct Params {
    d: u32,
    x_offset: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(0) @binding(3) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let channel = group.x * 64u + lane;
    if channel < p.d {
        out[index[group.y] * p.d + channel] = x[p.x_offset + group.y * p.d + channel];
    }
}
