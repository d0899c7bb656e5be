// x of the linear family for software adapters, after wide.wgsl.
@group(0) @binding(0) var<storage, read> x: array<vec4<u64>>;

// x[8i .. 8i + 8].
fn x_eight(i: u32) -> Eight {
    return eight_of(x[i]);
}
