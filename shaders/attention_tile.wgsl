// out[t, h] = softmax_s(scale * q[t, h] · k[s, h / group] + bias + mask) v[s, h / group], 16 or 32 rows t per workgroup.
//
// q     [T, ...]  f32: head h of row t starts at q_offset + t * q_stride + h * d
// k, v  [S, ...]  as shared/kv_f32.wgsl or kv_f16.wgsl have them: head g of key s starts at offset + row(s) * row_stride + g * head_stride
// index [S]       u32: MODE 1: 0 hides key s; MODE 2: row(s), the page that key s lies on; bound to q otherwise
// bias  [2M+1, H] f32 by key's minus row's position, which is clamped to -M ..= M = far (BIAS); bound to q otherwise
// segments        as shared/segments.wgsl has them (MODE 0 and 2)
// step            position of row 0 and number of keys (MODE 2)
// out   [T, H*d]  f32
//
// MODE: 0 all keys of a segment, 1 those the mask shows, 2 causal over a cache: row t sees keys 0 ..= step.pos + t; of
// several segments each is a prompt from its first position on.
// Grid: x = groups of ROWS rows, y = query heads, z = segments.
// Workgroup memory: 10,496 bytes with 16 rows, 16,384 with 32.
// Limits: HEAD_DIM = d <= 256; d and all offsets and strides of q, k, v and out are multiples of 4. A row that sees no
// key at all gives zeros.
// Numerics: online softmax in f32 over steps of 64 keys; hidden keys have weight 0, never -inf.
// Why: both products are tiles through workgroup memory, as in linear_tile, of which 32 invocations make 4 rows. One of
// them makes scores of 4 rows x 2 keys by 16 channels, then values of 4 rows x 4 channels by 8 keys, from different banks,
// while the next part is on its way from memory to registers, 64 to 512 bytes in a row. What it holds are few enough
// numbers for GPUs with 64 registers an invocation or 128 of 8 lanes each, and leaves others room for many invocations.
// Of 64 channels and less 16 invocations make all, so two teams of them take every other 8 keys. Largest scores are
// exchanged once a step, sums once at the end. 32 rows read k and v half as often, 16 make twice as many workgroups.
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
@group(0) @binding(3) var<storage, read> index: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<uniform> step: Step;
@group(0) @binding(7) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(8) var<uniform> p: Params;

override QUADS: u32 = HEAD_DIM / 4u;        // elements of 4 channels
override WIDTH: u32 = 16u * min((HEAD_DIM + 63u) / 64u, 2u);    // quads of a part of values: 16 or 32
override PART: u32 = EXCHANGE / WIDTH;      // its keys
override WG: u32 = LANES * (ROWS / 4u);
override TILE: u32 = max(5u * (ROWS + KEYS), EXCHANGE + WG);
override WEIGHTS: u32 = KEYS * (ROWS / 4u);

const LANES: u32 = 32u;         // invocations for 4 rows
const KEYS: u32 = 64u;
const STRIDE: u32 = 5u;         // elements between tile rows: 16 channels and one of padding
const EXCHANGE: u32 = 256u;     // quads of a part of k or v; what invocations exchange is behind those of v

// ROWS rows of q and 64 of k, 16 channels each; or rows of v, WIDTH quads each, and what invocations exchange.
var<workgroup> tile: array<vec4<f32>, TILE>;
var<workgroup> weights: array<vec4<f32>, WEIGHTS>;

// Where the rows start that this invocation loads, and what it loaded for the next part: two quads with 16 rows, else one.
var<private> q_row: u32;
var<private> k_rows: vec2<u32>;
var<private> next_q: vec4<f32>;
var<private> next: Quad;
var<private> after: Quad;

fn load_keys(s: u32, keys: u32, kv_head: u32) {
    k_rows = (p.k_offset + kv_head * p.k_head_stride + rows_of(s, WG / 4u, keys) * p.k_row_stride) / 4u;
}

// Quads past the head's end repeat the last, times q's 0.
fn load_scores(c: u32) {
    let at = k_rows + min(c, QUADS - 1u);
    next_q = select(vec4<f32>(), q[q_row + min(c, QUADS - 1u)], c < QUADS);
    next = k[at.x];
    if ROWS == 16u {
        after = k[at.y];
    }
}

fn store_scores(lane: u32) {
    let to = lane / 4u * STRIDE + lane % 4u;
    // There are twice as many invocations as quads of q.
    if lane < 4u * ROWS {
        tile[to] = next_q;
    }
    tile[to + ROWS * STRIDE] = quad_of(next);
    if ROWS == 16u {
        tile[to + (ROWS + WG / 4u) * STRIDE] = quad_of(after);
    }
}

fn load_values(s: u32, keys: u32, kv_head: u32, c: u32) {
    let rows = rows_of(s, WG / WIDTH, keys);
    let at = (p.v_offset + kv_head * p.v_head_stride + rows * p.v_row_stride) / 4u + min(c, QUADS - 1u);
    next = v[at.x];
    if ROWS == 16u {
        after = v[at.y];
    }
}

fn store_values(lane: u32) {
    tile[lane] = quad_of(next);
    if ROWS == 16u {
        tile[lane + WG] = quad_of(after);
    }
}

