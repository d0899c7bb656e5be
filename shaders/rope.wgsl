// Rotary position embedding, half-split: (a, b) -> (a cos θ - b sin θ, b cos θ + a sin θ) with a = x[j], b = x[j + d/2]
// for every head of q and k; then k and v join the cache.
//
// qkv    [T, (H + 2G) * d]   f32: q heads, k heads, v heads
// angles [positions, d / 2]  vec2 f32: cos θ, sin θ
// places [T]                 vec2 u32: how far row t is past step.pos, and its row of pages
// pages  [sequences, S]      u32: the page that a sequence's position lies on
// step                       position
// q      [T, H * d]          f32, rotated
// keys   [G, capacity, d]    f32, rotated
// values [G, capacity, d]    f32
//
// Grid: x, y = pairs (row, head, j) in groups of 64, folded.
// Workgroup memory: none.
// Limits: positions have pages and angles; pages are below capacity.
// Why: one pass over qkv instead of three; the cache layout gives each head contiguous keys.
struct Params {
    t: u32,
    heads: u32,
    kv_heads: u32,
    d: u32,
    capacity: u32,
    pages_offset: u32,
    pages_stride: u32,
}

struct Step {
    pos: u32,
    len: u32,
    reserved: vec2<u32>,
}

@group(0) @binding(0) var<storage, read> qkv: array<f32>;
@group(0) @binding(1) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> places: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> pages: array<u32>;
@group(0) @binding(4) var<uniform> step: Step;
@group(0) @binding(5) var<storage, read_write> q: array<f32>;
@group(0) @binding(6) var<storage, read_write> keys: array<f32>;
@group(0) @binding(7) var<storage, read_write> values: array<f32>;
@group(0) @binding(8) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let half = p.d / 2u;
    let heads = p.heads + 2u * p.kv_heads;
    let index = (group.x + group.y * groups.x) * 64u + lane;
    if index >= p.t * heads * half {
        return;
    }
    let j = index % half;
    let head = (index / half) % heads;
    let row = index / (half * heads);
    let place = places[row];
    let position = step.pos + place.x;
    let page = pages[p.pages_offset + place.y * p.pages_stride + position];
    let start = (row * heads + head) * p.d + j;
    let pair = vec2<f32>(qkv[start], qkv[start + half]);
    let angle = angles[position * half + j];
    let rotated = vec2<f32>(pair.x * angle.x - pair.y * angle.y, pair.y * angle.x + pair.x * angle.y);
    if head < p.heads {
        let to = (row * p.heads + head) * p.d + j;
        q[to] = rotated.x;
        q[to + half] = rotated.y;
    } else if head < p.heads + p.kv_heads {
        let to = ((head - p.heads) * p.capacity + page) * p.d + j;
        keys[to] = rotated.x;
        keys[to + half] = rotated.y;
    } else {
        let to = ((head - p.heads - p.kv_heads) * p.capacity + page) * p.d + j;
        values[to] = pair.x;
        values[to + half] = pair.y;
    }
}
