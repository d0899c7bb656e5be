// A tensor that is read as fast as can be on software adapters, after wide.wgsl.
@group(0) @binding(0) var<storage, read> x: array<vec4<u64>>;

// The sum of x[8i .. 8i + 8], four and four.
fn fours(i: u32) -> vec4<f32> {
    let eight = eight_of(x[i]);
    return eight.low + eight.high;
}
