// Stand-ins for matrices of 16 x 16 in shared/attention_matrix16.wgsl, as those of matrix16.wgsl beside this; and for values
// that lanes of a subgroup show each other, by way of `sums`, which nobody needs then.
override LANE_SUMS: u32 = 256u / LANES;

// LANE_SUMS and 16, as compilers do not know: loops that they write out take software adapters minutes to compile.
var<private> lane_sums: u32;
var<private> edge: u32;

struct Right {
    at: u32,
    stride: u32,
}

// The lane, of those that hold a matrix, and of the workgroup.
var<private> matrix_lane: u32;
var<private> invocation: u32;

fn shuffled(value: f32, by: u32) -> f32 {
    workgroupBarrier();
    sums[invocation].x = value;
    workgroupBarrier();
    let other = sums[invocation ^ by].x;
    workgroupBarrier();
    return other;
}

fn load_rows(at: u32, stride: u32) -> Left {
    var row: Left;
    let first = at + matrix_lane * LANE_SUMS / 16u * stride;
    for (var k = 0u; k < edge; k++) {
        row[k] = tile[first + k / 4u][k % 4u];
    }
    return row;
}

fn load_weights(at: u32, stride: u32) -> Left {
    var row: Left;
    let first = at + matrix_lane * LANE_SUMS / 16u * stride;
    for (var k = 0u; k < edge; k++) {
        row[k] = weights[first + k / 4u][k % 4u];
    }
    return row;
}

fn load_columns(at: u32, stride: u32) -> Right {
    return Right(at, stride);
}

fn multiply_add(rows: Left, columns: Right, added: Sum) -> Sum {
    var row = rows;
    var result = added;
    for (var i = 0u; i < lane_sums; i++) {
        let first = columns.at + (matrix_lane * LANE_SUMS + i) % 16u * columns.stride;
        for (var k = 0u; k < edge; k++) {
            result[i] += f32(row[k]) * f32(tile[first + k / 4u][k % 4u]);
        }
    }
    return result;
}

fn load_sums(at: u32, stride: u32) -> Sum {
    var result: Sum;
    for (var i = 0u; i < lane_sums; i++) {
        let place = matrix_lane * LANE_SUMS + i;
        result[i] = sums[at + place / 16u * stride + place % 16u / 4u][place % 4u];
    }
    return result;
}

// Lanes have fours of sums: none writes into another's.
fn store_sums(values: Sum, at: u32, stride: u32) {
    var own = values;
    for (var i = 0u; i < lane_sums; i += 4u) {
        let place = matrix_lane * LANE_SUMS + i;
        let four = vec4<f32>(own[i], own[i + 1u], own[i + 2u], own[i + 3u]);
        sums[at + place / 16u * stride + place % 16u / 4u] = four;
    }
}
