// Attention of single rows over a cache, each row of a sequence of its own, split over the keys: a workgroup takes
// one head and one share of one row.
//
// q       [R, ...]             f32: head h of row r starts at q_offset + r * q_stride + h * d
// k, v    [G, capacity, d]     as shared/kv_f32.wgsl or kv_f16.wgsl have them: head g of page i starts at (g * capacity + i) * d
// places  [R]                  vec2 u32: how far row r is past step.pos (or its number of keys), and its row of pages
// pages   [sequences, S]       u32: the page that key s of a sequence lies on
// bias    [2M+1, H]            f32 by key's minus row's position, clamped to -M ..= M = far (BIAS); bound to q otherwise
// step                         position
// out     [R, H, d]            f32
//
// CAUSAL: row r sees keys 0 ..= step.pos + places[r].x; else the first places[r].x keys.
// Grid: x = query heads, y = SPLITS, z = rows. Fixed, whatever the number of keys: the plan is replayed.
// Workgroup memory: 2,752 bytes.
// Limits: HEAD_DIM = d <= 256; d, q_offset and q_stride are multiples of 4.
// Numerics: online softmax in f32 over chunks of 64 keys; a share without keys leaves largest = -1e30 and weight 0, a row
// without keys gives zeros.
// Why: one row has only H heads to spread; splitting the keys fills the GPU (shared/attention_shares.wgsl), where
// workgroups can tell each other (else shared/attention_whole.wgsl). Keys and values are read once and are all that is
// read, so it is about loads: 16 bytes each, neighbouring invocations side by side, many in flight. Scores: 8
// invocations a key read 128 bytes in a row, and 4 keys each make 16 loads in flight for d = 128; 16 such groups are a
// chunk. Values: d / 4 invocations read a row together, as many rows at a time as fit, 8 loads in flight each; what they
// sum up is joined once, after the last chunk. Every invocation finds the largest score and the weights it needs itself,
// which takes less time than one more barrier.
// Pages let many sequences share a prompt's keys and change places without a copy; a chunk's are looked up while the
// chunk before it is at work.
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

override HEAD_DIM: u32 = 64u;
override CAUSAL: bool = true;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> places: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read> pages: array<u32>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<uniform> step: Step;

override QUADS: u32 = HEAD_DIM / 4u;    // elements of 4 channels

const CHUNK: u32 = 64u;
const FOURS: u32 = 16u;     // keys of a chunk, four by four
const STRIDE: u32 = 17u;    // elements between the parts of a score: 8 side by side lie in different banks

// Parts of scores [8, 16 and one of padding], later the sums of values, teams of QUADS.
var<workgroup> parts: array<vec4<f32>, 136>;
var<workgroup> scores: array<vec4<f32>, FOURS>;
var<workgroup> starts: array<vec4<u32>, FOURS>;
var<workgroup> totals: array<f32, FOURS>;

// The pages of keys s ..= s + 3; those past the end of the share repeat its last.
fn pages_of(page0: u32, s: u32, end: u32) -> vec4<u32> {
    let i = page0 + min(s + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(max(end, 1u) - 1u));
    return vec4<u32>(pages[i.x], pages[i.y], pages[i.z], pages[i.w]);
}

// This invocation's part of the products of the row with four keys: every eighth quad of channels.
fn products(q0: u32, at: vec4<u32>, part: u32) -> vec4<f32> {
    var sums = vec4<f32>();
    for (var step = 0u; step < (QUADS + 7u) / 8u; step++) {
        let first = 8u * step + part;
        // Quads past the head's end repeat the last, times 0, so that the loop has one length and no branch.
        let c = min(first, QUADS - 1u);
        let a = select(vec4<f32>(), q[q0 + c], first < QUADS);
        let i = at + c;
        sums += vec4<f32>(
            dot(a, quad_of(k[i.x])), dot(a, quad_of(k[i.y])), dot(a, quad_of(k[i.z])), dot(a, quad_of(k[i.w])),
        );
    }
    return sums;
}

