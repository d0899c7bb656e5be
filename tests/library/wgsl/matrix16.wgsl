// Stand-ins for matrices of 16 x 16 in shared/matrix16.wgsl. What a subgroup holds together its LANES lanes share in equal
// parts: of sums each has so many that lie side by side, and of x the row that they are in. w is read where it is used.
override LANE_SUMS: u32 = 256u / LANES;

// LANE_SUMS and 16, as compilers do not know: loops that they write out take software adapters minutes to compile.
var<private> lane_sums: u32;
var<private> edge: u32;

struct Right {
    at: u32,
    stride: u32,
}

// The lane, of those that hold a matrix.
var<private> matrix_lane: u32;

fn load_left(at: u32, stride: u32) -> Left {
    var row: Left;
    let first = at + matrix_lane * LANE_SUMS / 16u * stride;
    for (var k = 0u; k < edge; k++) {
        row[k] = x_tile[first + k / 4u][k % 4u];
    }
    return row;
}

fn load_right(at: u32, stride: u32) -> Right {
    return Right(at, stride);
}

fn multiply_add(x: Left, w: Right, added: Sum) -> Sum {
    var row = x;
    var sums = added;
    for (var i = 0u; i < lane_sums; i++) {
        let first = w.at + (matrix_lane * LANE_SUMS + i) % 16u * w.stride;
        for (var k = 0u; k < edge; k++) {
            sums[i] += f32(row[k]) * f32(w_tile[first + k / 4u][k % 4u]);
        }
    }
    return sums;
}

fn store_sums(values: Sum, at: u32, stride: u32) {
    var sums = values;
    for (var i = 0u; i < lane_sums; i++) {
        let place = matrix_lane * LANE_SUMS + i;
        staged[at + place / 16u * stride + place % 16u] = sums[i];
    }
}
