// q8 weights: sixteen signed bytes to a word of w, a scale for every two words.
alias Word = vec4<u32>;
const FOURS: u32 = 4u;   // in a word
const WORDS: u32 = 1u;   // in 16 bytes
const SCALED: bool = true;
const OFFSET: bool = false;

fn word_of(piece: vec4<u32>, i: u32) -> Word {
    return piece;
}

fn bytes(packed: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(packed));
}

// Values 4i .. 4i + 4 of a word, before the scale.
fn four(q: Word, i: u32) -> vec4<f32> {
    let pair = select(q.xy, q.zw, i > 1u);
    return bytes(select(pair.x, pair.y, i % 2u == 1u));
}

// The u32 that holds the scale of word c of a row, one of two halves; a row is padded to two u32.
fn scales_at(row: u32, c: u32) -> u32 {
    return scales[row * ((p.k + 127u) / 128u * 2u) + c / 4u];
}

// Scale and offset of word c.
fn scale_of(packed: u32, c: u32) -> vec2<f32> {
    let pair = unpack2x16float(packed);
    return vec2<f32>(select(pair.x, pair.y, (c & 2u) != 0u), 0.0);
}

// Weights 8c .. 8c + 8 of a row.
fn eight(row: u32, c: u32) -> Eight {
    let q = word(row, c / 2u);
    let pair = select(q.xy, q.zw, c % 2u == 1u);
    let scale = scale_of(scales_at(row, c / 2u), c / 2u).x;
    return Eight(scale * bytes(pair.x), scale * bytes(pair.y));
}
