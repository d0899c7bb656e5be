// The scale of group g (32 weights) of a row: two halves to a u32, a row padded to two u32.
fn scale_of(row: u32, g: u32) -> f32 {
    let pair = unpack2x16float(scales[row * ((p.k + 127u) / 128u * 2u) + g / 2u]);
    return select(pair.x, pair.y, (g & 1u) != 0u);
}
