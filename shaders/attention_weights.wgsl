// out[h, t, s] = softmax_s(scale * q[t, h] · k[s, h / group] + bias + mask): what attention_tile weighs values by.
//
// q, k, v, index, bias, step  as in attention_tile.wgsl; v is not read
// out [H, T, S]  f32; keys a row does not see have weight 0
//
// MODE: 0 all p.s keys, 1 those the mask shows, 2 causal over a cache: row t sees keys 0 ..= step.pos + t, 3 all p.s
// keys of a cache.
// Grid: x = rows, y = query heads, one workgroup each.
// Workgroup memory: 4 * WG bytes (shared/reduce.wgsl).
// Numerics: f32; the maximum is subtracted.
// Why: only for taps, so the simplest form: scores are written out, then normalised in place.
struct Params {
    t: u32,
    s: u32,
    group: u32,
    d: u32,
    q_offset: u32,
    q_stride: u32,
    k_offset: u32,
    k_row_stride: u32,
    k_head_stride: u32,
    index_offset: u32,
    heads: u32,
    far: u32,
    scale: f32,
}

struct Step {
    pos: u32,
    len: u32,
    reserved: vec2<u32>,
}

override MODE: u32 = 0u;
override BIAS: bool = false;

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read> index: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<uniform> step: Step;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
@group(0) @binding(7) var<uniform> p: Params;

const HIDDEN: f32 = -1e30;

fn visible(s: u32, t: u32) -> bool {
    if MODE == 1u {
        return index[p.index_offset + s] != 0u;
    }
    return MODE != 2u || s <= step.pos + t;
}

fn score_of(s: u32, t: u32, head: u32) -> f32 {
    var row = s;
    var distance = i32(s) - i32(t);
    if MODE >= 2u {
        row = index[p.index_offset + s];
        distance -= i32(step.pos);
    }
    let from_q = p.q_offset + t * p.q_stride + head * p.d;
    let from_k = p.k_offset + (head / p.group) * p.k_head_stride + row * p.k_row_stride;
    var score = 0.0;
    for (var i = from_q; i < from_q + p.d; i += 4u) {
        let four = quad_of(k[(from_k + i - from_q) / 4u]);
        score += dot(p.scale * vec4<f32>(q[i], q[i + 1u], q[i + 2u], q[i + 3u]), four);
    }
    if BIAS {
        let far = i32(p.far);
        score += bias[u32(clamp(distance, -far, far) + far) * p.heads + head];
    }
    return score;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t = workgroup.x;
    let head = workgroup.y;
    let to = (head * p.t + t) * p.s;
    var largest = HIDDEN;
    for (var s = lane; s < p.s; s += WG) {
        if visible(s, t) {
            let score = score_of(s, t, head);
            out[to + s] = score;
            largest = max(largest, score);
        }
    }
    largest = workgroup_max(largest, lane);
    var sum = 0.0;
    for (var s = lane; s < p.s; s += WG) {
        var weight = 0.0;
        if visible(s, t) {
            weight = exp(out[to + s] - largest);
        }
        out[to + s] = weight;
        sum += weight;
    }
    let total = workgroup_sum(sum, lane);
    for (var s = lane; s < p.s; s += WG) {
        out[to + s] = select(out[to + s] / total, 0.0, total == 0.0);
    }
}
