// f16 weights: eight to a word of w. `scales` is not read.
alias Word = vec4<u32>;
const FOURS: u32 = 2u;   // in a word
const WORDS: u32 = 1u;   // in 16 bytes
const SCALED: bool = false;
const OFFSET: bool = false;

fn word_of(piece: vec4<u32>, i: u32) -> Word {
    return piece;
}

// Weights 4i .. 4i + 4 of a word.
fn four(q: Word, i: u32) -> vec4<f32> {
    let pair = select(q.xy, q.zw, i == 1u);
    return vec4<f32>(unpack2x16float(pair.x), unpack2x16float(pair.y));
}

fn scales_at(row: u32, c: u32) -> u32 {
    return 0u;
}

// Scale and offset of word c.
fn scale_of(packed: u32, c: u32) -> vec2<f32> {
    return vec2<f32>(1.0, 0.0);
}

// Weights 8c .. 8c + 8 of a row.
fn eight(row: u32, c: u32) -> Eight {
    let q = word(row, c);
    return Eight(four(q, 0u), four(q, 1u));
}