@compute @workgroup_size(128)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let head = workgroup.x;
    let split = workgroup.y;
    let row = workgroup.z;
    let base = (head / p.group) * p.capacity;
    let place = places[row];
    let page0 = p.pages_offset + place.y * p.pages_stride;
    var len = place.x;
    if CAUSAL {
        len += step.pos + 1u;
    }
    let q0 = (p.q_offset + row * p.q_stride) / 4u + head * QUADS;
    let share = (len + SPLITS - 1u) / SPLITS;
    let first = split * share;
    let end = min(first + share, len);
    // For the scores: which four keys of a chunk, and which quads of their channels.
    let four = lane / 8u;
    let part = lane % 8u;
    // For the values: which quad of channels, and which fours of keys: every one of `teams`.
    let quad = lane % QUADS;
    let team = lane / QUADS;
    let teams = min(128u / QUADS, FOURS);
    var largest = HIDDEN;
    var total = 0.0;
    var sum = vec4<f32>();
    var page = pages_of(page0, first + 4u * four, end);
    for (var start = first; start < end; start += CHUNK) {
        let s = start + 4u * four + vec4<u32>(0u, 1u, 2u, 3u);
        let at = (base + page) * QUADS;
        page = pages_of(page0, s.x + CHUNK, end);
        var score = vec4<f32>();
        if s.x < end {
            score = products(q0, at, part);
        }
        parts[part * STRIDE + four] = score;
        workgroupBarrier();
        if part == 0u {
            for (var i = 1u; i < 8u; i++) {
                score += parts[i * STRIDE + four];
            }
            score *= p.scale;
            if BIAS {
                score += bias_of(vec4<i32>(s) + 1 - i32(len), head);
            }
            scores[four] = select(vec4<f32>(HIDDEN), score, s < vec4<u32>(end));
            starts[four] = at;
        }
        workgroupBarrier();
        var most = scores[0];
        for (var i = 1u; i < FOURS; i++) {
            most = max(most, scores[i]);
        }
        let new_max = max(largest, max(max(most.x, most.y), max(most.z, most.w)));
        let shrink = exp(largest - new_max);
        largest = new_max;
        total *= shrink;
        sum *= shrink;
        let fours = (min(end - start, CHUNK) + 3u) / 4u;
        if team < teams {
            // Two fours of keys at a time; a second one past the end repeats the last with weight 0.
            for (var i = team; i < fours; i += 2u * teams) {
                let j = min(i + teams, fours - 1u);
                let w = exp(scores[i] - largest);
                let x = select(vec4<f32>(), exp(scores[j] - largest), i + teams < fours);
                let a = starts[i] + quad;
                let b = starts[j] + quad;
                let v0 = quad_of(v[a.x]);
                let v1 = quad_of(v[a.y]);
                let v2 = quad_of(v[a.z]);
                let v3 = quad_of(v[a.w]);
                let v4 = quad_of(v[b.x]);
                let v5 = quad_of(v[b.y]);
                let v6 = quad_of(v[b.z]);
                let v7 = quad_of(v[b.w]);
                sum += w.x * v0 + w.y * v1 + w.z * v2 + w.w * v3;
                sum += x.x * v4 + x.y * v5 + x.z * v6 + x.w * v7;
                total += dot(w + x, vec4<f32>(1.0));
            }
        }
        // No barrier here: what the next chunk writes before its first one, nobody reads any more.
    }
    if team < teams {
        parts[lane] = sum;
        if quad == 0u {
            totals[team] = total;
        }
    }
    workgroupBarrier();
    total = totals[0];
    for (var i = 1u; i < teams; i++) {
        total += totals[i];
    }
    if lane < QUADS {
        for (var i = 1u; i < teams; i++) {
            sum += parts[i * QUADS + lane];
        }
    }
    finish(row * p.heads + head, groups, split, lane, sum, largest, total);
}
