// w of the linear family for software adapters, after wide.wgsl and the weights' format: 16 bytes at a time.
@group(0) @binding(1) var<storage, read> w: array<vec2<u64>>;

// Piece c of a row of w.
fn piece(row: u32, c: u32) -> vec4<u32> {
    return words(w[row * (p.k / (4u * FOURS * WORDS)) + c]);
}

// Word c of a row of w.
fn word(row: u32, c: u32) -> Word {
    return word_of(piece(row, c / WORDS), c % WORDS);
}
