//! The storage of a weight matrix: f16, or groups of small integers with a scale each; and the code that packs it.
//!
//! A group is [`GROUP`] neighbouring values of a row, with a scale and, in q4, an offset:
//!
//! | format | bits a weight | value | q | packed |
//! | --- | --- | --- | --- | --- |
//! | f16 | 16 | | | halves, little-endian |
//! | q8 | 8.5 | `scale * q` | -127 ..= 127 | bytes, two's complement |
//! | q4 | 5 | `scale * q + offset` | 0 ..= 15 | 8 to a u32: byte j holds q\[j\] in its low half and q\[4 + j\] in its high half |
//!
//! Scales are f16 in an array of their own, row by row, a row padded to a multiple of 4; an offset stands behind its
//! scale. In q4 the halves of a u32's bytes are the first and the last four of eight values, so that a kernel gets two
//! vectors by one mask and one shift and never has to reorder what it multiplies them with. Without the offset q4 would
//! be half a bit smaller, and a language model worse by far more than that (`benches/README.md`).

use half::f16;
use half::slice::HalfFloatSliceExt;

/// Values that share a scale.
pub const GROUP: usize = 32;

/// Storage of a weight matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WeightFormat {
    /// 16-bit floats.
    #[default]
    F16,
    /// 8-bit integers in groups.
    Q8,
    /// 4-bit integers in groups.
    Q4,
}

impl WeightFormat {
    /// Every format.
    pub const ALL: [WeightFormat; 3] = [WeightFormat::F16, WeightFormat::Q8, WeightFormat::Q4];

    /// Its name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            WeightFormat::F16 => "f16",
            WeightFormat::Q8 => "q8",
            WeightFormat::Q4 => "q4",
        }
    }

    /// The format of this name.
    pub fn named(name: &str) -> Option<WeightFormat> {
        WeightFormat::ALL.into_iter().find(|format| format.name() == name)
    }

    /// This format where rows of `cols` values are whole groups, f16 where they are not.
    pub fn for_cols(self, cols: u32) -> WeightFormat {
        if (cols as usize).is_multiple_of(GROUP) { self } else { WeightFormat::F16 }
    }

    /// Bytes of `cols` packed values without their scales.
    pub fn row_bytes(self, cols: u32) -> u64 {
        let cols = u64::from(cols);
        match self {
            WeightFormat::F16 => 2 * cols,
            WeightFormat::Q8 => cols,
            WeightFormat::Q4 => cols / 2,
        }
    }

    /// Halves that go with a group: its scale, and its offset.
    pub fn scales_in_group(self) -> usize {
        match self {
            WeightFormat::F16 => 0,
            WeightFormat::Q8 => 1,
            WeightFormat::Q4 => 2,
        }
    }

    /// Halves that go with `cols` values, without padding.
    pub fn scales_in_row(self, cols: usize) -> usize {
        cols / GROUP * self.scales_in_group()
    }

    /// Bytes of the scales of a row of `cols` values on the device, which is padded to start where memory can be
    /// mapped; 0 for f16.
    pub fn scale_bytes(self, cols: u32) -> u64 {
        2 * self.scales_in_row(cols as usize).next_multiple_of(4) as u64
    }

    /// Packs whole rows' values, appending to `packed` and `scales`. Values must be finite; f16 makes those beyond
    /// ±65504 infinite.
    pub fn pack(self, values: &[f32], packed: &mut Vec<u8>, scales: &mut Vec<f16>) {
        match self {
            WeightFormat::F16 => {
                let start = packed.len();
                packed.resize(start + 2 * values.len(), 0);
                let mut halves = [f16::ZERO; 256];
                for (values, bytes) in values.chunks(256).zip(packed[start..].chunks_mut(512)) {
                    halves[..values.len()].convert_from_f32_slice(values);
                    bytes.copy_from_slice(bytemuck::cast_slice(&halves[..values.len()]));
                }
            }
            WeightFormat::Q8 => {
                for group in values.as_chunks::<GROUP>().0 {
                    let (scale, q) = quantise_q8(group);
                    scales.push(scale);
                    packed.extend(q.map(|q| q as i8 as u8));
                }
            }
            WeightFormat::Q4 => {
                for group in values.as_chunks::<GROUP>().0 {
                    let (scale, offset, q) = quantise_q4(group);
                    scales.extend([scale, offset]);
                    for eight in q.as_chunks::<8>().0 {
                        packed.extend((0..4).map(|j| eight[j] as u8 | (eight[4 + j] as u8) << 4));
                    }
                }
            }
        }
    }

    /// The values of packed rows; for f16 `scales` is not read.
    pub fn unpack(self, packed: &[u8], scales: &[f16], values: &mut Vec<f32>) {
        let scale = |group: usize| scales[group].to_f32();
        match self {
            WeightFormat::F16 => {
                values.extend(packed.as_chunks::<2>().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()));
            }
            WeightFormat::Q8 => {
                values.extend(packed.iter().enumerate().map(|(k, &q)| scale(k / GROUP) * f32::from(q as i8)));
            }
            WeightFormat::Q4 => {
                for (i, four) in packed.as_chunks::<4>().0.iter().enumerate() {
                    let group = i / (GROUP / 8);
                    let (scale, offset) = (scale(2 * group), scale(2 * group + 1));
                    values.extend(four.iter().map(|byte| scale * f32::from(byte & 15) + offset));
                    values.extend(four.iter().map(|byte| scale * f32::from(byte >> 4) + offset));
                }
            }
        }
    }
}

