// Attention of single rows over a cache, each row of a sequence of its own, split over the keys: a workgroup takes
// one head and one share of one row.
//
// q       [R, ...]             f32: head h of row r starts at q_offset + r * q_stride + h * d
// k, v    [G, capacity, d]     f32: head g of page i starts at (g * capacity + i) * d
// places  [R]                  vec2 u32: how far row r is past step.pos (or its number of keys), and its row of pages
// pages   [sequences, S]       u32: the page that key s of a sequence lies on
// bias    [2M+1, H]            f32 by key's minus row's position, clamped to -M ..= M = far (BIAS); bound to q otherwise
// step                         position
// out     [R, H, SPLITS, d + 2] f32: Σ weight * v, then the largest score and Σ weight of the share; with one share
//         [R, H, d]             the attention itself
//
// CAUSAL: row r sees keys 0 ..= step.pos + places[r].x; else the first places[r].x keys.
// Grid: x = query heads, y = SPLITS, z = rows. Fixed, whatever the number of keys: the plan is replayed.
// Workgroup memory: 4 * (2 * CHUNK + 2 * HEAD_DIM + WG) bytes.
// Limits: HEAD_DIM = d <= 256.
// Numerics: online softmax in f32; a share without keys leaves largest = -1e30 and weight 0.
// Why: one row has only H heads to spread; splitting the keys fills the GPU. attention_combine joins the shares.
// Pages let many sequences share a prompt's keys and change places without a copy; they are looked up once a chunk.
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

override SPLITS: u32 = 4u;
override CHUNK: u32 = 128u;
override HEAD_DIM: u32 = 64u;
override CAUSAL: bool = true;
override BIAS: bool = false;

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> places: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read> pages: array<u32>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<uniform> step: Step;
@group(0) @binding(7) var<storage, read_write> out: array<f32>;
@group(0) @binding(8) var<uniform> p: Params;

const HIDDEN: f32 = -1e30;

var<workgroup> q_row: array<f32, HEAD_DIM>;
var<workgroup> sums: array<f32, HEAD_DIM>;
var<workgroup> weights: array<f32, CHUNK>;
var<workgroup> starts: array<u32, CHUNK>;

fn bias_of(distance: i32, head: u32) -> f32 {
    if !BIAS {
        return 0.0;
    }
    let far = i32(p.far);
    return bias[u32(clamp(distance, -far, far) + far) * p.heads + head];
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
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
    for (var d = lane; d < HEAD_DIM; d += WG) {
        q_row[d] = p.scale * q[p.q_offset + row * p.q_stride + head * HEAD_DIM + d];
        sums[d] = 0.0;
    }
    workgroupBarrier();
    let share = (len + SPLITS - 1u) / SPLITS;
    let first = split * share;
    let keys = min(first + share, len);
    var largest = HIDDEN;
    var total = 0.0;
    for (var start = first; start < keys; start += CHUNK) {
        let end = min(start + CHUNK, keys);
        var chunk_max = HIDDEN;
        for (var s = start + lane; s < end; s += WG) {
            let at = (base + pages[page0 + s]) * HEAD_DIM;
            starts[s - start] = at;
            var score = 0.0;
            for (var d = 0u; d < HEAD_DIM; d++) {
                score += q_row[d] * k[at + d];
            }
            score += bias_of(i32(s) + 1 - i32(len), head);
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
        // The reduction's barriers also make the weights and starts visible to every lane.
        total = total * shrink + workgroup_sum(chunk_sum, lane);
        for (var d = lane; d < HEAD_DIM; d += WG) {
            var sum = sums[d] * shrink;
            for (var s = start; s < end; s++) {
                sum += weights[s - start] * v[starts[s - start] + d];
            }
            sums[d] = sum;
        }
        workgroupBarrier();
    }
    let share_index = (row * p.heads + head) * SPLITS + split;
    if SPLITS == 1u {
        for (var d = lane; d < HEAD_DIM; d += WG) {
            out[share_index * HEAD_DIM + d] = select(sums[d] / total, 0.0, total == 0.0);
        }
        return;
    }
    let to = share_index * (HEAD_DIM + 2u);
    for (var d = lane; d < HEAD_DIM; d += WG) {
        out[to + d] = sums[d];
    }
    if lane == 0u {
        out[to + HEAD_DIM] = largest;
        out[to + HEAD_DIM + 1u] = total;
    }
}
