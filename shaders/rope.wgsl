// Rotary position embedding, half-split: (a, b) -> (a cos θ - b sin θ, b cos θ + a sin θ) with a = x[j], b = x[j + d/2]
// for every head of q and k; then k and v join the cache.
//
// qkv    [T, (H + 2G) * d]   f32: q heads, k heads, v heads
// turns  [T, 1 + d / 2]      vec2 u32, from turns.wgsl: the row's page, then bits of cos θ and sin θ
// q      [T, H * d]          f32, rotated
// keys   [G, capacity, ...]  words of shared/cache.wgsl, rotated: page i of head g starts at channel
//                            (g * capacity + i) * page_stride
// values [G, capacity, ...]  as the keys
//
// Grid: x, y = pairs (row, head, j), or two neighbouring ones where they are a word, in groups of 64, folded.
// Workgroup memory: none.
// Limits: d / 2 is a multiple of KV_PACK; pages are below capacity.
// Why: one pass over qkv instead of three; the cache layout gives each head contiguous keys. Steps of few rows do the
// same in the linear layer itself (shared/linear_rope.wgsl).
struct Params {
    t: u32,
    heads: u32,
    kv_heads: u32,
    d: u32,
    capacity: u32,
    page_stride: u32,
}

@group(0) @binding(0) var<storage, read> qkv: array<f32>;
@group(0) @binding(1) var<storage, read> turns: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read_write> q: array<f32>;
@group(0) @binding(3) var<storage, read_write> keys: array<u32>;
@group(0) @binding(4) var<storage, read_write> values: array<u32>;
@group(0) @binding(5) var<uniform> p: Params;

// The pair of channel j of a head that starts at `start`, as it is and turned by its angle.
struct Pair {
    plain: vec2<f32>,
    turned: vec2<f32>,
}

fn pair_of(start: u32, turn: u32, j: u32) -> Pair {
    let pair = vec2<f32>(qkv[start + j], qkv[start + j + p.d / 2u]);
    let angle = bitcast<vec2<f32>>(turns[turn + 1u + j]);
    return Pair(pair, vec2<f32>(pair.x * angle.x - pair.y * angle.y, pair.y * angle.x + pair.x * angle.y));
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let half = p.d / 2u;
    let heads = p.heads + 2u * p.kv_heads;
    let index = (group.x + group.y * groups.x) * 64u + lane;
    if index >= p.t * heads * half / KV_PACK {
        return;
    }
    let j = index * KV_PACK % half;
    let head = (index * KV_PACK / half) % heads;
    let row = index * KV_PACK / (half * heads);
    let start = (row * heads + head) * p.d;
    let turn = row * (1u + half);
    let a = pair_of(start, turn, j);
    let b = pair_of(start, turn, j + KV_PACK - 1u);
    if head < p.heads {
        let to = (row * p.heads + head) * p.d + j;
        q[to] = a.turned.x;
        q[to + half] = a.turned.y;
        if KV_PACK == 2u {
            q[to + 1u] = b.turned.x;
            q[to + 1u + half] = b.turned.y;
        }
        return;
    }
    let page = turns[turn].x;
    if head < p.heads + p.kv_heads {
        let to = ((head - p.heads) * p.capacity + page) * p.page_stride + j;
        keys[to / KV_PACK] = kv_word(vec2<f32>(a.turned.x, b.turned.x));
        keys[(to + half) / KV_PACK] = kv_word(vec2<f32>(a.turned.y, b.turned.y));
    } else {
        let to = ((head - p.heads - p.kv_heads) * p.capacity + page) * p.page_stride + j;
        values[to / KV_PACK] = kv_word(vec2<f32>(a.plain.x, b.plain.x));
        values[(to + half) / KV_PACK] = kv_word(vec2<f32>(a.plain.y, b.plain.y));
    }
}
