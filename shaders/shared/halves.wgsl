// f16 values that kernels by matrices multiply: a sixteenth of each activation, within the range of f16. T5 has
// activations beyond 65504, and none of 16 times as much. Two to a u32, which needs no 16-bit floats.
const HALF_SCALE: f32 = 0.0625;
const LARGEST_HALF: f32 = 65504.0;

// Rounded to 11 bits, to the nearest and in the middle to the even one: pack2x16float may cut off what is too many, which
// would make all activations smaller.
fn to_halves(values: vec2<f32>) -> u32 {
    let bits = bitcast<vec2<u32>>(clamp(HALF_SCALE * values, vec2<f32>(-LARGEST_HALF), vec2<f32>(LARGEST_HALF)));
    let rounded = bits + vec2<u32>(0xfffu) + ((bits >> vec2<u32>(13u)) & vec2<u32>(1u));
    return pack2x16float(bitcast<vec2<f32>>(rounded & vec2<u32>(0xffffe000u)));
}

fn from_halves(pair: u32) -> vec2<f32> {
    return unpack2x16float(pair) / HALF_SCALE;
}
