// out[t, h] = softmax_s(scale * q[t, h] · k[s, h / group] + bias + mask) v[s, h / group], sixteen rows t per workgroup,
// as attention_tile has it, for software adapters with subgroups of exactly 8.
//
// q     [T, ...]  f32: head h of row t starts at q_offset + t * q_stride + h * d
// k, v  [S, ...]  f32: head g of key s starts at offset + row(s) * row_stride + g * head_stride
// index [S]       u32: MODE 1: 0 hides key s; MODE 2: row(s), the page that key s lies on; bound to q otherwise
// bias  [2M+1, H] f32 by key's minus row's position, which is clamped to -M ..= M = far (BIAS); bound to q otherwise
// segments        as shared/segments.wgsl has them (MODE 0 and 2)
// step            position of row 0 and number of keys (MODE 2)
// out   [T, H*d]  f32
//
// MODE: as attention_tile.wgsl has it.
// Grid: x = groups of 16 rows, y = query heads, z = segments.
// Workgroup memory: none. One workgroup is one subgroup of 8.
// Limits: HEAD_DIM = d <= 256; d and all offsets and strides of q, k, v and out are multiples of 8. A row that sees no
// key at all gives zeros.
// Numerics: online softmax in f32 over passes of 32 keys; hidden keys have weight 0, never -inf.
// Why: a barrier costs more there than the arithmetic between two, and loads more than the rest. Sixteen rows share
// each: four keys a lane for the scores, eight channels a lane for the values, rows and weights from lane to lane.
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

override MODE: u32 = 0u;

@group(0) @binding(0) var<storage, read> q: array<vec4<u64>>;
@group(0) @binding(3) var<storage, read> index: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<uniform> step: Step;
@group(0) @binding(7) var<storage, read_write> out: array<vec4<u64>>;
@group(0) @binding(8) var<uniform> p: Params;

const ROWS: u32 = 16u;

// What is done to every row is written out, four rows to a function: arrays that loops run over stay in memory there,
// even where the loops have constant ends, and it takes 1.5 to 2.2 times as long.
var<private> weights: array<vec4<f32>, ROWS>;
var<private> largest: array<f32, ROWS>;
var<private> total: array<f32, ROWS>;
var<private> shrink: array<f32, ROWS>;

fn index_of(key: vec4<u32>) -> vec4<u32> {
    let i = p.index_offset + key;
    return vec4<u32>(index[i.x], index[i.y], index[i.z], index[i.w]);
}

// The products of two rows, eight apart, with this lane's four keys.
fn add_pair(r: u32, a: Eight, b: Eight, k0: Eight, k1: Eight, k2: Eight, k3: Eight) {
    weights[r] += dots(from_lane(a, r), k0, k1, k2, k3);
    weights[r + 8u] += dots(from_lane(b, r), k0, k1, k2, k3);
}

// The products of all rows with this lane's four keys. Lanes that have no key load none.
fn add_scores(qa: u32, qb: u32, at: vec4<u32>, any: bool) {
    weights = array<vec4<f32>, ROWS>();
    for (var c = 0u; c < HEAD_DIM / 8u; c++) {
        let a = eight_of(q[qa + c]);
        let b = eight_of(q[qb + c]);
        var k0 = Eight();
        var k1 = Eight();
        var k2 = Eight();
        var k3 = Eight();
        if any {
            let i = at + c;
            k0 = key_at(i.x);
            k1 = key_at(i.y);
            k2 = key_at(i.z);
            k3 = key_at(i.w);
        }
        add_pair(0u, a, b, k0, k1, k2, k3);
        add_pair(1u, a, b, k0, k1, k2, k3);
        add_pair(2u, a, b, k0, k1, k2, k3);
        add_pair(3u, a, b, k0, k1, k2, k3);
        add_pair(4u, a, b, k0, k1, k2, k3);
        add_pair(5u, a, b, k0, k1, k2, k3);
        add_pair(6u, a, b, k0, k1, k2, k3);
        add_pair(7u, a, b, k0, k1, k2, k3);
    }
}

