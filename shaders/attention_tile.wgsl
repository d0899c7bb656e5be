// out[t, h] = softmax_s(scale * q[t, h] · k[s, h / group] + bias + mask) v[s, h / group], four rows t per workgroup.
//
// q     [T, ...]  f32: head h of row t starts at q_offset + t * q_stride + h * d
// k, v  [S, ...]  f32: head g of key s starts at offset + row(s) * row_stride + g * head_stride
// index [S]       u32: MODE 1: 0 hides key s; MODE 2: row(s), the page that key s lies on; bound to q otherwise
// bias  [2M+1, H] f32 by key's minus row's position, which is clamped to -M ..= M = far (BIAS); bound to q otherwise
// step            position of row 0 and number of keys (MODE 2)
// out   [T, H*d]  f32
//
// MODE: 0 all p.s keys, 1 those the mask shows, 2 causal over a cache: row t sees keys 0 ..= step.pos + t.
// Grid: x = groups of 4 rows, y = query heads.
// Workgroup memory: 16 * (CHUNK + 2 * HEAD_DIM + WG) bytes.
// Limits: HEAD_DIM = d <= 256. A row that sees no key at all gives zeros.
// Numerics: online softmax in f32 over chunks of CHUNK keys; hidden keys have weight 0, never -inf.
// Why: a lane per key for the scores and a lane per channel for the values need no exchange but two reductions a
// chunk; the four rows are one vec4, so every key and value is loaded once for four dot products, and four keys or
// channels a lane share each read of workgroup memory (1.7 times as fast on a software adapter).
struct Params {
    t: u32,
    s: u32,
    group: u32,
    q_offset: u32,
    q_stride: u32,
    k_offset: u32,
    k_row_stride: u32,
    k_head_stride: u32,
    v_offset: u32,
    v_row_stride: u32,
    v_head_stride: u32,
    out_stride: u32,
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

override WG: u32 = 64u;
override CHUNK: u32 = 320u;
override HEAD_DIM: u32 = 64u;
override MODE: u32 = 0u;
override BIAS: bool = false;

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> index: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<uniform> step: Step;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
@group(0) @binding(7) var<uniform> p: Params;

const HIDDEN: f32 = -1e30;

var<workgroup> q_rows: array<vec4<f32>, HEAD_DIM>;
var<workgroup> sums: array<vec4<f32>, HEAD_DIM>;
var<workgroup> weights: array<vec4<f32>, CHUNK>;
var<workgroup> reduction: array<vec4<f32>, WG>;

fn rows_max(value: vec4<f32>, lane: u32) -> vec4<f32> {
    reduction[lane] = value;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if lane < half {
            reduction[lane] = max(reduction[lane], reduction[lane + half]);
        }
        workgroupBarrier();
    }
    let largest = reduction[0];
    workgroupBarrier();
    return largest;
}

fn rows_sum(value: vec4<f32>, lane: u32) -> vec4<f32> {
    reduction[lane] = value;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if lane < half {
            reduction[lane] += reduction[lane + half];
        }
        workgroupBarrier();
    }
    let total = reduction[0];
    workgroupBarrier();
    return total;
}

// Which of the four rows from t0 on see key s.
fn visible(s: u32, t0: u32) -> vec4<bool> {
    if MODE == 1u {
        return vec4<bool>(index[p.index_offset + s] != 0u);
    }
    if MODE == 2u {
        return vec4<u32>(s) <= vec4<u32>(step.pos + t0) + vec4<u32>(0u, 1u, 2u, 3u);
    }
    return vec4<bool>(true);
}

// Which row of k and v holds key s.
fn row_of(s: u32) -> u32 {
    if MODE == 2u {
        return index[p.index_offset + s];
    }
    return s;
}

fn bias_of(distance: i32, head: u32) -> f32 {
    let far = i32(p.far);
    return bias[u32(clamp(distance, -far, far) + far) * p.heads + head];
}

// The bias of key s for the four rows from t0 on.
fn biases(s: u32, t0: u32, head: u32) -> vec4<f32> {
    if !BIAS {
        return vec4<f32>();
    }
    var distance = i32(s) - i32(t0);
    if MODE == 2u {
        distance -= i32(step.pos);
    }
    return vec4<f32>(
        bias_of(distance, head),
        bias_of(distance - 1, head),
        bias_of(distance - 2, head),
        bias_of(distance - 3, head),
    );
}

// Puts down the scores of key s, hidden where a row does not see it. Gives them back for the maximum.
fn keep(score: vec4<f32>, s: u32, start: u32, end: u32, t0: u32, head: u32) -> vec4<f32> {
    if s >= end {
        return vec4<f32>(HIDDEN);
    }
    let seen = select(vec4<f32>(HIDDEN), score + biases(s, t0, head), visible(s, t0));
    weights[s - start] = seen;
    return seen;
}

