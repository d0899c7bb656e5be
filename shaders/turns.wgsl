// What a step's rows turn by and where they go: looked up once a step and not in every layer.
//
// angles [positions, d / 2]  vec2 f32: cos θ, sin θ
// places [T]                 vec2 u32: how far row t is past step.pos, and its row of pages
// pages  [sequences, S]      u32: the page that a sequence's position lies on
// step                       position
// out    [T, 1 + d / 2]      vec2 u32: the page of the row's position and 0, then the bits of cos θ and sin θ
//
// Grid: x = groups of 64 elements of out, y = rows.
// Workgroup memory: none.
// Limits: positions have pages and angles.
// Why: bits and not floats, since a GPU may make a small number that is stored as a float 0.
struct Params {
    half: u32,
    pages_offset: u32,
    pages_stride: u32,
}

struct Step {
    pos: u32,
    len: u32,
    reserved: vec2<u32>,
}

@group(0) @binding(0) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> places: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> pages: array<u32>;
@group(0) @binding(3) var<uniform> step: Step;
@group(0) @binding(4) var<storage, read_write> out: array<vec2<u32>>;
@group(0) @binding(5) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y;
    let i = group.x * 64u + lane;
    if i > p.half {
        return;
    }
    let place = places[row];
    let position = step.pos + place.x;
    var value = vec2<u32>(pages[p.pages_offset + place.y * p.pages_stride + position], 0u);
    if i > 0u {
        value = bitcast<vec2<u32>>(angles[position * p.half + i - 1u]);
    }
    out[row * (1u + p.half) + i] = value;
}