// Fits the sums of four rows to their new largest scores.
fn shrink_four(sums: ptr<function, array<Eight, ROWS>>, r: u32) {
    (*sums)[r] = scaled((*sums)[r], shrink[r]);
    (*sums)[r + 1u] = scaled((*sums)[r + 1u], shrink[r + 1u]);
    (*sums)[r + 2u] = scaled((*sums)[r + 2u], shrink[r + 2u]);
    (*sums)[r + 3u] = scaled((*sums)[r + 3u], shrink[r + 3u]);
}

// Adds the values of lane j's keys by weight, for four rows.
fn weigh_four(sums: ptr<function, array<Eight, ROWS>>, r: u32, j: u32, v0: Eight, v1: Eight, v2: Eight, v3: Eight) {
    (*sums)[r] = weighed((*sums)[r], subgroupShuffle(weights[r], j), v0, v1, v2, v3);
    (*sums)[r + 1u] = weighed((*sums)[r + 1u], subgroupShuffle(weights[r + 1u], j), v0, v1, v2, v3);
    (*sums)[r + 2u] = weighed((*sums)[r + 2u], subgroupShuffle(weights[r + 2u], j), v0, v1, v2, v3);
    (*sums)[r + 3u] = weighed((*sums)[r + 3u], subgroupShuffle(weights[r + 3u], j), v0, v1, v2, v3);
}

// Adds the values by weight, for every row this lane's eight channels of those from `first` on, if the head has any.
fn add_values(sums: ptr<function, array<Eight, ROWS>>, first: u32, lane: u32, at: vec4<u32>, lanes: u32) {
    if first >= HEAD_DIM {
        return;
    }
    let c = first / 8u + lane;
    shrink_four(sums, 0u);
    shrink_four(sums, 4u);
    shrink_four(sums, 8u);
    shrink_four(sums, 12u);
    for (var j = 0u; j < lanes; j++) {
        let i = subgroupShuffle(at, j) + c;
        var v0 = Eight();
        var v1 = Eight();
        var v2 = Eight();
        var v3 = Eight();
        if c < HEAD_DIM / 8u {
            v0 = value_at(i.x);
            v1 = value_at(i.y);
            v2 = value_at(i.z);
            v3 = value_at(i.w);
        }
        weigh_four(sums, 0u, j, v0, v1, v2, v3);
        weigh_four(sums, 4u, j, v0, v1, v2, v3);
        weigh_four(sums, 8u, j, v0, v1, v2, v3);
        weigh_four(sums, 12u, j, v0, v1, v2, v3);
    }
}

fn put_row(sums: ptr<function, array<Eight, ROWS>>, r: u32, t: u32, head: u32, c: u32) {
    if t + r < own.rows.count && c < HEAD_DIM / 8u {
        let inverse = select(1.0 / total[r], 0.0, total[r] == 0.0);
        out[(row_in(own.rows, t + r) * p.out_stride + head * HEAD_DIM) / 8u + c] = packed(scaled((*sums)[r], inverse));
    }
}

fn put_four(sums: ptr<function, array<Eight, ROWS>>, r: u32, t: u32, head: u32, c: u32) {
    put_row(sums, r, t, head, c);
    put_row(sums, r + 1u, t, head, c);
    put_row(sums, r + 2u, t, head, c);
    put_row(sums, r + 3u, t, head, c);
}

fn put(sums: ptr<function, array<Eight, ROWS>>, t: u32, head: u32, first: u32, lane: u32) {
    if first >= HEAD_DIM {
        return;
    }
    let c = first / 8u + lane;
    put_four(sums, 0u, t, head, c);
    put_four(sums, 4u, t, head, c);
    put_four(sums, 8u, t, head, c);
    put_four(sums, 12u, t, head, c);
}

