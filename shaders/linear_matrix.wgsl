// y[m, n] = act(Σ_k x[m, k] W[n, k] + b[n]), for many rows on adapters whose subgroups multiply matrices; optionally
// added to y, optionally gated as shared/linear.wgsl says.
//
// x       [m, k]       f16 as shared/halves.wgsl says, eight to an element
// w       [n, k]       as shared/matrix_f16.wgsl, matrix_q8.wgsl or matrix_q4.wgsl declare it
// scales  [n, ...]     f16, two to an element, of q8 and q4; bound to x and not read where weights are f16
// bias    [n]          f32; bound to x and not read when BIAS is false; [2, n] with NORMED
// shares  [tiles, SPLITS, ROWS COLUMNS] words of f32: sums of shares of k, in an order of this kernel's own; with AHEAD
//                      behind them [tiles, ROWS, 2]: sums of a tile's rows, and of their squares
// arrivals [tiles]     workgroups that have written their share; with AHEAD behind them [rows of tiles]: tiles that are
//                      done; zeros before and after
// y       [m, stride]  f32, or f16 as x with HALVED
// norm    f32          with NORMED x and what lies behind it, four to an element; with AHEAD gains [n]; else not read
// ahead   [m, n]       f16 as x, and [m, 4] f32 behind them: mean, scale and no more of each row; written with AHEAD
//
// Grid: x = tiles of COLUMNS weight rows, y = tiles of ROWS rows of x, z = SPLITS shares of p.steps steps of k.
// Workgroup memory: BUFFERS x (ROWS + COLUMNS) x 80 bytes, and EDGE x EDGE x 4 bytes for each subgroup: 48 KiB at 128 x
// 128 with two buffers and EDGE 16. WG is one subgroup for each block; subgroups are of one size, all full.
// Limits: n, k, x_offset, column0 % 8 == 0; y_stride, y_offset % 4 == 0; k % 32 == 0 with WHOLE and for q8 and q4.
// NORMED: x_offset = 0, not GATED. AHEAD: y_offset, column0 = 0, y_stride = n; neither GATED nor HALVED.
// Numerics: x / 16, kept within range, and weights after scaling are rounded to f16; sums in f32, shares in order.
// LayerNorm between two layers: W norm(y) + b = scale (W (gains∘y) - mean W gains) + W shift + b, scale = 1 / deviation.
// So the layer before (AHEAD) leaves gains∘y, and mean and scale of each row; the one after (NORMED) multiplies the one
// and ends with the others; its `bias` is W shift + b, then W gains. What is rounded to f16 is gains∘y, and not a norm's
// output: that adds sqrt(1 + (mean / deviation)²) times as much to the sums, and more where gains∘y is mostly below 2⁻⁶,
// which in f16 has fewer bits. By way of squares scale is off by (mean / deviation)² 2⁻²⁴, which is less.
// Why: each subgroup owns a block of STRIPS x EDGE rows and 32 columns. While it multiplies a step of 32 values of k, all
// values of the next one are on their way into registers; a second buffer saves a barrier in each step. Tile rows have 8
// values of padding, so that they begin in different banks. Skinny layers have too few tiles to fill a GPU: workgroups
// share k, and the last one of a tile adds up.
struct Params {
    m: u32,
    n: u32,
    k: u32,
    x_offset: u32,
    y_offset: u32,
    y_stride: u32,
    column0: u32,
    steps: u32,
    eps: f32,
}

override BIAS: bool = false;
override ADD: bool = false;
override GATED: bool = false;
override HALVED: bool = false;
override NORMED: bool = false;
override AHEAD: bool = false;
override WHOLE: bool = true;
override SPLITS: u32 = 1u;
override ROWS: u32 = 64u;
override COLUMNS: u32 = 64u;
override STRIPS: u32 = 2u;
override BUFFERS: u32 = 1u;
override WG: u32 = 128u;

