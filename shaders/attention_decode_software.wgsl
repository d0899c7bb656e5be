// Attention of single rows over a cache, as attention_decode has it with one share, for software adapters with
// subgroups of exactly 8.
//
// q       [R, ...]             f32: head h of row r starts at q_offset + r * q_stride + h * d
// k, v    [G, capacity, d]     as shared/kv_wide_f32.wgsl or kv_wide_f16.wgsl have them: head g of page i starts at (g * capacity + i) * d
// places  [R]                  vec2 u32: how far row r is past step.pos (or its number of keys), and its row of pages
// pages   [sequences, S]       u32: the page that key s of a sequence lies on
// bias    [2M+1, H]            f32 by key's minus row's position, clamped to -M ..= M = far (BIAS); bound to q otherwise
// step                         position
// out     [R, H, d]            f32
//
// CAUSAL: row r sees keys 0 ..= step.pos + places[r].x; else the first places[r].x keys.
// Grid: x = query heads, y = 1, z = rows. Fixed, whatever the number of keys: the plan is replayed.
// Workgroup memory: none. One workgroup is one subgroup of 8.
// Limits: HEAD_DIM = d <= 256; d, q_offset and q_stride are multiples of 8.
// Numerics: online softmax in f32 over passes of 32 keys; a row without keys gives zeros.
// Why: a barrier costs more there than the arithmetic between two, and a load of 32 bytes what one of 4 times 16 does.
// Four keys a lane for the scores, eight channels a lane for the values, and what the lanes exchange is in registers.
struct Params {
    heads: u32,
    group: u32,
    capacity: u32,
    q_offset: u32,
    q_stride: u32,
    pages_offset: u32,
    pages_stride: u32,
    far: u32,
    scale: f32,
}

struct Step {
    pos: u32,
    len: u32,
    reserved: vec2<u32>,
}

override CAUSAL: bool = true;

@group(0) @binding(0) var<storage, read> q: array<vec4<u64>>;
@group(0) @binding(3) var<storage, read> places: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read> pages: array<u32>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<uniform> step: Step;
@group(0) @binding(7) var<storage, read_write> out: array<vec4<u64>>;
@group(0) @binding(8) var<uniform> p: Params;

// The products of a row of q with four keys. Lanes that have no key load none.
fn scores(q0: u32, at: vec4<u32>, any: bool, lane: u32) -> vec4<f32> {
    var score = vec4<f32>();
    for (var first = 0u; first < HEAD_DIM / 8u; first += 8u) {
        let count = min(8u, HEAD_DIM / 8u - first);
        let mine = scaled(eight_of(q[q0 + first + min(lane, count - 1u)]), p.scale);
        for (var c = 0u; c < count; c++) {
            let row = from_lane(mine, c);
            if any {
                let i = at + (first + c);
                score += dots(row, key_at(i.x), key_at(i.y), key_at(i.z), key_at(i.w));
            }
        }
    }
    return score;
}

// The values of the first `lanes` lanes' keys by weight: this lane's channels of group `first`.
fn values(sum: Eight, first: u32, weight: vec4<f32>, at: vec4<u32>, lanes: u32, lane: u32) -> Eight {
    var total = sum;
    for (var j = 0u; j < lanes; j++) {
        let w = subgroupShuffle(weight, j);
        let i = subgroupShuffle(at, j) + (first + lane);
        if first + lane < HEAD_DIM / 8u {
            total = weighed(total, w, value_at(i.x), value_at(i.y), value_at(i.z), value_at(i.w));
        }
    }
    return total;
}

fn put(to: u32, channel: u32, sum: Eight, inverse: f32) {
    if channel < HEAD_DIM / 8u {
        out[to + channel] = packed(scaled(sum, inverse));
    }
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let head = workgroup.x;
    let row = workgroup.z;
    let base = (head / p.group) * p.capacity;
    let place = places[row];
    let page0 = p.pages_offset + place.y * p.pages_stride;
    var len = place.x;
    if CAUSAL {
        len += step.pos + 1u;
    }
    let q0 = (p.q_offset + row * p.q_stride + head * HEAD_DIM) / 8u;
    var largest = HIDDEN;
    var total = 0.0;
    var sum0 = Eight();
    var sum1 = Eight();
    var sum2 = Eight();
    var sum3 = Eight();
    for (var start = 0u; start < len; start += 32u) {
        let s = start + 4u * lane + vec4<u32>(0u, 1u, 2u, 3u);
        // Keys past the end repeat the last; their weights are 0.
        let key = page0 + min(s, vec4<u32>(len - 1u));
        let at = (base + vec4<u32>(pages[key.x], pages[key.y], pages[key.z], pages[key.w])) * (HEAD_DIM / 8u);
        var score = scores(q0, at, s.x < len, lane);
        if BIAS {
            score += bias_of(vec4<i32>(s) + 1 - i32(len), head);
        }
        let seen = s < vec4<u32>(len);
        score = select(vec4<f32>(HIDDEN), score, seen);
        let new_max = max(largest, largest_of(score));
        let shrink = exp(largest - new_max);
        largest = new_max;
        let weight = select(vec4<f32>(), exp(score - largest), seen);
        total = total * shrink + sum_of(weight);
        let lanes = min(8u, (len - start + 3u) / 4u);
        sum0 = values(scaled(sum0, shrink), 0u, weight, at, lanes, lane);
        if HEAD_DIM > 64u {
            sum1 = values(scaled(sum1, shrink), 8u, weight, at, lanes, lane);
        }
        if HEAD_DIM > 128u {
            sum2 = values(scaled(sum2, shrink), 16u, weight, at, lanes, lane);
        }
        if HEAD_DIM > 192u {
            sum3 = values(scaled(sum3, shrink), 24u, weight, at, lanes, lane);
        }
    }
    let inverse = select(1.0 / total, 0.0, total == 0.0);
    let to = (row * p.heads + head) * (HEAD_DIM / 8u);
    put(to, lane, sum0, inverse);
    if HEAD_DIM > 64u {
        put(to, 8u + lane, sum1, inverse);
    }
    if HEAD_DIM > 128u {
        put(to, 16u + lane, sum2, inverse);
    }
    if HEAD_DIM > 192u {
        put(to, 24u + lane, sum3, inverse);
    }
}
