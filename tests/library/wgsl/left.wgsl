// The left factor, out of LEFTS.
fn left_of_LEFTS(at: u32, stride: u32) -> Left {
    var row: Left;
    let first = at + matrix_lane * LANE_SUMS / 16u * stride;
    for (var k = 0u; k < edge; k++) {
        row[k] = LEFTS[first + k / 4u][k % 4u];
    }
    return row;
}
