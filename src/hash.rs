//! A hash that is the same everywhere and always, for names of files, checksums and seeds.

/// FNV-1a of 64 bits: against accidents, not against people.
pub fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    /// Values of the reference's test suite.
    #[test]
    fn known_texts_have_their_hashes() {
        for (text, want) in
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)]
        {
            assert_eq!(super::fnv1a(text.bytes()), want, "{text:?}");
        }
    }
}
