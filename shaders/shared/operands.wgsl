// x and w of the linear family, in pieces of 16 bytes.
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;

struct Eight {
    low: vec4<f32>,
    high: vec4<f32>,
}

// x[8i .. 8i + 8].
fn x_eight(i: u32) -> Eight {
    return Eight(x[2u * i], x[2u * i + 1u]);
}

// Element i of w: 16 bytes.
fn w_packed(i: u32) -> vec4<u32> {
    return w[i];
}
