// What an adapter can do at most by matrices: sums of products of f16 matrices that nothing else slows down.
//
// seed  [64, EDGE]     f32: 32 rows of x, then 32 of W
// out   [WG * groups]  f32: what an invocation finds of its workgroup's sums
//
// Grid: x = groups, of SUBGROUPS subgroups each. A subgroup adds x Wᵀ to 32 x 32 sums in each of p.steps, in matrices of
// shared/matrix16.wgsl or matrix8.wgsl.
// Workgroup memory: two tiles of 32 x 80 bytes, and EDGE x EDGE x 4 bytes for each subgroup.
// Numerics: small integers in seed are exact in f16, and so are their sums in f32, so the result is known.
// Why: 32 x 32 sums are what a subgroup of linear_matrix owns; here all operands stay where they were loaded.
struct Params {
    steps: u32,
}

override WG: u32 = 128u;
override SUBGROUPS: u32 = 4u;

const ROWS: u32 = 32u;
const COLUMNS: u32 = 32u;
const STRIDE: u32 = 40u;    // halves between tile rows, as in linear_matrix

@group(0) @binding(0) var<storage, read> seed: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> p: Params;

override STRIPS: u32 = SUBGROUPS * EDGE * EDGE;

var<workgroup> strips: array<f32, STRIPS>;

fn four(at: u32) -> vec4<f32> {
    return vec4<f32>(seed[at], seed[at + 1u], seed[at + 2u], seed[at + 3u]);
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) block: u32,
) {
    for (var i = lane; i < ROWS * (EDGE / 4u); i += WG) {
        let row = i / (EDGE / 4u);
        let k = i % (EDGE / 4u) * 4u;
        put_x(row * STRIDE + k, four(row * EDGE + k));
        put_w(row * STRIDE + k, four((ROWS + row) * EDGE + k));
    }
    workgroupBarrier();
    var lefts: array<Left, EDGES_IN_BLOCK>;
    var rights: array<Right, EDGES_IN_BLOCK>;
    for (var i = 0u; i < EDGES_IN_BLOCK; i++) {
        lefts[i] = left(i * EDGE * STRIDE);
        rights[i] = right(i * EDGE * STRIDE);
    }
    var sums: array<Sum, MATRICES_IN_BLOCK>;
    for (var step = 0u; step < p.steps; step++) {
        for (var i = 0u; i < EDGES_IN_BLOCK; i++) {
            for (var j = 0u; j < EDGES_IN_BLOCK; j++) {
                sums[i * EDGES_IN_BLOCK + j] = coopMultiplyAdd(lefts[i], rights[j], sums[i * EDGES_IN_BLOCK + j]);
            }
        }
    }
    // Every matrix takes part in what is written, or a compiler would leave it out.
    var found = 0.0;
    for (var i = 0u; i < MATRICES_IN_BLOCK; i++) {
        coopStoreT(sums[i], &strips[block * EDGE * EDGE], EDGE);
        workgroupBarrier();
        for (var o = lane; o < STRIPS; o += WG) {
            found += strips[o];
        }
        workgroupBarrier();
    }
    out[group.x * WG + lane] = found;
}