const EIGHTS: u32 = 4u;                 // of k in a step, which is a group of quantised weights
const ROW: u32 = 40u / UNIT;            // elements between tile rows
const MATRICES: u32 = 32u / EDGE;       // in a strip
const MOST: u32 = 8u;                   // times that a lane loads of x, or of w, in a step

override BLOCK_ROWS: u32 = STRIPS * EDGE;
override ACROSS: u32 = COLUMNS / 32u;   // blocks side by side
override BLOCKS: u32 = ROWS / BLOCK_ROWS * ACROSS;
override X_ROWS: u32 = BUFFERS * ROWS;
override W_ROWS: u32 = BUFFERS * COLUMNS;
override X_LOADS: u32 = (ROWS * EIGHTS + WG - 1u) / WG;
override W_LOADS: u32 = (COLUMNS * EIGHTS + WG - 1u) / WG;

@group(0) @binding(0) var<storage, read> x: array<mat2x4<f16>>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;
// Atomic, since no other values are sure to reach another workgroup under the memory model of cooperative matrices.
@group(0) @binding(4) var<storage, read_write> shares: array<atomic<u32>>;
@group(0) @binding(5) var<storage, read_write> arrivals: array<atomic<u32>>;
@group(0) @binding(6) var<storage, read_write> y: array<vec2<u32>>;
@group(0) @binding(7) var<storage, read> norm: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> ahead: array<vec2<u32>>;
@group(0) @binding(9) var<uniform> p: Params;

// The strips of a block, of which STRIPS are used.
struct Sums {
    s0: Strip,
    s1: Strip,
    s2: Strip,
    s3: Strip,
}

// What a lane moves: where its values are, and those of a step.
struct Moved {
    x_from: array<u32, MOST>,
    w_from: array<u32, MOST>,
    scales_from: array<u32, MOST>,
    x: array<mat2x4<f16>, MOST>,
    w: array<Packed, MOST>,
}

// Where the buffers in use begin in the tiles.
struct Buffers {
    x: u32,
    w: u32,
}

// Whether k of a lane's values in step `step` is not past the end.
fn is_in(step: u32, lane: u32) -> bool {
    return WHOLE || step * EIGHTS + lane % EIGHTS < p.k / 8u;
}

// Loads step `step`, which is `by` eights behind the last one. Where k is past the end it loads the first of all.
fn load(moved: ptr<function, Moved>, step: u32, by: u32, lane: u32) {
    let here = is_in(step, lane);
    for (var j = 0u; j < X_LOADS; j++) {
        (*moved).x_from[j] += by;
        (*moved).x[j] = x[select(0u, (*moved).x_from[j], here)];
    }
    for (var j = 0u; j < W_LOADS; j++) {
        (*moved).w_from[j] += by;
        (*moved).w[j] = packed(select(0u, (*moved).w_from[j], here), (*moved).scales_from[j] + step);
    }
}

// The buffers for the next step, where nobody reads any more.
fn next(at: Buffers) -> Buffers {
    if BUFFERS == 1u {
        workgroupBarrier();
        return at;
    }
    return Buffers(ROWS * ROW - at.x, COLUMNS * ROW - at.w);
}

// Puts what was loaded into the tiles. x is zero where k is past the end.
fn put(moved: ptr<function, Moved>, step: u32, at: Buffers, lane: u32) {
    if !is_in(step, lane) {
        for (var j = 0u; j < X_LOADS; j++) {
            (*moved).x[j] = mat2x4<f16>();
        }
    }
    let column = lane % EIGHTS * (8u / UNIT);
    for (var j = 0u; j < X_LOADS; j++) {
        let row = (lane + j * WG) / EIGHTS;
        if ROWS * EIGHTS % WG == 0u || row < ROWS {
            put_x(at.x + row * ROW + column, (*moved).x[j]);
        }
    }
    for (var j = 0u; j < W_LOADS; j++) {
        let row = (lane + j * WG) / EIGHTS;
        if COLUMNS * EIGHTS % WG == 0u || row < COLUMNS {
            put_w(at.w + row * ROW + column, unpacked((*moved).w[j], step));
        }
    }
}

