// x and w of the linear family, w in words of the weights' format.
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> w: array<Word>;

struct Eight {
    low: vec4<f32>,
    high: vec4<f32>,
}

// x[8i .. 8i + 8].
fn x_eight(i: u32) -> Eight {
    return Eight(x[2u * i], x[2u * i + 1u]);
}

// Word c of a row of w.
fn word(row: u32, c: u32) -> Word {
    return w[row * (p.k / (4u * FOURS)) + c];
}
