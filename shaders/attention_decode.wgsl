// Attention of one new row over a cache, split over the keys: each workgroup takes one head and one share.
//
// q       [1, H*d]             f32
// k, v    [G, capacity, d]     f32: head g of key s starts at (g * capacity + s) * d
// step                         number of keys
// partials [H, SPLITS, d + 2]   f32: Σ weight * v, then the largest score and Σ weight of the share
//
// Grid: x = query heads, y = SPLITS. Fixed, whatever the number of keys: the plan is replayed.
// Workgroup memory: 4 * (CHUNK + 2 * HEAD_DIM + WG) bytes.
// Limits: HEAD_DIM = d <= 256.
// Numerics: online softmax in f32; a share without keys leaves largest = -1e30 and weight 0.
// Why: one row has only H heads to spread; splitting the keys fills the GPU. attention_combine joins the shares.
struct Params {
    group: u32,
    capacity: u32,
    scale: f32,
}

struct Step {
    pos: u32,
    len: u32,
    reserved: vec2<u32>,
}

override SPLITS: u32 = 4u;
override CHUNK: u32 = 128u;
override HEAD_DIM: u32 = 64u;

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<uniform> step: Step;
@group(0) @binding(4) var<storage, read_write> partials: array<f32>;
@group(0) @binding(5) var<uniform> p: Params;

const HIDDEN: f32 = -1e30;

var<workgroup> q_row: array<f32, HEAD_DIM>;
var<workgroup> sums: array<f32, HEAD_DIM>;
var<workgroup> weights: array<f32, CHUNK>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let head = workgroup.x;
    let split = workgroup.y;
    let base = (head / p.group) * p.capacity * HEAD_DIM;
    for (var d = lane; d < HEAD_DIM; d += WG) {
        q_row[d] = p.scale * q[head * HEAD_DIM + d];
        sums[d] = 0.0;
    }
    workgroupBarrier();
    let share = (step.len + SPLITS - 1u) / SPLITS;
    let first = split * share;
    let keys = min(first + share, step.len);
    var largest = HIDDEN;
    var total = 0.0;
    for (var start = first; start < keys; start += CHUNK) {
        let end = min(start + CHUNK, keys);
        var chunk_max = HIDDEN;
        for (var s = start + lane; s < end; s += WG) {
            let at = base + s * HEAD_DIM;
            var score = 0.0;
            for (var d = 0u; d < HEAD_DIM; d++) {
                score += q_row[d] * k[at + d];
            }
            weights[s - start] = score;
            chunk_max = max(chunk_max, score);
        }
        let new_max = max(largest, workgroup_max(chunk_max, lane));
        let shrink = exp(largest - new_max);
        largest = new_max;
        var chunk_sum = 0.0;
        for (var s = start + lane; s < end; s += WG) {
            let weight = exp(weights[s - start] - largest);
            weights[s - start] = weight;
            chunk_sum += weight;
        }
        total = total * shrink + workgroup_sum(chunk_sum, lane);
        for (var d = lane; d < HEAD_DIM; d += WG) {
            var sum = sums[d] * shrink;
            for (var s = start; s < end; s++) {
                sum += weights[s - start] * v[base + s * HEAD_DIM + d];
            }
            sums[d] = sum;
        }
        workgroupBarrier();
    }
    let to = (head * SPLITS + split) * (HEAD_DIM + 2u);
    for (var d = lane; d < HEAD_DIM; d += WG) {
        partials[to + d] = sums[d];
    }
    if lane == 0u {
        partials[to + HEAD_DIM] = largest;
        partials[to + HEAD_DIM + 1u] = total;
    }
}
