// out[t, h] = softmax_s(scale * q[t, h] · k[s, h / group] + bias + mask) v[s, h / group], 16 or 32 rows t per workgroup.
//
// q     [T, ...]  f32: head h of row t starts at q_offset + t * q_stride + h * d
// k, v  [S, ...]  f32: head g of key s starts at offset + row(s) * row_stride + g * head_stride
// index [S]       u32: MODE 1: 0 hides key s; MODE 2: row(s), the page that key s lies on; bound to q otherwise
// bias  [2M+1, H] f32 by key's minus row's position, which is clamped to -M ..= M = far (BIAS); bound to q otherwise
// step            position of row 0 and number of keys (MODE 2)
// out   [T, H*d]  f32
//
// MODE: 0 all p.s keys, 1 those the mask shows, 2 causal over a cache: row t sees keys 0 ..= step.pos + t.
// Grid: x = groups of ROWS rows, y = query heads.
// Workgroup memory: 10,560 bytes with 16 rows, 16,000 with 32.
// Limits: HEAD_DIM = d <= 256; d and all offsets and strides of q, k, v and out are multiples of 4. A row that sees no
// key at all gives zeros.
// Numerics: online softmax in f32 over steps of 64 keys; hidden keys have weight 0, never -inf.
// Why: both products are tiles through workgroup memory, as in linear_tile. An invocation makes scores of 4 rows x 4
// keys by 16 channels, then values of 4 rows x 4 channels by 16 keys: each 256 multiply-adds for 32 loads of 16 bytes
// from different banks, while the next part is on its way from memory to registers, 64 or 256 bytes in a row. Largest
// scores are exchanged once a step, sums of weights once at the end. Sums of more than 64 channels are spelled out and
// cut off by constants: they stay in registers. 32 rows read k and v half as often, 16 make twice as many workgroups.
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

override ROWS: u32 = 16u;                   // 16 or 32
override HEAD_DIM: u32 = 64u;
override MODE: u32 = 0u;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> index: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<uniform> step: Step;
@group(0) @binding(6) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(7) var<uniform> p: Params;

override QUADS: u32 = HEAD_DIM / 4u;        // elements of 4 channels
override WG: u32 = 4u * ROWS;               // 16 invocations for 4 rows
override TILE: u32 = 5u * (ROWS + 64u);
override WEIGHTS: u32 = 65u * (ROWS / 4u);  // 64 for 4 rows, and one of padding

const KEYS: u32 = 64u;
const STRIDE: u32 = 5u;         // elements between tile rows: 16 channels and one of padding
const EXCHANGE: u32 = 256u;     // behind the values: 16 for 4 rows, and one of padding

// ROWS rows of q and 64 of k, 16 channels each; or 16 rows of v, 64 channels each, and what invocations exchange.
var<workgroup> tile: array<vec4<f32>, TILE>;
var<workgroup> weights: array<vec4<f32>, WEIGHTS>;

// Where the rows start that this invocation loads, and what it loaded for the next part.
var<private> q_row: u32;
var<private> k_rows: vec4<u32>;
var<private> next_q: vec4<f32>;
var<private> next: Four;

fn load_keys(s: u32, keys: u32, kv_head: u32) {
    k_rows = (p.k_offset + kv_head * p.k_head_stride + rows_of(s, ROWS, keys) * p.k_row_stride) / 4u;
}

// With 16 rows an invocation loads a quad of one row of q and four of k, with 32 rows two of k. Quads past the head's
// end repeat the last, times q's 0.
fn load_scores(c: u32) {
    let at = k_rows + min(c, QUADS - 1u);
    next_q = select(vec4<f32>(), q[q_row + min(c, QUADS - 1u)], c < QUADS);
    next.a = k[at.x];
    next.b = k[at.y];
    if ROWS == 16u {
        next.c = k[at.z];
        next.d = k[at.w];
    }
}

fn store_scores(lane: u32) {
    let to = lane / 4u * STRIDE + lane % 4u;
    tile[to] = next_q;
    tile[to + ROWS * STRIDE] = next.a;
    tile[to + 2u * ROWS * STRIDE] = next.b;
    if ROWS == 16u {
        tile[to + 3u * ROWS * STRIDE] = next.c;
        tile[to + 4u * ROWS * STRIDE] = next.d;
    }
}

// A quad of four keys' values, or of two.
fn load_values(s: u32, keys: u32, kv_head: u32, c: u32) {
    let rows = rows_of(s, ROWS / 4u, keys);
    let at = (p.v_offset + kv_head * p.v_head_stride + rows * p.v_row_stride) / 4u + min(c, QUADS - 1u);
    next.a = v[at.x];
    next.b = v[at.y];
    if ROWS == 16u {
        next.c = v[at.z];
        next.d = v[at.w];
    }
}

fn store_values(lane: u32) {
    tile[lane] = next.a;
    tile[lane + WG] = next.b;
    if ROWS == 16u {
        tile[lane + 2u * WG] = next.c;
        tile[lane + 3u * WG] = next.d;
    }
}

