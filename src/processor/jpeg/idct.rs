//! The inverse DCT: libjpeg's accurate integer one, as its SIMD form computes it.
//!
//! Dequantised coefficients and the values between the two passes are 16-bit numbers there, which shows where a
//! damaged file drives them out of range; in range it is `jpeg_idct_islow`.

use super::frame::Block;
use super::markers::Steps;

/// Fractional bits of the constants, and of the values between the passes.
const CONST_BITS: u32 = 13;
const PASS1_BITS: u32 = 2;

/// sqrt(2) cos(k pi / 16) and their sums, as the algorithm of Loeffler, Ligtenberg and Moschytz wants them.
const F_0_298: i32 = 2446;
const F_0_390: i32 = 3196;
const F_0_541: i32 = 4433;
const F_0_765: i32 = 6270;
const F_0_899: i32 = 7373;
const F_1_175: i32 = 9633;
const F_1_501: i32 = 12299;
const F_1_847: i32 = 15137;
const F_1_961: i32 = 16069;
const F_2_053: i32 = 16819;
const F_2_562: i32 = 20995;
const F_3_072: i32 = 25172;

type Rows = [[i16; 8]; 8];

/// Turns a block into 8 rows of 8 samples at `out`, `stride` apart.
#[inline(never)]
pub(super) fn samples(block: &Block, steps: &Steps, out: &mut [u8], stride: usize) {
    let mut rows: Rows = [[0; 8]; 8];
    for (row, (values, steps)) in rows.iter_mut().zip(block.chunks_exact(8).zip(steps.chunks_exact(8))) {
        for i in 0..8 {
            row[i] = values[i].wrapping_mul(steps[i] as i16);
        }
    }
    let any = |values: &[i16]| values.iter().fold(0, |any, value| any | value) != 0;
    // Most blocks have nothing but zeros in their lower half.
    if any(&block[32..]) {
        finish(&pass::<{ CONST_BITS - PASS1_BITS }, 8>(&rows), out, stride);
    } else if any(&block[8..32]) {
        finish(&pass::<{ CONST_BITS - PASS1_BITS }, 4>(&rows), out, stride);
    } else if any(&block[1..8]) {
        finish(&[rows[0].map(|value| value << PASS1_BITS); 8], out, stride);
    } else {
        let level = level(i32::from(rows[0][0] << PASS1_BITS) << CONST_BITS);
        for row in out.chunks_mut(stride).take(8) {
            row[..8].fill(level);
        }
    }
}

/// A sample from a sum of the second pass.
#[inline(always)]
fn level(sum: i32) -> u8 {
    const SHIFT: u32 = CONST_BITS + PASS1_BITS + 3;
    let value = sum.wrapping_add(1 << (SHIFT - 1)) >> SHIFT;
    (value.clamp(-128, 127) + 128) as u8
}

/// Does the pass over rows and gives the samples.
#[inline(always)]
fn finish(rows: &Rows, out: &mut [u8], stride: usize) {
    let right = rows.iter().flat_map(|row| &row[4..]).fold(0, |any, value| any | value) != 0;
    let turned = transpose(rows);
    let turned = if right {
        pass::<{ CONST_BITS + PASS1_BITS + 3 }, 8>(&turned)
    } else {
        pass::<{ CONST_BITS + PASS1_BITS + 3 }, 4>(&turned)
    };
    let turned = transpose(&turned);
    for (row, values) in out.chunks_mut(stride).zip(&turned) {
        for (sample, value) in row[..8].iter_mut().zip(*values) {
            *sample = (value.clamp(-128, 127) + 128) as u8;
        }
    }
}

/// Turns rows into columns in three rounds of interleaving, which compilers turn into vector instructions.
#[inline(always)]
fn transpose(rows: &Rows) -> Rows {
    let round = |rows: &Rows| {
        let mut out = [[0; 8]; 8];
        for i in 0..4 {
            let (a, b) = (rows[i], rows[i + 4]);
            out[2 * i] = [a[0], b[0], a[1], b[1], a[2], b[2], a[3], b[3]];
            out[2 * i + 1] = [a[4], b[4], a[5], b[5], a[6], b[6], a[7], b[7]];
        }
        out
    };
    round(&round(&round(rows)))
}

/// One pass over eight columns at once, of which only the first `FILLED` rows are not zero.
#[inline(always)]
fn pass<const SHIFT: u32, const FILLED: usize>(rows: &Rows) -> Rows {
    let mut out = [[0i16; 8]; 8];
    for lane in 0..8 {
        let x: [i16; 8] = std::array::from_fn(|k| if k < FILLED { rows[k][lane] } else { 0 });
        let wide = |k: usize| i32::from(x[k]);
        // Even part.
        let t2 = wide(2) * F_0_541 + wide(6) * (F_0_541 - F_1_847);
        let t3 = wide(2) * (F_0_541 + F_0_765) + wide(6) * F_0_541;
        let t0 = i32::from(x[0].wrapping_add(x[4])) << CONST_BITS;
        let t1 = i32::from(x[0].wrapping_sub(x[4])) << CONST_BITS;
        let even = [t0.wrapping_add(t3), t1.wrapping_add(t2), t1.wrapping_sub(t2), t0.wrapping_sub(t3)];
        // Odd part.
        let (z3, z4) = (i32::from(x[7].wrapping_add(x[3])), i32::from(x[5].wrapping_add(x[1])));
        let (a3, a4) = (z3 * (F_1_175 - F_1_961) + z4 * F_1_175, z3 * F_1_175 + z4 * (F_1_175 - F_0_390));
        let odd = [
            (wide(1) * (F_1_501 - F_0_899) + wide(7) * -F_0_899).wrapping_add(a4),
            (wide(3) * (F_3_072 - F_2_562) + wide(5) * -F_2_562).wrapping_add(a3),
            (wide(5) * (F_2_053 - F_2_562) + wide(3) * -F_2_562).wrapping_add(a4),
            (wide(7) * (F_0_298 - F_0_899) + wide(1) * -F_0_899).wrapping_add(a3),
        ];
        let scale = |sum: i32| {
            let value = sum.wrapping_add(1 << (SHIFT - 1)) >> SHIFT;
            value.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16
        };
        for k in 0..4 {
            out[k][lane] = scale(even[k].wrapping_add(odd[k]));
            out[7 - k][lane] = scale(even[k].wrapping_sub(odd[k]));
        }
    }
    out
}