// Makes weights of row r's products; d is how far this lane's keys are from the row.
fn weights_of(r: u32, head: u32, d: vec4<i32>, shown: vec4<bool>) {
    var seen = shown;
    if MODE == 2u {
        seen = seen & (d <= vec4<i32>());
    }
    var score = p.scale * weights[r];
    if BIAS {
        score += bias_of(d, head);
    }
    score = select(vec4<f32>(HIDDEN), score, seen);
    let new_max = max(largest[r], largest_of(score));
    shrink[r] = exp(largest[r] - new_max);
    largest[r] = new_max;
    weights[r] = select(vec4<f32>(), exp(score - new_max), seen);
    total[r] = total[r] * shrink[r] + sum_of(weights[r]);
}

fn weights_of_four(r: u32, head: u32, d: vec4<i32>, shown: vec4<bool>) {
    weights_of(r, head, d, shown);
    weights_of(r + 1u, head, d - 1, shown);
    weights_of(r + 2u, head, d - 2, shown);
    weights_of(r + 3u, head, d - 3, shown);
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let t0 = workgroup.x * ROWS;
    let head = workgroup.y;
    own = segment(workgroup.z);
    if t0 >= own.rows.count {
        return;
    }
    let last = own.rows.count - 1u; // Rows past it repeat it; they are not stored.
    let qa = (p.q_offset + row_in(own.rows, min(t0 + lane, last)) * p.q_stride + head * HEAD_DIM) / 8u;
    let qb = (p.q_offset + row_in(own.rows, min(t0 + 8u + lane, last)) * p.q_stride + head * HEAD_DIM) / 8u;
    let k0 = (p.k_offset + (head / p.group) * p.k_head_stride) / 8u;
    let v0 = (p.v_offset + (head / p.group) * p.v_head_stride) / 8u;
    let before = select(step.pos, 0u, SEGMENTED);
    let there = select(step.len, own.keys.count, SEGMENTED);
    let keys = select(own.keys.count, min(there, before + t0 + ROWS), MODE == 2u);
    let position = i32(select(t0, before + t0, MODE == 2u));
    var sum0 = array<Eight, ROWS>();
    var sum1 = array<Eight, ROWS>();
    var sum2 = array<Eight, ROWS>();
    var sum3 = array<Eight, ROWS>();
    largest = array<f32, ROWS>(HIDDEN, HIDDEN, HIDDEN, HIDDEN, HIDDEN, HIDDEN, HIDDEN, HIDDEN,
        HIDDEN, HIDDEN, HIDDEN, HIDDEN, HIDDEN, HIDDEN, HIDDEN, HIDDEN);
    total = array<f32, ROWS>();
    for (var start = 0u; start < keys; start += 32u) {
        let s = start + 4u * lane + vec4<u32>(0u, 1u, 2u, 3u);
        // Keys past the end repeat the last; their weights are 0.
        let key = min(s, vec4<u32>(keys - 1u));
        var row = rows_in(own.keys, key);
        var shown = s < vec4<u32>(keys);
        if MODE == 1u {
            shown = shown & (index_of(key) != vec4<u32>());
        }
        if MODE == 2u {
            row = index_of(own.keys.first + key);
        }
        add_scores(qa, qb, k0 + row * (p.k_row_stride / 8u), s.x < keys);
        let d = vec4<i32>(s) - position;
        weights_of_four(0u, head, d, shown);
        weights_of_four(4u, head, d - 4, shown);
        weights_of_four(8u, head, d - 8, shown);
        weights_of_four(12u, head, d - 12, shown);
        let at = v0 + row * (p.v_row_stride / 8u);
        let lanes = min(8u, (keys - start + 3u) / 4u);
        add_values(&sum0, 0u, lane, at, lanes);
        add_values(&sum1, 64u, lane, at, lanes);
        add_values(&sum2, 128u, lane, at, lanes);
        add_values(&sum3, 192u, lane, at, lanes);
    }
    put(&sum0, t0, head, 0u, lane);
    put(&sum1, t0, head, 64u, lane);
    put(&sum2, t0, head, 128u, lane);
    put(&sum3, t0, head, 192u, lane);
}
