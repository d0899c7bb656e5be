// out[t, h] = softmax_s(scale * q[t, h] · k[s, h / group] + bias + mask) v[s, h / group], 32 rows t per workgroup, on adapters
// whose subgroups multiply matrices.
//
// Bindings, MODE: those of attention_tile.wgsl; with HALVED out is f16 as shared/halves.wgsl says.
// Grid: x = groups of 32 rows, y = query heads, z = segments.
// Workgroup memory: 31,888 bytes with d = 128, 27,280 with 88 and matrices of 16 x 16; 19,088 and 16,784 of 8 x 8.
// WG is four subgroups; subgroups are of one size, a multiple of 8, all full.
// Limits: HEAD_DIM = d <= 128; those of attention_tile.wgsl. A row that sees no key at all gives zeros.
// Numerics: scale * q, k, v and weights are rounded to f16 and kept within its range; scores, softmax and sums in f32. Weights
// are relative to a score that is at most 8 below the largest so far, so they are at most e^8, and sums are scaled anew
// only where scores have grown by more.
// Why: each subgroup makes 16 rows of half of a step's scores, then of half of the channels, in matrices of
// shared/attention_matrix16.wgsl or attention_matrix8.wgsl. In between scores pass through workgroup memory, where lanes of
// one subgroup share a row. k and v are loaded a step's half ahead, four keys to an invocation, so that v can lie by
// channel: all matrices are read along rows. Tile rows are padded by 8 halves, to begin in different banks.
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

override HEAD_DIM: u32 = 64u;
override MODE: u32 = 0u;
override HALVED: bool = false;
override WG: u32 = 128u;    // four subgroups

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> index: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<uniform> step: Step;
@group(0) @binding(7) var<storage, read_write> out: array<vec2<u32>>;
@group(0) @binding(8) var<uniform> p: Params;

// Places and strides in workgroup memory count fours.
override QUADS: u32 = HEAD_DIM / 4u;
override WIDE: u32 = (HEAD_DIM + 31u) / 32u * 8u;       // quads of channels, as wide as two subgroups' matrices
override STRIDE: u32 = WIDE + 2u;                       // between rows of q and k
override BLOCKS: u32 = WIDE / 8u;                       // of 16 channels, of each of two subgroups
override DEEP: u32 = 4u * WIDE / EDGE;                  // matrices across all channels
override LANES: u32 = WG / 4u;
override SHARED_BY: u32 = LANES / 8u;                   // lanes that share a row of scores
override ACROSS: u32 = 4u * WG / KEYS;                  // invocations that load quads of the same four keys
override TIMES: u32 = (WIDE + ACROSS - 1u) / ACROSS;    // quads of each key that one of them loads
override TILE: u32 = max(max(ROWS, KEYS) * STRIDE, 4u * WIDE * KEY_STRIDE);

const ROWS: u32 = 32u;
const BLOCK: u32 = 16u;                         // rows of a subgroup
const ACROSS_BLOCK: u32 = BLOCK / EDGE;         // matrices
const KEY_STRIDE: u32 = KEYS / 4u + 2u;         // between channels of v, and rows of weights
const SCORE_STRIDE: u32 = KEYS / 4u + 1u;       // between rows of scores
const WEIGHTS: u32 = ROWS * KEY_STRIDE;
const SUMS: u32 = ROWS * SCORE_STRIDE;
const STRIP: u32 = SUMS / 4u;                   // of a subgroup: a block of 16 x 16 and more
const SLACK: f32 = 8.0;
const LOWEST: f32 = -1e29;                      // above the score of a hidden key, below others

var<workgroup> factors: array<f32, ROWS>;
var<workgroup> grown: u32;

// The scores of keys s .. s + 4 for a row at `position`; HIDDEN where it does not see one.
fn score_of(product: vec4<f32>, s: u32, keys: u32, position: u32, head: u32) -> vec4<f32> {
    let key = s + vec4<u32>(0u, 1u, 2u, 3u);
    var seen = key < vec4<u32>(keys);
    if MODE == 1u {
        let i = p.index_offset + four_keys(s, keys);
        seen = seen & (vec4<u32>(index[i.x], index[i.y], index[i.z], index[i.w]) != vec4<u32>());
    }
    if MODE == 2u {
        seen = seen & (key <= vec4<u32>(position));
    }
    var score = product;
    if BIAS {
        score += bias_of(vec4<i32>(key) - i32(position), head);
    }
    return select(vec4<f32>(HIDDEN), score, seen);
}

