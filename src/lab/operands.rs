//! Operands of cases on a device: random values, and the same as an oracle is to see them.

use half::f16;

use super::oracle::{halves, quantised, wide};
use crate::error::Result;
use crate::runtime::{
    AdapterClass, Caps, Category, Device, KvFormat, KvLayer, Linear, Matrix, Norm, Recorder, Rows, Step, Tensor,
    WeightFormat,
};

/// Makes the operands of one case, the same on every machine.
pub struct Operands<'a> {
    /// The device that holds them; `None` where cases are only recorded.
    device: Option<&'a Device>,
    /// Facts about the device.
    pub caps: Caps,
    random: fastrand::Rng,
}

/// A weight matrix or a layer of them on the device, and the values of its known rows and of its bias.
pub struct Known<T> {
    /// The operand on the device.
    pub operand: T,
    /// Known rows one after another, rounded as they are stored.
    pub weights: Vec<f64>,
    /// One value a row, or none.
    pub bias: Vec<f64>,
}

impl<'a> Operands<'a> {
    /// Operands on `device`.
    pub fn new(device: &'a Device) -> Operands<'a> {
        Operands { device: Some(device), caps: device.caps(), random: fastrand::Rng::with_seed(1) }
    }

    /// Operands without memory or values, for recordings that no device runs.
    pub fn unbacked(caps: Caps) -> Operands<'a> {
        Operands { device: None, caps, random: fastrand::Rng::with_seed(1) }
    }

