// A tensor that is read as fast as can be.
@group(0) @binding(0) var<storage, read> x: array<mat2x4<f32>>;

// The sum of x[8i .. 8i + 8], four and four.
fn fours(i: u32) -> vec4<f32> {
    return x[i][0] + x[i][1];
}