// Where matrix i of a block lies in a subgroup's strip.
fn in_block(i: u32) -> u32 {
    return i / ACROSS_BLOCK * (4u * EDGE) + i % ACROSS_BLOCK * (EDGE / 4u);
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) block: u32,
    @builtin(subgroup_invocation_id) sublane: u32,
) {
    let t0 = workgroup.x * ROWS;
    let head = workgroup.y;
    let k0 = p.k_offset + (head / p.group) * p.k_head_stride;
    let v0 = p.v_offset + (head / p.group) * p.v_head_stride;
    // Looked up here: of what a function gives it is not known that all invocations have the same.
    let rows = select(p.t, segments[workgroup.z].rows.count, SEGMENTED);
    let all = select(p.s, segments[workgroup.z].keys.count, SEGMENTED);
    own = segment(workgroup.z);
    if t0 >= rows {
        return;
    }
    let before = select(step.pos, 0u, SEGMENTED);
    let keys = select(all, min(select(step.len, all, SEGMENTED), before + t0 + ROWS), MODE == 2u);
    // The first of a subgroup's 16 rows, and which half of keys or channels its matrices have.
    let first_row = block % 2u * BLOCK;
    let half = block / 2u;
    let strip = block * STRIP;
    // Of scores it has half of these rows, and all keys.
    let row = first_row + half * 8u + sublane / SHARED_BY;
    let part = sublane % SHARED_BY;
    let position = select(t0 + row, before + t0 + row, MODE == 2u);
    var largest = HIDDEN;
    var total = 0.0;
    var blocks: array<Sum, MOST_SUMS>;
    var queries: array<Left, MOST_QUERIES>;
    find_keys(0u, keys, lane);
    load_keys(k0, lane);
    put_queries(t0, head, lane);
    if lane == 0u {
        grown = 0u;
    }
    workgroupBarrier();
    for (var i = 0u; i < ACROSS_BLOCK; i++) {
        for (var c = 0u; c < DEEP; c++) {
            queries[i * DEEP + c] = rows_at((first_row + i * EDGE) * STRIDE + c * EDGE / 4u, STRIDE);
        }
    }
    workgroupBarrier();
    for (var start = 0u; start < keys; start += KEYS) {
        put_keys(lane);
        workgroupBarrier();
        load_values(v0, lane);
        find_keys(start + KEYS, keys, lane);
        for (var j = 0u; j < KEYS / 2u; j += EDGE) {
            let key = half * (KEYS / 2u) + j;
            for (var i = 0u; i < ACROSS_BLOCK; i++) {
                var products = Sum();
                for (var c = 0u; c < DEEP; c++) {
                    let column = columns_at(key * STRIDE + c * EDGE / 4u, STRIDE);
                    products = coopMultiplyAdd(queries[i * DEEP + c], column, products);
                }
                put_sums((first_row + i * EDGE) * SCORE_STRIDE + key / 4u, SCORE_STRIDE, products);
            }
        }
        workgroupBarrier();
        var most = HIDDEN;
        var each: array<vec4<f32>, 8>;
        for (var i = 0u; i < KEYS / 4u / SHARED_BY; i++) {
            let c = i * SHARED_BY + part;
            each[i] = score_of(four_sums(row * SCORE_STRIDE + c), start + 4u * c, keys, position, head);
            most = max(most, max(max(each[i].x, each[i].y), max(each[i].z, each[i].w)));
        }
        for (var i = 1u; i < SHARED_BY; i *= 2u) {
            most = max(most, subgroupShuffleXor(most, i));
        }
        let grows = most > largest + SLACK;
        let reference = select(largest, most, grows);
        let factor = exp(largest - reference);
        largest = reference;
        total *= factor;
        if part == 0u {
            factors[row] = factor;
            // In the first step there are no sums yet.
            if grows && start > 0u {
                grown = 1u;
            }
        }
        for (var i = 0u; i < KEYS / 4u / SHARED_BY; i++) {
            let weight = exp(each[i] - max(largest, LOWEST));
            total += weight.x + weight.y + weight.z + weight.w;
            put_weights(row * KEY_STRIDE + i * SHARED_BY + part, vec4<f16>(weight));
        }
        put_values(lane);
        let outgrown = workgroupUniformLoad(&grown);
        load_keys(k0, lane);
        if outgrown != 0u {
            for (var b = 0u; b < BLOCKS; b++) {
                for (var i = 0u; i < ACROSS_BLOCK * ACROSS_BLOCK; i++) {
                    put_sums(strip + in_block(i), 4u, blocks[b * ACROSS_BLOCK * ACROSS_BLOCK + i]);
                }
                workgroupBarrier();
                for (var i = 0u; i < 4u * BLOCK; i += LANES) {
                    let at = sublane + i;
                    put_four_sums(strip + at, four_sums(strip + at) * factors[first_row + at / 4u]);
                }
                workgroupBarrier();
                for (var i = 0u; i < ACROSS_BLOCK * ACROSS_BLOCK; i++) {
                    blocks[b * ACROSS_BLOCK * ACROSS_BLOCK + i] = sums_at(strip + in_block(i), 4u);
                }
            }
            if lane == 0u {
                grown = 0u;
            }
        }
        for (var s = 0u; s < KEYS; s += EDGE) {
            for (var i = 0u; i < ACROSS_BLOCK; i++) {
                let of_rows = weights_at((first_row + i * EDGE) * KEY_STRIDE + s / 4u, KEY_STRIDE);
                for (var j = 0u; j < BLOCKS * ACROSS_BLOCK; j++) {
                    let n = (j / ACROSS_BLOCK * ACROSS_BLOCK + i) * ACROSS_BLOCK + j % ACROSS_BLOCK;
                    let channel = half * BLOCKS * BLOCK + j * EDGE;
                    let column = columns_at(channel * KEY_STRIDE + s / 4u, KEY_STRIDE);
                    blocks[n] = coopMultiplyAdd(of_rows, column, blocks[n]);
                }
            }
        }
        workgroupBarrier();
    }
    for (var i = 1u; i < SHARED_BY; i *= 2u) {
        total += subgroupShuffleXor(total, i);
    }
    if part == 0u {
        factors[row] = select(1.0 / total, 0.0, total == 0.0);
    }
    for (var b = 0u; b < BLOCKS; b++) {
        for (var i = 0u; i < ACROSS_BLOCK * ACROSS_BLOCK; i++) {
            put_sums(strip + in_block(i), 4u, blocks[b * ACROSS_BLOCK * ACROSS_BLOCK + i]);
        }
        workgroupBarrier();
        for (var i = 0u; i < 4u * BLOCK; i += LANES) {
            let at = sublane + i;
            let r = first_row + at / 4u;
            let c = (half * BLOCKS + b) * (BLOCK / 4u) + at % 4u;
            if t0 + r < rows && c < QUADS {
                put_quad(row_in(own.rows, t0 + r) * p.out_stride / 4u + head * QUADS + c, four_sums(strip + at) * factors[r]);
            }
        }
        workgroupBarrier();
    }
}
