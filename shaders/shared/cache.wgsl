// Words of a cache: one channel in f32, or two neighbours in f16, the first of which is even. After shared/half_words.wgsl,
// which keeps them within the range of f16, so that no key or value is infinite.
override KV_PACK: u32 = 1u;    // channels in a word

fn kv_word(pair: vec2<f32>) -> u32 {
    if KV_PACK == 2u {
        return half_word(pair);
    }
    return bitcast<u32>(pair.x);
}