// Four rows' sums of a quad of channels, WIDTH quads at a time from `first` on, with the values of a step of keys. The
// part that comes next is of the same channels, of the next ones, or the first one of the next step.
fn values(sum: Four, shrink: vec4<f32>, first: u32, start: u32, keys: u32, kv_head: u32, lane: u32) -> Four {
    if first >= QUADS {
        return sum;
    }
    var total = scaled(sum, shrink);
    let end = min(start + KEYS, keys);
    for (var s = start; s < end; s += PART) {
        store_values(lane);
        workgroupBarrier();
        if s + PART < end {
            load_values(s + PART + lane / WIDTH, keys, kv_head, first + lane % WIDTH);
        } else if first + WIDTH < QUADS {
            load_values(start + lane / WIDTH, keys, kv_head, first + WIDTH + lane % WIDTH);
        } else {
            load_keys(start + KEYS + lane / 4u, keys, kv_head);
            load_scores(lane % 4u);
        }
        let team = lane % LANES / WIDTH * 8u;
        let w0 = lane / LANES * KEYS + s - start + team;
        let v0 = team * WIDTH + lane % WIDTH;
        for (var i = 0u; i < 8u; i += 4u) {
            let w = Four(weights[w0 + i], weights[w0 + i + 1u], weights[w0 + i + 2u], weights[w0 + i + 3u]);
            let at = v0 + i * WIDTH;
            total = weighed(total, w, Four(tile[at], tile[at + WIDTH], tile[at + 2u * WIDTH], tile[at + 3u * WIDTH]));
        }
        workgroupBarrier();
    }
    return total;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let t0 = workgroup.x * ROWS;
    let head = workgroup.y;
    let kv_head = head / p.group;
    let tx = lane % LANES;
    let ty = lane / LANES;
    let t = t0 + 4u * ty;
    // Looked up here: of what a function gives it is not known that all invocations have the same.
    let rows = select(p.t, segments[workgroup.z].rows.count, SEGMENTED);
    let all = select(p.s, segments[workgroup.z].keys.count, SEGMENTED);
    own = segment(workgroup.z);
    if t0 >= rows {
        return;
    }
    // Rows past the end repeat the last one; they are not stored.
    let row = row_in(own.rows, min(t0 + lane / 4u, rows - 1u));
    q_row = (p.q_offset + row * p.q_stride) / 4u + head * QUADS;
    let before = select(step.pos, 0u, SEGMENTED);
    let keys = select(all, min(select(step.len, all, SEGMENTED), before + t0 + ROWS), MODE == 2u);
    let position = select(t, before + t, MODE == 2u);
    var largest = vec4<f32>(HIDDEN);
    var total = vec4<f32>();
    var sum0 = Four();
    var sum1 = Four();
    load_keys(lane / 4u, keys, kv_head);
    load_scores(lane % 4u);
    for (var start = 0u; start < keys; start += KEYS) {
        var score0 = vec4<f32>();
        var score1 = vec4<f32>();
        for (var c = 0u; c < QUADS; c += 4u) {
            store_scores(lane);
            workgroupBarrier();
            if c + 4u < QUADS {
                load_scores(c + 4u + lane % 4u);
            } else {
                load_values(start + lane / WIDTH, keys, kv_head, lane % WIDTH);
            }
            for (var i = 0u; i < 4u; i++) {
                let x = 4u * ty * STRIDE + i;
                let y = (ROWS + tx) * STRIDE + i;
                let rows = Four(tile[x], tile[x + 5u], tile[x + 10u], tile[x + 15u]);
                score0 = dots(score0, rows, tile[y]);
                score1 = dots(score1, rows, tile[y + LANES * STRIDE]);
            }
            workgroupBarrier();
        }
        let s = start + tx;
        score0 = score_of(score0, s, keys, position, head);
        score1 = score_of(score1, s + LANES, keys, position, head);
        tile[EXCHANGE + lane] = max(score0, score1);
        workgroupBarrier();
        var most = largest;
        for (var i = 0u; i < LANES; i++) {
            most = max(most, tile[EXCHANGE + LANES * ty + i]);
        }
        let shrink = exp(largest - most);
        largest = most;
        let w0 = weight_of(score0, most);
        let w1 = weight_of(score1, most);
        weights[KEYS * ty + tx] = w0;
        weights[KEYS * ty + tx + LANES] = w1;
        total = total * shrink + w0 + w1;
        // The first barrier in there makes the weights visible to all.
        sum0 = values(sum0, shrink, 0u, start, keys, kv_head, lane);
        sum1 = values(sum1, shrink, WIDTH, start, keys, kv_head, lane);
    }
    // The parts of a row's total, and the second team's sums where there are two.
    let other = ty * WIDTH + lane % WIDTH;
    weights[lane] = total;
    if tx >= WIDTH {
        tile[other] = sum0.a;
        tile[other + WG / 2u] = sum0.b;
        tile[other + WG] = sum0.c;
        tile[other + WG + WG / 2u] = sum0.d;
    }
    workgroupBarrier();
    if tx >= WIDTH {
        return;
    }
    total = weights[LANES * ty];
    for (var i = 1u; i < LANES; i++) {
        total += weights[LANES * ty + i];
    }
    if WIDTH < LANES {
        sum0.a += tile[other];
        sum0.b += tile[other + WG / 2u];
        sum0.c += tile[other + WG];
        sum0.d += tile[other + WG + WG / 2u];
    }
    let inverse = select(1.0 / total, vec4<f32>(), total == vec4<f32>());
    put(sum0, inverse, t, head, tx);
    put(sum1, inverse, t, head, tx + WIDTH);
}
