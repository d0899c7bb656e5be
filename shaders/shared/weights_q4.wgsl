// q4 weights: 32 to an element of w, which is a whole group. Byte j of a u32 holds value j of eight in its low half and
// value 4 + j in its high half, each plus 8.
const PACK: u32 = 32u;

struct Eight {
    low: vec4<f32>,
    high: vec4<f32>,
}

fn low_of(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu)) - 8.0;
}

fn high_of(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8((word >> 4u) & 0x0f0f0f0fu)) - 8.0;
}

// Weights 8c .. 8c + 8 of a row.
fn eight(row: u32, c: u32) -> Eight {
    let packed = w[row * (p.k / 32u) + c / 4u];
    let words = select(packed.xy, packed.zw, (c & 2u) != 0u);
    let word = select(words.x, words.y, (c & 1u) != 0u);
    let scale = scale_of(row, c / 4u);
    return Eight(scale * low_of(word), scale * high_of(word));
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
    var sums = vec4<f32>(dot_word(a, b, q0.x), dot_word(a, b, q1.x), dot_word(a, b, q2.x), dot_word(a, b, q3.x));
    a = x[x_at + 2u];
    b = x[x_at + 3u];
    sums += vec4<f32>(dot_word(a, b, q0.y), dot_word(a, b, q1.y), dot_word(a, b, q2.y), dot_word(a, b, q3.y));
    a = x[x_at + 4u];
    b = x[x_at + 5u];
    sums += vec4<f32>(dot_word(a, b, q0.z), dot_word(a, b, q1.z), dot_word(a, b, q2.z), dot_word(a, b, q3.z));
    a = x[x_at + 6u];
    b = x[x_at + 7u];
    sums += vec4<f32>(dot_word(a, b, q0.w), dot_word(a, b, q1.w), dot_word(a, b, q2.w), dot_word(a, b, q3.w));
    let scaled = vec4<f32>(scale_of(rows.x, c), scale_of(rows.y, c), scale_of(rows.z, c), scale_of(rows.w, c));
    return sums * scaled;
}
