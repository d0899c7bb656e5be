// q8 weights: 16 signed bytes to an element of w, a scale for every 32.
const PACK: u32 = 16u;
const OFFSET: bool = false;

fn bytes(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(word));
}

// Values 8i .. 8i + 8 of an element, before scale and offset.
fn part(packed: vec4<u32>, i: u32) -> Eight {
    let pair = select(packed.xy, packed.zw, i != 0u);
    return Eight(bytes(pair.x), bytes(pair.y));
}

// Scale and offset of element c of a row. Two scales, halves, to a u32; a row is padded to two u32.
fn scale_of(row: u32, c: u32) -> vec2<f32> {
    let pair = unpack2x16float(scales[row * ((p.k + 127u) / 128u * 2u) + c / 4u]);
    return vec2<f32>(select(pair.x, pair.y, (c & 2u) != 0u), 0.0);
}

// Weights 8c .. 8c + 8 of a row.
fn eight(row: u32, c: u32) -> Eight {
    let q = part(w_packed(row * (p.k / 16u) + c / 2u), c & 1u);
    let scale = scale_of(row, c / 2u).x;
    return Eight(scale * q.low, scale * q.high);
}
