// Sums of attention_matrix, and values that lanes of a subgroup show each other, by way of `sums`, which nobody needs then.
// Lanes have fours of sums: none writes into another's.
var<private> invocation: u32;

fn shuffled(value: f32, by: u32) -> f32 {
    workgroupBarrier();
    sums[invocation].x = value;
    workgroupBarrier();
    let other = sums[invocation ^ by].x;
    workgroupBarrier();
    return other;
}

fn load_sums(at: u32, stride: u32) -> Sum {
    var result: Sum;
    for (var i = 0u; i < lane_sums; i++) {
        let place = matrix_lane * LANE_SUMS + i;
        result[i] = sums[at + place / 16u * stride + place % 16u / 4u][place % 4u];
    }
    return result;
}

fn store_sums(values: Sum, at: u32, stride: u32) {
    var own = values;
    for (var i = 0u; i < lane_sums; i += 4u) {
        let place = matrix_lane * LANE_SUMS + i;
        let four = vec4<f32>(own[i], own[i + 1u], own[i + 2u], own[i + 3u]);
        sums[at + place / 16u * stride + place % 16u / 4u] = four;
    }
}
