// Stand-ins for matrices of 16 x 16. What a subgroup holds together its LANES lanes share in equal parts: of sums each has so
// many that lie side by side, and of the left factor the row that they are in. The right one is read where it is used,
// which is before anybody writes over it. RIGHTS is the array that it comes from.
override LANE_SUMS: u32 = 256u / LANES;

// LANE_SUMS and 16, as compilers do not know: loops that they write out take software adapters minutes to compile.
var<private> lane_sums: u32;
var<private> edge: u32;

// The lane, of those that hold a matrix.
var<private> matrix_lane: u32;

alias Left = array<f16, 16>;
alias Sum = array<f32, 16>;

struct Right {
    at: u32,
    stride: u32,
}

fn multiply_add(left: Left, right: Right, added: Sum) -> Sum {
    var row = left;
    var result = added;
    for (var i = 0u; i < lane_sums; i++) {
        let first = right.at + (matrix_lane * LANE_SUMS + i) % 16u * right.stride;
        for (var k = 0u; k < edge; k++) {
            result[i] += f32(row[k]) * f32(RIGHTS[first + k / 4u][k % 4u]);
        }
    }
    return result;
}
