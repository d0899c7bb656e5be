// q4 weights: 32 to an element of w, which is a whole group: scale * q + offset. Byte j of a u32 holds q of value j of
// eight in its low half and of value 4 + j in its high half.
const PACK: u32 = 32u;
const OFFSET: bool = true;

// Values 8i .. 8i + 8 of an element, before scale and offset.
fn part(packed: vec4<u32>, i: u32) -> Eight {
    let pair = select(packed.xy, packed.zw, (i & 2u) != 0u);
    let word = select(pair.x, pair.y, (i & 1u) != 0u);
    return Eight(
        vec4<f32>(unpack4xU8(word & 0x0f0f0f0fu)),
        vec4<f32>(unpack4xU8((word >> 4u) & 0x0f0f0f0fu)),
    );
}

// Scale and offset of element c of a row; a row is padded to two u32.
fn scale_of(row: u32, c: u32) -> vec2<f32> {
    return unpack2x16float(scales[row * ((p.k + 63u) / 64u * 2u) + c]);
}

// Weights 8c .. 8c + 8 of a row.
fn eight(row: u32, c: u32) -> Eight {
    let q = part(w_packed(row * (p.k / 32u) + c / 4u), c & 3u);
    let scale = scale_of(row, c / 4u);
    return Eight(scale.x * q.low + scale.y, scale.x * q.high + scale.y);
}