impl std::fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Rounds to the nearest integer, ties to even, for |x| < 2^22: two additions instead of a call per value.
fn round(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23
    (x + SHIFT) - SHIFT
}

/// `1 / scale`, or 0 for a scale of 0.
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

fn quantise_q8(group: &[f32; GROUP]) -> (f16, [f32; GROUP]) {
    let largest = group.iter().fold(0.0f32, |a, v| a.max(v.abs()));
    let scale = f16::from_f32(largest / 127.0);
    let by = inverse(scale.to_f32());
    (scale, group.map(|v| round(v * by).clamp(-127.0, 127.0)))
}

/// Scale and offset from the smallest and the largest value, refitted by least squares to the integers these give.
fn quantise_q4(group: &[f32; GROUP]) -> (f16, f16, [f32; GROUP]) {
    const N: f32 = GROUP as f32;
    let quantise = |scale: f32, offset: f32| {
        let by = inverse(scale);
        group.map(|v| round((v - offset) * by).clamp(0.0, 15.0))
    };
    let (low, high) = group.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
    let (mut scale, mut offset) = ((high - low) / 15.0, low);
    let q = quantise(scale, offset);
    let (mut sx, mut sq, mut sxq, mut sqq) = (0.0f32, 0.0f32, 0.0f32, 0.0f32);
    group.iter().zip(&q).for_each(|(x, q)| (sx, sq, sxq, sqq) = (sx + x, sq + q, sxq + x * q, sqq + q * q));
    let spread = N * sqq - sq * sq;
    if spread > 0.0 {
        scale = (N * sxq - sx * sq) / spread;
        offset = (sx - scale * sq) / N;
    }
    let (scale, offset) = (f16::from_f32(scale), f16::from_f32(offset));
    (scale, offset, quantise(scale.to_f32(), offset.to_f32()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_survive_packing_in_every_format() {
        for (format, range) in [(WeightFormat::Q4, -8..8), (WeightFormat::Q8, -127..128), (WeightFormat::F16, -99..99)]
        {
            let values: Vec<f32> = range.cycle().take(32 * 17).map(|v| v as f32 * 0.25).collect();
            let (mut packed, mut scales, mut back) = (Vec::new(), Vec::new(), Vec::new());
            // A group without its extreme may get another scale; every group here has one.
            let values: Vec<f32> = match format {
                WeightFormat::Q8 => values.chunks(32).flat_map(|g| [&[31.75], &g[1..]].concat()).collect(),
                _ => values,
            };
            format.pack(&values, &mut packed, &mut scales);
            format.unpack(&packed, &scales, &mut back);
            assert_eq!(back, values, "{format}");
            assert_eq!(packed.len() as u64, 17 * format.row_bytes(32));
        }
    }

    #[test]
    fn groups_of_zeros_and_of_tiny_values_stay_finite() {
        for format in [WeightFormat::Q8, WeightFormat::Q4] {
            for value in [0.0, 1e-30, -1e-9, 6e4] {
                let (mut packed, mut scales, mut back) = (Vec::new(), Vec::new(), Vec::new());
                format.pack(&[value; 32], &mut packed, &mut scales);
                format.unpack(&packed, &scales, &mut back);
                assert!(back.iter().all(|v| v.is_finite() && (v - value).abs() <= value.abs()), "{format} {value}");
            }
        }
    }
}