// Adds the products of a step to the sums of a block, whose rows begin there in the tiles.
fn multiply(sums: ptr<function, Sums>, x_at: u32, w_at: u32) {
    for (var k = 0u; k < 32u / UNIT; k += EDGE / UNIT) {
        let columns = rights(w_at + k);
        (*sums).s0 = multiplied(left(x_at + k), columns, (*sums).s0);
        (*sums).s1 = multiplied(left(x_at + EDGE * ROW + k), columns, (*sums).s1);
        if STRIPS > 2u {
            (*sums).s2 = multiplied(left(x_at + 2u * EDGE * ROW + k), columns, (*sums).s2);
        }
        if STRIPS > 3u {
            (*sums).s3 = multiplied(left(x_at + 3u * EDGE * ROW + k), columns, (*sums).s3);
        }
    }
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) block: u32,
) {
    let m0 = group.y * ROWS;
    let n0 = group.x * COLUMNS;
    let first = group.z * p.steps;
    let end = min(first + p.steps, (p.k + 31u) / 32u);
    // Rows past the end repeat the last one; their outputs are not stored.
    var moved: Moved;
    for (var j = 0u; j < X_LOADS; j++) {
        let row = min(m0 + (lane + j * WG) / EIGHTS, p.m - 1u);
        moved.x_from[j] = (p.x_offset + row * p.k) / 8u + first * EIGHTS + lane % EIGHTS;
    }
    for (var j = 0u; j < W_LOADS; j++) {
        let row = min(n0 + (lane + j * WG) / EIGHTS, p.n - 1u);
        moved.w_from[j] = row * (p.k / 8u) + first * EIGHTS + lane % EIGHTS;
        moved.scales_from[j] = scales_of(row);
    }
    let x_block = block / ACROSS * BLOCK_ROWS * ROW;
    let w_block = block % ACROSS * 32u * ROW;
    var sums: Sums;
    var at = Buffers();
    load(&moved, first, 0u, lane);
    put(&moved, first, at, lane);
    workgroupBarrier();
    // The first step is not in the loop, so that sums come into it as results of multiplications: NVK then keeps each
    // matrix in registers that follow each other, and moves none of them.
    let second = min(first + 1u, end - 1u);
    load(&moved, second, (second - first) * EIGHTS, lane);
    multiply(&sums, at.x + x_block, at.w + w_block);
    at = next(at);
    put(&moved, second, at, lane);
    workgroupBarrier();
    for (var step = second + 1u; step < end; step++) {
        load(&moved, step, EIGHTS, lane);
        multiply(&sums, at.x + x_block, at.w + w_block);
        at = next(at);
        put(&moved, step, at, lane);
        workgroupBarrier();
    }
    if second > first {
        multiply(&sums, at.x + x_block, at.w + w_block);
    }
    let own = lane / LANES;
    let row = group.y * ROWS + own / ACROSS * BLOCK_ROWS;
    let column = group.x * COLUMNS + own % ACROSS * 32u;
    let tiles = groups.x * groups.y;
    let place = Place(row, column, group.y * groups.x + group.x, tiles, group.z, own, lane % LANES);
    let to = block * EDGE * EDGE;
    hand_on_strip(place, 0u, sums.s0, to);
    hand_on_strip(place, 1u, sums.s1, to);
    if STRIPS > 2u {
        hand_on_strip(place, 2u, sums.s2, to);
    }
    if STRIPS > 3u {
        hand_on_strip(place, 3u, sums.s3, to);
    }
    if SPLITS > 1u && !is_last(place.tile, SPLITS, lane) {
        return;
    }
    if SPLITS > 1u {
        join(place);
    }
    if AHEAD && is_last(tiles + group.y, groups.x, lane) {
        join_rows(group.y, groups, lane);
    }
}
