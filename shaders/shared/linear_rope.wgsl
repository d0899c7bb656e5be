// The interface of linear_vec where its outputs are queries, keys and values: rotary position embedding, half-split, as
// rope.wgsl says, and k and v into the cache. In the place of linear.wgsl; without bias, activation or parts of W.
//
// x      [m, k]                f32; x and w are declared in operands.wgsl
// w      [(H + 2G) * d, k]     packed as weights_f16.wgsl, weights_q8.wgsl or weights_q4.wgsl say
// scales [(H + 2G) * d, ...]   as for linear.wgsl
// gain   [k]                   as for linear.wgsl
// turns  [m, 1 + d / 2]        vec2 u32, from turns.wgsl: the row's page, then bits of cos θ and sin θ
// q      [m, H * d]            f32, rotated
// keys   [G, capacity, d]      words of shared/cache.wgsl, rotated
// values [G, capacity, d]      as the keys
//
// Channels j and j + d/2 turn together, so a workgroup has to make both: outputs n .. n + 4 of linear_vec are channels j,
// j + 1, j + d/2 and j + 1 + d/2 of a head.
// Limits: those of linear.wgsl; d % 4 == 0; pages are below capacity.
struct Params {
    m: u32,
    n: u32,
    k: u32,
    x_offset: u32,
    eps: f32,
    heads: u32,
    kv_heads: u32,
    d: u32,
    capacity: u32,
}

@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> gain: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> turns: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read_write> q: array<f32>;
@group(0) @binding(6) var<storage, read_write> keys: array<u32>;
@group(0) @binding(7) var<storage, read_write> values: array<u32>;
@group(0) @binding(8) var<uniform> p: Params;

// The row of w that output n is made with.
fn weight_row(n: u32) -> u32 {
    let at = min(n, p.n - 1u);
    let channel = at % p.d;
    let j = 2u * (channel / 4u) + channel % 2u;
    return at - channel + j + ((channel % 4u) / 2u) * (p.d / 2u);
}

// (first, second) turned by the angle of channel j of a row.
fn turned(row: u32, j: u32, first: f32, second: f32) -> vec2<f32> {
    let angle = bitcast<vec2<f32>>(turns[row * (1u + p.d / 2u) + 1u + j]);
    return vec2<f32>(first * angle.x - second * angle.y, second * angle.x + first * angle.y);
}

// Finishes outputs n0 .. n0 + 4 of row `row`, leaving out what lies outside.
fn store4(row: u32, n0: u32, sums: vec4<f32>) {
    if row >= p.m || n0 >= p.n {
        return;
    }
    let half = p.d / 2u;
    let head = n0 / p.d;
    let j = (n0 % p.d) / 2u;
    if head >= p.heads + p.kv_heads {
        let to = ((head - p.heads - p.kv_heads) * p.capacity + turns[row * (1u + half)].x) * p.d + j;
        values[to / KV_PACK] = kv_word(sums.xy);
        values[(to + half) / KV_PACK] = kv_word(sums.zw);
        if KV_PACK == 1u {
            values[to + 1u] = kv_word(sums.yy);
            values[to + half + 1u] = kv_word(sums.ww);
        }
        return;
    }
    let a = turned(row, j, sums.x, sums.z);
    let b = turned(row, j + 1u, sums.y, sums.w);
    if head < p.heads {
        let to = (row * p.heads + head) * p.d + j;
        q[to] = a.x;
        q[to + 1u] = b.x;
        q[to + half] = a.y;
        q[to + half + 1u] = b.y;
    } else {
        let to = ((head - p.heads) * p.capacity + turns[row * (1u + half)].x) * p.d + j;
        keys[to / KV_PACK] = kv_word(vec2<f32>(a.x, b.x));
        keys[(to + half) / KV_PACK] = kv_word(vec2<f32>(a.y, b.y));
        if KV_PACK == 1u {
            keys[to + 1u] = kv_word(vec2<f32>(b.x));
            keys[to + half + 1u] = kv_word(vec2<f32>(b.y));
        }
    }
}
