// Sums of linear_matrix on their way out.
fn store_sums(values: Sum, at: u32, stride: u32) {
    var own = values;
    for (var i = 0u; i < lane_sums; i++) {
        let place = matrix_lane * LANE_SUMS + i;
        staged[at + place / 16u * stride + place % 16u] = own[i];
    }
}
