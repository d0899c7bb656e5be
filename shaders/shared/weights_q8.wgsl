// q8 weights: 16 signed bytes to an element of w, a scale for every 32.
const PACK: u32 = 16u;

struct Eight {
    low: vec4<f32>,
    high: vec4<f32>,
}

// The scale of group g of a row: two halves to a u32, a row padded to two u32.
fn scale_of(row: u32, g: u32) -> f32 {
    let pair = unpack2x16float(scales[row * ((p.k + 127u) / 128u * 2u) + g / 2u]);
    return select(pair.x, pair.y, (g & 1u) != 0u);
}

fn bytes(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(word));
}

// Weights 8c .. 8c + 8 of a row.
fn eight(row: u32, c: u32) -> Eight {
    let packed = w[row * (p.k / 16u) + c / 2u];
    let words = select(packed.xy, packed.zw, (c & 1u) != 0u);
    let scale = scale_of(row, c / 4u);
    return Eight(scale * bytes(words.x), scale * bytes(words.y));
}

fn dot_row(a0: vec4<f32>, a1: vec4<f32>, a2: vec4<f32>, a3: vec4<f32>, row: u32, c: u32) -> f32 {
    let q = w[row * (p.k / 16u) + c];
    let sum = dot(a0, bytes(q.x)) + dot(a1, bytes(q.y)) + dot(a2, bytes(q.z)) + dot(a3, bytes(q.w));
    return scale_of(row, c / 2u) * sum;
}

// x[x_at ..] times element c of each of four rows.
fn dots_of_rows(x_at: u32, rows: vec4<u32>, c: u32) -> vec4<f32> {
    let a0 = x[x_at];
    let a1 = x[x_at + 1u];
    let a2 = x[x_at + 2u];
    let a3 = x[x_at + 3u];
    return vec4<f32>(
        dot_row(a0, a1, a2, a3, rows.x, c),
        dot_row(a0, a1, a2, a3, rows.y, c),
        dot_row(a0, a1, a2, a3, rows.z, c),
        dot_row(a0, a1, a2, a3, rows.w, c),
    );
}
