// w of the linear family for software adapters, after wide.wgsl.
@group(0) @binding(1) var<storage, read> w: array<vec2<u64>>;

// Element i of w: 16 bytes.
fn w_packed(i: u32) -> vec4<u32> {
    return words(w[i]);
}
