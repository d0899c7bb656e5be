// Two f16 values in a u32, which needs no 16-bit floats.
const LARGEST_HALF: f32 = 65504.0;

// Kept within the range of f16 and rounded to 11 bits, to the nearest and in the middle to the even one: pack2x16float may
// cut off what is too many, which would make all values smaller.
fn half_word(pair: vec2<f32>) -> u32 {
    let bits = bitcast<vec2<u32>>(clamp(pair, vec2<f32>(-LARGEST_HALF), vec2<f32>(LARGEST_HALF)));
    let rounded = bits + vec2<u32>(0xfffu) + ((bits >> vec2<u32>(13u)) & vec2<u32>(1u));
    return pack2x16float(bitcast<vec2<f32>>(rounded & vec2<u32>(0xffffe000u)));
}
