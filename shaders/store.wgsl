// Keys and values join the cache as they are: column first + i of row t is channel i of all k heads, then of all v heads.
//
// x      [T, ...]            f32: row t starts at x_offset + t * x_stride; k heads, then v heads from column first on
// places [T]                 vec2 u32: how far row t is past step.pos, and its row of pages
// pages  [sequences, S]      u32: the page that a sequence's position lies on
// step                       position
// keys   [G, capacity, ...]  words of shared/cache.wgsl: page i of head g starts at channel (g * capacity + i) * page_stride
// values [G, capacity, ...]  as the keys
//
// Grid: x, y = words (row, channels) in groups of 64, folded.
// Workgroup memory: none.
// Limits: d % KV_PACK == 0; positions have pages; pages are below capacity.
struct Params {
    t: u32,
    x_offset: u32,
    x_stride: u32,
    kv_heads: u32,
    d: u32,
    capacity: u32,
    page_stride: u32,
    pages_offset: u32,
    pages_stride: u32,
}

struct Step {
    pos: u32,
    len: u32,
    reserved: vec2<u32>,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> places: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> pages: array<u32>;
@group(0) @binding(3) var<uniform> step: Step;
@group(0) @binding(4) var<storage, read_write> keys: array<u32>;
@group(0) @binding(5) var<storage, read_write> values: array<u32>;
@group(0) @binding(6) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = (group.x + group.y * groups.x) * 64u + lane;
    let width = p.kv_heads * p.d;
    if index >= p.t * width / KV_PACK {
        return;
    }
    let row = index * KV_PACK / width;
    let channel = index * KV_PACK % width;
    let place = places[row];
    let page = pages[p.pages_offset + place.y * p.pages_stride + step.pos + place.x];
    let to = ((channel / p.d) * p.capacity + page) * p.page_stride + channel % p.d;
    let start = p.x_offset + row * p.x_stride + channel;
    let next = start + KV_PACK - 1u;
    keys[to / KV_PACK] = kv_word(vec2<f32>(x[start], x[next]));
    values[to / KV_PACK] = kv_word(vec2<f32>(x[start + width], x[next + width]));
}
