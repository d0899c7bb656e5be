// q4 weights: 32 to an element of w, which is a whole group: scale * q + offset. Byte j of a u32 holds q of value j of
// eight in its low half and of value 4 + j in its high half.
const PACK: u32 = 32u;

struct Eight {
    low: vec4<f32>,
    high: vec4<f32>,
}

fn low_of(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu));
}

fn high_of(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8((word >> 4u) & 0x0f0f0f0fu));
}

// Scale and offset of group g of a row; a row is padded to two u32.
fn scale_of(row: u32, g: u32) -> vec2<f32> {
    return unpack2x16float(scales[row * ((p.k + 63u) / 64u * 2u) + g]);
}

// Weights 8c .. 8c + 8 of a row.
fn eight(row: u32, c: u32) -> Eight {
    let packed = w[row * (p.k / 32u) + c / 4u];
    let words = select(packed.xy, packed.zw, (c & 2u) != 0u);
    let word = select(words.x, words.y, (c & 1u) != 0u);
    let scale = scale_of(row, c / 4u);
    return Eight(scale.x * low_of(word) + scale.y, scale.x * high_of(word) + scale.y);
}

fn dot_word(a: vec4<f32>, b: vec4<f32>, word: u32) -> f32 {
    return dot(a, low_of(word)) + dot(b, high_of(word));
}

// x[x_at ..] times element c of each of four rows.
fn dots_of_rows(x_at: u32, rows: vec4<u32>, c: u32) -> vec4<f32> {
    let elements = p.k / 32u;
    let q0 = w[rows.x * elements + c];
    let q1 = w[rows.y * elements + c];
    let q2 = w[rows.z * elements + c];
    let q3 = w[rows.w * elements + c];
    var a = x[x_at];
    var b = x[x_at + 1u];
    var all = a + b;
    var sums = vec4<f32>(dot_word(a, b, q0.x), dot_word(a, b, q1.x), dot_word(a, b, q2.x), dot_word(a, b, q3.x));
    a = x[x_at + 2u];
    b = x[x_at + 3u];
    all += a + b;
    sums += vec4<f32>(dot_word(a, b, q0.y), dot_word(a, b, q1.y), dot_word(a, b, q2.y), dot_word(a, b, q3.y));
    a = x[x_at + 4u];
    b = x[x_at + 5u];
    all += a + b;
    sums += vec4<f32>(dot_word(a, b, q0.z), dot_word(a, b, q1.z), dot_word(a, b, q2.z), dot_word(a, b, q3.z));
    a = x[x_at + 6u];
    b = x[x_at + 7u];
    all += a + b;
    sums += vec4<f32>(dot_word(a, b, q0.w), dot_word(a, b, q1.w), dot_word(a, b, q2.w), dot_word(a, b, q3.w));
    // The offset is the same for all 32: it takes part by the sum of x.
    let s0 = scale_of(rows.x, c);
    let s1 = scale_of(rows.y, c);
    let s2 = scale_of(rows.z, c);
    let s3 = scale_of(rows.w, c);
    let offset = dot(all, vec4<f32>(1.0)) * vec4<f32>(s0.y, s1.y, s2.y, s3.y);
    return sums * vec4<f32>(s0.x, s1.x, s2.x, s3.x) + offset;
}
