// f16 values that kernels by matrices multiply: a sixteenth of each activation, within the range of f16. T5 has
// activations beyond 65504, and none of 16 times as much. After shared/half_words.wgsl.
const HALF_SCALE: f32 = 0.0625;

fn to_halves(values: vec2<f32>) -> u32 {
    return half_word(HALF_SCALE * values);
}

fn from_halves(pair: u32) -> vec2<f32> {
    return unpack2x16float(pair) / HALF_SCALE;
}
