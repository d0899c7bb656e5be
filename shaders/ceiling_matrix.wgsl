// What an adapter can do at most by matrices: sums of products of f16 matrices that nothing else slows down.
//
// seed  [64, EDGE]     f32: 32 rows of x, then 32 of W
// out   [WG * groups]  f32: what an invocation finds of its workgroup's sums
//
// Grid: x = groups, of SUBGROUPS subgroups each. A subgroup adds x Wᵀ to 32 x 32 sums in each of p.steps, in matrices of
// shared/matrix16.wgsl or matrix8.wgsl.
// Workgroup memory: two tiles of 32 x 80 bytes, and EDGE x EDGE x 4 bytes for each subgroup.
// Numerics: small integers in seed are exact in f16, and so are their sums in f32, so the result is known.
// Why: a subgroup of linear_matrix owns as many sums or more; here all operands stay where they were loaded.
struct Params {
    steps: u32,
}

override WG: u32 = 128u;
override SUBGROUPS: u32 = 4u;

const X_ROWS: u32 = 32u;
const W_ROWS: u32 = 32u;
const ROW: u32 = 40u / UNIT;        // elements between tile rows, as in linear_matrix
const MATRICES: u32 = 32u / EDGE;   // in a strip

@group(0) @binding(0) var<storage, read> seed: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> p: Params;

override STAGED: u32 = SUBGROUPS * EDGE * EDGE;

var<workgroup> staged: array<f32, STAGED>;

// Sums of what the lane has found so far.
var<private> found: f32;

struct Place {
    lane: u32,
}

fn four(at: u32) -> vec4<f16> {
    return vec4<f16>(vec4<f32>(seed[at], seed[at + 1u], seed[at + 2u], seed[at + 3u]));
}

fn eight(at: u32) -> mat2x4<f16> {
    return mat2x4<f16>(four(at), four(at + 4u));
}

// Every matrix takes part in what is written, or a compiler would leave it out.
fn hand_on(place: Place, matrix: u32) {
    workgroupBarrier();
    for (var o = place.lane; o < STAGED; o += WG) {
        found += staged[o];
    }
    workgroupBarrier();
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) block: u32,
) {
    for (var i = lane; i < X_ROWS * (EDGE / 8u); i += WG) {
        let row = i / (EDGE / 8u);
        let k = i % (EDGE / 8u) * 8u;
        put_x(row * ROW + k / UNIT, eight(row * EDGE + k));
        put_w(row * ROW + k / UNIT, eight((X_ROWS + row) * EDGE + k));
    }
    workgroupBarrier();
    // Only matrices of 8 have four strips of them in 32 rows.
    let last = (MATRICES - 1u) * EDGE * ROW;
    let left0 = left(0u);
    let left1 = left(EDGE * ROW);
    let left2 = left(last - EDGE * ROW);
    let left3 = left(last);
    let columns = rights(0u);
    var sums0: Strip;
    var sums1: Strip;
    var sums2: Strip;
    var sums3: Strip;
    for (var step = 0u; step < p.steps; step++) {
        sums0 = multiplied(left0, columns, sums0);
        sums1 = multiplied(left1, columns, sums1);
        if MATRICES > 2u {
            sums2 = multiplied(left2, columns, sums2);
            sums3 = multiplied(left3, columns, sums3);
        }
    }
    let place = Place(lane);
    let to = block * EDGE * EDGE;
    hand_on_strip(place, 0u, sums0, to);
    hand_on_strip(place, 1u, sums1, to);
    if MATRICES > 2u {
        hand_on_strip(place, 2u, sums2, to);
        hand_on_strip(place, 3u, sums3, to);
    }
    out[group.x * WG + lane] = found;
}