    /// An integer below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        self.random.u32(..n)
    }

    /// `n` values that are about normal with unit variance: sums of four uniforms, which have a third together.
    pub fn normals(&mut self, n: u32) -> Vec<f32> {
        if self.device.is_none() {
            return vec![0.0; n as usize];
        }
        let mut normal = || ((0..4).map(|_| self.random.f32()).sum::<f32>() - 2.0) * 3f32.sqrt();
        (0..n).map(|_| normal()).collect()
    }

    /// A tensor of f32.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] and other faults of the device, as everywhere here.
    pub fn tensor(&self, rows: u32, cols: u32, values: &[f32]) -> Result<Tensor> {
        self.upload(rows, cols, values)
    }

    /// A tensor of normal values, and these.
    pub fn noise(&mut self, rows: u32, cols: u32) -> Result<(Tensor, Vec<f32>)> {
        let values = self.normals(rows * cols);
        Ok((self.tensor(rows, cols, &values)?, values))
    }

    /// A tensor of u32.
    pub fn table(&self, rows: u32, cols: u32, values: &[u32]) -> Result<Tensor> {
        self.upload(rows, cols, values)
    }

    fn upload<T: bytemuck::Pod>(&self, rows: u32, cols: u32, values: &[T]) -> Result<Tensor> {
        let unbacked = Ok(Tensor::unbacked(rows, cols));
        self.device.map_or(unbacked, |device| device.tensor(Category::Io, "lab", rows, cols, values))
    }

    /// A matrix `[n, k]` whose values are not written yet.
    pub fn uninit(&self, format: WeightFormat, (n, k): (u32, u32)) -> Result<Matrix> {
        match self.device {
            Some(device) => Matrix::uninit(device, "lab", n, k, format),
            None => Ok(Matrix::unbacked("lab", n, k, format, self.caps.max_binding_bytes)),
        }
    }

    /// Writes rows of a matrix from `first` on.
    pub fn write_rows(&self, matrix: &Matrix, first: u32, values: &[f32]) {
        if let Some(device) = self.device {
            matrix.write_rows(device, first, values);
        }
    }

    /// One row of u32.
    pub fn ids(&self, values: &[u32]) -> Result<Tensor> {
        self.table(1, values.len() as u32, values)
    }

    /// A random matrix `[n, k]` of which `known` rows are written by the host; all others are filled on the device, so
    /// that large matrices are soon made.
    pub fn matrix(&mut self, format: WeightFormat, (n, k): (u32, u32), known: &[u32]) -> Result<Known<Matrix>> {
        let matrix = self.uninit(format, (n, k))?;
        if known.len() < n as usize {
            self.fill(&matrix, 0)?;
        }
        let mut weights = Vec::new();
        // Consecutive rows are written together.
        for rows in known.chunk_by(|a, b| a + 1 == *b) {
            let values: Vec<f32> = self.normals(rows.len() as u32 * k).iter().map(|v| v / (k as f32).sqrt()).collect();
            self.write_rows(&matrix, rows[0], &values);
            let (mut packed, mut scales) = (Vec::new(), Vec::new());
            format.pack(&values, &mut packed, &mut scales);
            weights.extend(match format {
                WeightFormat::F16 => values.into_iter().map(|v| f16::from_f32(v).to_f64()).collect(),
                WeightFormat::Q8 => quantised::q8(&packed, &scales),
                WeightFormat::Q4 => quantised::q4(&packed, &scales),
            });
        }
        Ok(Known { operand: matrix, weights, bias: Vec::new() })
    }

    /// A layer and others like it, filled on the device, until their weights hold 128 MiB together, which no GPU has as
    /// cache. Where arithmetic on `m` rows takes the time, weights need not be new each time.
    pub fn rotated(&self, layer: Linear, m: u32) -> Result<Vec<Linear>> {
        let Matrix { rows, cols, format, .. } = layer.weight;
        let flops = 2 * u64::from(m) * u64::from(rows) * u64::from(cols);
        let affordable = match self.caps.class {
            AdapterClass::Gpu => 400_000_000_000 / flops,
            AdapterClass::Cpu => 3_000_000_000 / flops,
        };
        let copies = (128u64 << 20).div_ceil(layer.weight.bytes()).clamp(1, 64).min(affordable.max(2));
        let mut layers = vec![layer];
        for seed in 1..copies as u32 {
            let weight = self.uninit(format, (rows, cols))?;
            self.fill(&weight, seed)?;
            layers.push(Linear { weight, bias: None });
        }
        Ok(layers)
    }

    fn fill(&self, matrix: &Matrix, seed: u32) -> Result<()> {
        let Some(device) = self.device else { return Ok(()) };
        let mut r = Recorder::new(self.caps);
        r.fill(matrix, seed, 1.0);
        r.finish(device)?.submit()
    }

    /// A linear layer, of whose weights `known` rows are known; the bias is known as a whole.
    pub fn linear(
        &mut self,
        format: WeightFormat,
        (n, k): (u32, u32),
        known: &[u32],
        has_bias: bool,
    ) -> Result<Known<Linear>> {
        let Known { operand: weight, weights, .. } = self.matrix(format, (n, k), known)?;
        let bias = if has_bias { self.normals(n) } else { Vec::new() };
        let on_device = if has_bias { Some(self.tensor(1, n, &bias)?) } else { None };
        Ok(Known { operand: Linear { weight, bias: on_device }, weights, bias: wide(&bias) })
    }

    /// A norm over `d` columns; its gains are the known weights.
    pub fn norm(&mut self, d: u32, eps: f32, has_bias: bool) -> Result<Known<Norm>> {
        let (gains, shift) = (self.normals(d), self.normals(d));
        let bias = if has_bias { Some(self.tensor(1, d, &shift)?) } else { None };
        let operand = Norm { label: "lab".into(), weight: self.tensor(1, d, &gains)?, bias, eps, folded: None };
        Ok(Known { operand, weights: wide(&gains), bias: wide(&shift) })
    }

    /// Folds a LayerNorm into the layer that follows it.
    pub fn fold(&mut self, norm: Norm, layer: &Linear) -> Result<Norm> {
        let n = layer.weight.rows;
        let norm = Norm { folded: Some(self.tensor(2, n, &vec![0.0; 2 * n as usize])?), ..norm };
        if let Some(device) = self.device {
            let mut r = Recorder::new(self.caps);
            r.fold(&norm, layer);
            r.finish(device)?.submit()?;
        }
        Ok(norm)
    }

    /// A cache that holds `keys` and `values`, both `[len, heads, dim]`, and garbage on its other pages.
    pub fn cache(&self, pages: &Pages, keys: &[f32], values: &[f32]) -> Result<KvLayer> {
        let (rows, format) = (pages.heads * pages.capacity, pages.format);
        let words = pages.stride() / format.channels_in_word();
        let half = |v: f32| u32::from(f16::from_f32(v.clamp(-65504.0, 65504.0)).to_bits());
        let tensor = |held: &[f32]| match (format, pages.lay_out(0, held)) {
            (KvFormat::F32, values) => self.tensor(rows, words, &values),
            (KvFormat::F16, values) => {
                let packed: Vec<u32> = values.chunks(2).map(|pair| half(pair[0]) | half(pair[1]) << 16).collect();
                self.table(rows, words, &packed)
            }
        };
        Ok(KvLayer { keys: tensor(keys)?, values: tensor(values)?, capacity: pages.capacity, format })
    }

    /// `t` new rows of one sequence over a cache.
    pub fn rows(&self, t: u32, pages: &Pages) -> Result<Rows> {
        let places: Vec<u32> = (0..t).flat_map(|i| [i, 0]).collect();
        let table: Vec<u32> = (0..pages.capacity).map(|s| pages.page(s)).collect();
        Ok(Rows { places: self.table(t, 2, &places)?, pages: self.ids(&table)?, prompts: None })
    }

    /// Records an op, runs it at `step`, and gives its output.
    pub fn made(&self, step: Step, record: impl FnOnce(&mut Recorder) -> Tensor) -> Result<Tensor> {
        let mut r = Recorder::new(self.caps);
        let output = record(&mut r);
        let Some(device) = self.device else { return Ok(Tensor::unbacked(output.rows(), output.cols())) };
        let plan = r.finish(device)?;
        plan.write_step(step);
        plan.submit()?;
        device.wait()?;
        Ok(plan.output(&output))
    }
}

