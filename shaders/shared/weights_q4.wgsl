// q4 weights: sixteen to a word of w; scale * q + offset, both for every two words. Byte j of a u32 holds q of value j of
// eight in its low half and of value 4 + j in its high half.
alias Word = vec2<u32>;
const FOURS: u32 = 4u;   // in a word
const WORDS: u32 = 2u;   // in 16 bytes
const SCALED: bool = true;
const OFFSET: bool = true;

fn word_of(piece: vec4<u32>, i: u32) -> Word {
    return select(piece.xy, piece.zw, i == 1u);
}

fn nibbles(packed: u32, half: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8((packed >> (4u * half)) & 0x0f0f0f0fu));
}

// Values 4i .. 4i + 4 of a word, before scale and offset.
fn four(q: Word, i: u32) -> vec4<f32> {
    return nibbles(select(q.x, q.y, i > 1u), i % 2u);
}

// The u32 that holds scale and offset of word c of a row, halves; a row is padded to two u32.
fn scales_at(row: u32, c: u32) -> u32 {
    return scales[row * ((p.k + 63u) / 64u * 2u) + c / 2u];
}

// Scale and offset of word c.
fn scale_of(packed: u32, c: u32) -> vec2<f32> {
    return unpack2x16float(packed);
}

// Weights 8c .. 8c + 8 of a row.
fn eight(row: u32, c: u32) -> Eight {
    let q = word(row, c / 2u);
    let packed = select(q.x, q.y, c % 2u == 1u);
    let scale = scale_of(scales_at(row, c / 2u), c / 2u);
    return Eight(scale.x * nibbles(packed, 0u) + scale.y, scale.x * nibbles(packed, 1u) + scale.y);
}