fn put(t: u32, column: u32, value: f32) {
    if t < p.t {
        out[t * p.out_stride + column] = value;
    }
}

fn add_channel(d: u32, shrink: vec4<f32>, sum: vec4<f32>) {
    if d < HEAD_DIM {
        sums[d] = sums[d] * shrink + sum;
    }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t0 = workgroup.x * 4u;
    let head = workgroup.y;
    let kv_head = head / p.group;
    let last = p.t - 1u;
    for (var d = lane; d < HEAD_DIM; d += WG) {
        let at = p.q_offset + head * HEAD_DIM + d;
        q_rows[d] = p.scale * vec4<f32>(
            q[at + t0 * p.q_stride],
            q[at + min(t0 + 1u, last) * p.q_stride],
            q[at + min(t0 + 2u, last) * p.q_stride],
            q[at + min(t0 + 3u, last) * p.q_stride],
        );
        sums[d] = vec4<f32>();
    }
    workgroupBarrier();
    var keys = p.s;
    if MODE == 2u {
        keys = min(step.len, step.pos + t0 + 4u);
    }
    var largest = vec4<f32>(HIDDEN);
    var total = vec4<f32>();
    for (var start = 0u; start < keys; start += CHUNK) {
        let end = min(start + CHUNK, keys);
        var chunk_max = vec4<f32>(HIDDEN);
        // Four keys at a time: each read of the queries serves sixteen products. Keys past the end repeat the last.
        for (var s0 = start + lane; s0 < end; s0 += 4u * WG) {
            let s = vec4<u32>(s0, s0 + WG, s0 + 2u * WG, s0 + 3u * WG);
            let key = min(s, vec4<u32>(end - 1u));
            let row = vec4<u32>(row_of(key.x), row_of(key.y), row_of(key.z), row_of(key.w));
            let at = p.k_offset + kv_head * p.k_head_stride + row * p.k_row_stride;
            var score0 = vec4<f32>();
            var score1 = vec4<f32>();
            var score2 = vec4<f32>();
            var score3 = vec4<f32>();
            for (var d = 0u; d < HEAD_DIM; d++) {
                let rows = q_rows[d];
                score0 += rows * k[at.x + d];
                score1 += rows * k[at.y + d];
                score2 += rows * k[at.z + d];
                score3 += rows * k[at.w + d];
            }
            chunk_max = max(chunk_max, keep(score0, s.x, start, end, t0, head));
            chunk_max = max(chunk_max, keep(score1, s.y, start, end, t0, head));
            chunk_max = max(chunk_max, keep(score2, s.z, start, end, t0, head));
            chunk_max = max(chunk_max, keep(score3, s.w, start, end, t0, head));
        }
        let new_max = max(largest, rows_max(chunk_max, lane));
        let shrink = exp(largest - new_max);
        largest = new_max;
        var chunk_sum = vec4<f32>();
        for (var s = start + lane; s < end; s += WG) {
            let score = weights[s - start];
            let weight = select(exp(score - largest), vec4<f32>(), score == vec4<f32>(HIDDEN));
            weights[s - start] = weight;
            chunk_sum += weight;
        }
        // The reduction's barriers also make the weights visible to every lane.
        total = total * shrink + rows_sum(chunk_sum, lane);
        // Four channels at a time, for the same reason; those past the end repeat the last and are not kept.
        for (var d0 = lane; d0 < HEAD_DIM; d0 += 4u * WG) {
            let d = vec4<u32>(d0, d0 + WG, d0 + 2u * WG, d0 + 3u * WG);
            let at = p.v_offset + kv_head * p.v_head_stride + min(d, vec4<u32>(HEAD_DIM - 1u));
            var sum0 = vec4<f32>();
            var sum1 = vec4<f32>();
            var sum2 = vec4<f32>();
            var sum3 = vec4<f32>();
            for (var s = start; s < end; s++) {
                let rows = weights[s - start];
                let row = at + row_of(s) * p.v_row_stride;
                sum0 += rows * v[row.x];
                sum1 += rows * v[row.y];
                sum2 += rows * v[row.z];
                sum3 += rows * v[row.w];
            }
            add_channel(d.x, shrink, sum0);
            add_channel(d.y, shrink, sum1);
            add_channel(d.z, shrink, sum2);
            add_channel(d.w, shrink, sum3);
        }
        workgroupBarrier();
    }
    let inverse = select(1.0 / total, vec4<f32>(), total == vec4<f32>());
    for (var d = lane; d < HEAD_DIM; d += WG) {
        let value = sums[d] * inverse;
        let column = head * HEAD_DIM + d;
        put(t0, column, value.x);
        put(t0 + 1u, column, value.y);
        put(t0 + 2u, column, value.z);
        put(t0 + 3u, column, value.w);
    }
}
