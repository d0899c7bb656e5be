// y[m, n] = act(Σ_k x[m, k] W[n, k] + b[n]), for many rows on adapters whose subgroups multiply matrices.
//
// Bindings: shared/linear.wgsl.
// Grid: x = tiles of COLUMNS weight rows, y = tiles of ROWS rows of x, both whole blocks of 32, z = SPLITS shares of k.
// Workgroup memory: tiles of (ROWS + COLUMNS) x 80 bytes, and 36 x EDGE x 4 bytes for each block of 32 x 32 outputs:
// 26,624 bytes at 96 x 64 with EDGE 16. WG is one subgroup for each block; subgroups are of one size, all full.
// Numerics: x / 16, kept within range, and weights after scaling are rounded to f16; sums in f32.
// Why: each subgroup owns 32 x 32 outputs in matrices of shared/matrix16.wgsl or matrix8.wgsl, whose multiply is many
// times the rate of scalar ones. Tile rows are 32 values of k and 8 of padding, so that rows begin in different banks.
// Only whole matrices can be moved, so outputs pass through workgroup memory to the guarded epilogue.
// With more shares than one, y is [SPLITS, m, y_stride] and gets sums alone; linear_sum adds them up and finishes them.
override SPLITS: u32 = 1u;
override ROWS: u32 = 64u;
override COLUMNS: u32 = 64u;
override WG: u32 = 128u;

const BLOCK: u32 = 32u;
const DEPTH: u32 = 32u;         // values of k per step
const STRIDE: u32 = 40u;        // halves between tile rows
const OUT_STRIDE: u32 = 36u;    // outputs between rows of a strip
const LARGEST: f32 = 65504.0;   // beyond it a half is infinite
const SCALE: f32 = 0.0625;      // of x in its tile: T5 has activations beyond LARGEST, and none of 16 times as much

override STRIPS: u32 = ROWS / BLOCK * (COLUMNS / BLOCK) * EDGE * OUT_STRIDE;

var<workgroup> strips: array<f32, STRIPS>;

fn in_range(values: vec4<f32>) -> vec4<f32> {
    return clamp(SCALE * values, vec4<f32>(-LARGEST), vec4<f32>(LARGEST));
}

fn store_share(share: u32, row: u32, n0: u32, sums: vec4<f32>) {
    if row >= p.m || n0 >= p.y_stride {
        return;
    }
    let at = (share * p.m + row) * p.y_stride + n0;
    y[at] = sums.x;
    y[at + 1u] = sums.y;
    y[at + 2u] = sums.z;
    y[at + 3u] = sums.w;
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) block: u32,
) {
    let m0 = group.y * ROWS;
    let n0 = group.x * COLUMNS;
    let across = COLUMNS / BLOCK;
    let block_row = block / across * BLOCK;
    let block_column = block % across * BLOCK;
    var sums: array<Sum, MATRICES_IN_BLOCK>;
    let share = (p.k + SPLITS * DEPTH - 1u) / (SPLITS * DEPTH) * DEPTH;
    let end = min((group.z + 1u) * share, p.k);
    for (var k0 = group.z * share; k0 < end; k0 += DEPTH) {
        // Rows past the end repeat the last one; their outputs are not stored. k past the end is zero.
        for (var i = lane; i < ROWS * (DEPTH / 4u); i += WG) {
            let row = i / (DEPTH / 4u);
            let k = i % (DEPTH / 4u) * 4u;
            var values = vec4<f32>();
            if k0 + k < p.k {
                values = in_range(x[(p.x_offset + min(m0 + row, p.m - 1u) * p.k + k0 + k) / 4u]);
            }
            put_x(row * STRIDE + k, values);
        }
        for (var i = lane; i < COLUMNS * (DEPTH / 8u); i += WG) {
            let row = i / (DEPTH / 8u);
            let k = i % (DEPTH / 8u) * 8u;
            var weights = Eight();
            if k0 + k < p.k {
                weights = eight(min(n0 + row, p.n - 1u), (k0 + k) / 8u);
            }
            put_w(row * STRIDE + k, weights.low);
            put_w(row * STRIDE + k + 4u, weights.high);
        }
        workgroupBarrier();
        for (var k = 0u; k < DEPTH; k += EDGE) {
            var rights: array<Right, EDGES_IN_BLOCK>;
            for (var j = 0u; j < EDGES_IN_BLOCK; j++) {
                rights[j] = right((block_column + j * EDGE) * STRIDE + k);
            }
            for (var i = 0u; i < EDGES_IN_BLOCK; i++) {
                let rows = left((block_row + i * EDGE) * STRIDE + k);
                for (var j = 0u; j < EDGES_IN_BLOCK; j++) {
                    sums[i * EDGES_IN_BLOCK + j] = coopMultiplyAdd(rows, rights[j], sums[i * EDGES_IN_BLOCK + j]);
                }
            }
        }
        workgroupBarrier();
    }
    // A strip of EDGE rows of every block at a time.
    for (var i = 0u; i < EDGES_IN_BLOCK; i++) {
        for (var j = 0u; j < EDGES_IN_BLOCK; j++) {
            coopStoreT(sums[i * EDGES_IN_BLOCK + j], &strips[block * EDGE * OUT_STRIDE + j * EDGE], OUT_STRIDE);
        }
        workgroupBarrier();
        for (var o = lane; o < ROWS / BLOCK * across * EDGE * (BLOCK / 4u); o += WG) {
            let strip_row = o / (BLOCK / 4u);
            let column = o % (BLOCK / 4u) * 4u;
            let first = strip_row * OUT_STRIDE + column;
            let b = strip_row / EDGE;
            let row = m0 + b / across * BLOCK + i * EDGE + strip_row % EDGE;
            let n = n0 + b % across * BLOCK + column;
            let sum = vec4<f32>(strips[first], strips[first + 1u], strips[first + 2u], strips[first + 3u]) / SCALE;
            if SPLITS > 1u {
                store_share(group.z, row, n, sum);
            } else {
                store4(row, n, sum);
            }
        }
        workgroupBarrier();
    }
}
