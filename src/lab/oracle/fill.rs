//! Synthetic weights.

/// Pairs of values with these indices, uniform in `(-range, range)`: the two halves of a hash of the index and of the seed.
pub fn fill(pairs: std::ops::Range<u32>, seed: u32, range: f64) -> Vec<f64> {
    // The finaliser of MurmurHash3.
    let hash = |value: u32| {
        let a = (value ^ (value >> 16)).wrapping_mul(0x85eb_ca6b);
        let b = (a ^ (a >> 13)).wrapping_mul(0xc2b2_ae35);
        b ^ (b >> 16)
    };
    let unit = |half: u32| f64::from(half) / 32768.0 - 1.0;
    let pair = |i: u32| {
        let bits = hash(i ^ hash(seed));
        [bits & 0xffff, bits >> 16].map(|half| range * unit(half))
    };
    pairs.flat_map(pair).collect()
}