/// The layout of a cache.
#[derive(Clone, Copy, Debug)]
pub struct Pages {
    /// Key and value heads.
    pub heads: u32,
    /// Channels of a head.
    pub dim: u32,
    /// Positions there is room for.
    pub capacity: u32,
    /// The value on pages that nothing was stored on: large where it must not get into a result, small where the whole
    /// cache is compared and it must not outweigh what was stored.
    pub garbage: f32,
    /// The storage of keys and values.
    pub format: KvFormat,
    /// True if pages lie in the order of positions, as they mostly do when a model runs; else backwards, so that a
    /// kernel that forgets the table is found out.
    pub in_order: bool,
}

impl Pages {
    /// The page of position `s`.
    pub fn page(&self, s: u32) -> u32 {
        if self.in_order { s } else { self.capacity - 1 - s }
    }

    /// Channels of a head with those that fill it up, which are zeros.
    pub fn stride(&self) -> u32 {
        self.dim.next_multiple_of(4)
    }

    /// Values as a cache holds them.
    pub fn held(&self, values: &[f32]) -> Vec<f64> {
        match self.format {
            KvFormat::F32 => wide(values),
            KvFormat::F16 => halves(&wide(values), 1.0),
        }
    }

    /// A cache's tensor before it is packed: `rows` `[len, heads, dim]` on the pages of positions from `first`, garbage on the others.
    pub fn lay_out(&self, first: u32, rows: &[f32]) -> Vec<f32> {
        let (heads, dim, stride) = (self.heads as usize, self.dim as usize, self.stride() as usize);
        let empty = [vec![self.garbage; dim], vec![0.0; stride - dim]].concat();
        let mut out = empty.repeat(heads * self.capacity as usize);
        for (row, s) in rows.chunks(heads * dim).zip(first..) {
            for (head, values) in row.chunks(dim).enumerate() {
                let at = head * self.capacity as usize + self.page(s) as usize;
                out[at * stride..][..dim].copy_from_slice(values);
            }
        }
        out
    }
}