// Four rows' sums of a quad of channels, 64 channels at a time from `first` on, with the values of a step of keys. The
// part that comes next is of the same channels, of the next ones, or the first one of the next step.
fn values(sum: Four, shrink: vec4<f32>, first: u32, start: u32, keys: u32, kv_head: u32, lane: u32) -> Four {
    if first >= QUADS {
        return sum;
    }
    var total = scaled(sum, shrink);
    let end = min(start + KEYS, keys);
    for (var s = start; s < end; s += 16u) {
        store_values(lane);
        workgroupBarrier();
        if s + 16u < end {
            load_values(s + 16u + lane / 16u, keys, kv_head, first + lane % 16u);
        } else if first + 16u < QUADS {
            load_values(start + lane / 16u, keys, kv_head, first + 16u + lane % 16u);
        } else {
            load_keys(start + KEYS + lane / 4u, keys, kv_head);
            load_scores(lane % 4u);
        }
        let w0 = lane / 16u * 65u + s - start;
        for (var i = 0u; i < 16u; i += 4u) {
            let w = Four(weights[w0 + i], weights[w0 + i + 1u], weights[w0 + i + 2u], weights[w0 + i + 3u]);
            let at = i * 16u + lane % 16u;
            total = weighed(total, w, Four(tile[at], tile[at + 16u], tile[at + 32u], tile[at + 48u]));
        }
        workgroupBarrier();
    }
    return total;
}

fn put_quad(t: u32, head: u32, c: u32, value: vec4<f32>) {
    if t < p.t && c < QUADS {
        out[(t * p.out_stride + head * HEAD_DIM) / 4u + c] = value;
    }
}

fn put(sum: Four, inverse: vec4<f32>, t: u32, head: u32, c: u32) {
    let rows = scaled(sum, inverse);
    put_quad(t, head, c, rows.a);
    put_quad(t + 1u, head, c, rows.b);
    put_quad(t + 2u, head, c, rows.c);
    put_quad(t + 3u, head, c, rows.d);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t0 = workgroup.x * ROWS;
    let head = workgroup.y;
    let kv_head = head / p.group;
    let tx = lane % 16u;
    let ty = lane / 16u;
    let t = t0 + 4u * ty;
    // Rows past the end repeat the last one; they are not stored.
    q_row = (p.q_offset + min(t0 + lane / 4u, p.t - 1u) * p.q_stride) / 4u + head * QUADS;
    let keys = select(p.s, min(step.len, step.pos + t0 + ROWS), MODE == 2u);
    let position = select(t, step.pos + t, MODE == 2u);
    var largest = vec4<f32>(HIDDEN);
    var total = vec4<f32>();
    var sum0 = Four();
    var sum1 = Four();
    var sum2 = Four();
    var sum3 = Four();
    load_keys(lane / 4u, keys, kv_head);
    load_scores(lane % 4u);
    for (var start = 0u; start < keys; start += KEYS) {
        var score = Four();
        for (var c = 0u; c < QUADS; c += 4u) {
            store_scores(lane);
            workgroupBarrier();
            if c + 4u < QUADS {
                load_scores(c + 4u + lane % 4u);
            } else {
                load_values(start + lane / 16u, keys, kv_head, tx);
            }
            for (var i = 0u; i < 4u; i++) {
                let x = 4u * ty * STRIDE + i;
                let y = (ROWS + tx) * STRIDE + i;
                let rows = Four(tile[x], tile[x + 5u], tile[x + 10u], tile[x + 15u]);
                score.a = dots(score.a, rows, tile[y]);
                score.b = dots(score.b, rows, tile[y + 80u]);
                score.c = dots(score.c, rows, tile[y + 160u]);
                score.d = dots(score.d, rows, tile[y + 240u]);
            }
            workgroupBarrier();
        }
        let s = start + tx;
        score.a = score_of(score.a, s, keys, position, head);
        score.b = score_of(score.b, s + 16u, keys, position, head);
        score.c = score_of(score.c, s + 32u, keys, position, head);
        score.d = score_of(score.d, s + 48u, keys, position, head);
        tile[EXCHANGE + 17u * ty + tx] = max(max(score.a, score.b), max(score.c, score.d));
        workgroupBarrier();
        var most = largest;
        for (var i = 0u; i < 16u; i++) {
            most = max(most, tile[EXCHANGE + 17u * ty + i]);
        }
        let shrink = exp(largest - most);
        largest = most;
        let w = Four(
            weight_of(score.a, most), weight_of(score.b, most), weight_of(score.c, most), weight_of(score.d, most),
        );
        total = total * shrink + w.a + w.b + w.c + w.d;
        weights[65u * ty + tx] = w.a;
        weights[65u * ty + tx + 16u] = w.b;
        weights[65u * ty + tx + 32u] = w.c;
        weights[65u * ty + tx + 48u] = w.d;
        // The first barrier in there makes the weights visible to all.
        sum0 = values(sum0, shrink, 0u, start, keys, kv_head, lane);
        sum1 = values(sum1, shrink, 16u, start, keys, kv_head, lane);
        sum2 = values(sum2, shrink, 32u, start, keys, kv_head, lane);
        sum3 = values(sum3, shrink, 48u, start, keys, kv_head, lane);
    }
    tile[EXCHANGE + 17u * ty + tx] = total;
    workgroupBarrier();
    total = tile[EXCHANGE + 17u * ty];
    for (var i = 1u; i < 16u; i++) {
        total += tile[EXCHANGE + 17u * ty + i];
    }
    let inverse = select(1.0 / total, vec4<f32>(), total == vec4<f32>());
    put(sum0, inverse, t, head, tx);
    put(sum1, inverse, t, head, tx + 16u);
    put(sum2, inverse, t, head, tx + 32u);
    put(sum3, inverse, t, head, tx + 48u);
}
