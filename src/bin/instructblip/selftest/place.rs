//! Where cases run: a device, the facts kernel forms are chosen by, and random inputs.

use half::f16;
use instructblip::runtime::{
    AdapterClass, Caps, Category, KvLayer, Linear, Matrix, Norm, Recorder, Rows, Tensor, WeightFormat,
};
use instructblip::{Device, DeviceOptions, Result};

use super::oracle::{quantised, wide};
use crate::common::Common;

/// An open device and the caps to choose kernel forms by.
#[derive(Clone)]
pub struct Place {
    /// What the forms are called in reports.
    pub form: &'static str,
    /// The device.
    pub device: Device,
    /// What forms are chosen by: a form for other devices may run on this one, too.
    pub caps: Caps,
}

/// A form that could not be tried, and why.
pub type NotRun = (&'static str, String);

/// The adapter's own forms, those by matrices, the portable ones under WebGPU's default limits, and those again with
/// every runtime check on. With `--portable` or `--checked`, what commands with these options run instead.
pub fn places(common: &Common) -> Result<(Vec<Place>, Vec<NotRun>)> {
    let options = crate::session::device_options(common)?;
    let open = |portable, checked| Device::open(&DeviceOptions { portable, checked, ..options.clone() });
    let (mut places, mut not_run) = (Vec::new(), Vec::new());
    if !common.portable && !common.checked {
        let device = open(false, false)?;
        let caps = device.caps();
        places.push(Place { form: "own", caps, device: device.clone() });
        match (caps.matrix, caps.class) {
            (None, _) => not_run.push(("matrix", "the adapter has no cooperative matrices that can be used".into())),
            // On a GPU they are its own.
            (Some(_), AdapterClass::Gpu) => {}
            (Some(_), AdapterClass::Cpu) => {
                places.push(Place { form: "matrix", caps: Caps { class: AdapterClass::Gpu, ..caps }, device });
            }
        }
    }
    if !common.checked {
        match open(true, false) {
            Ok(device) => places.push(Place { form: "portable", caps: Caps::PORTABLE, device }),
            // The other forms may still do; the reason is in the report.
            Err(e) if !common.portable => not_run.push(("portable", e.to_string())),
            Err(e) => return Err(e),
        }
    }
    let device = open(common.portable, true)?;
    if common.checked && !common.portable {
        places.push(Place { form: "own, checked", caps: device.caps(), device: device.clone() });
    }
    places.push(Place { form: "portable, checked", caps: Caps::PORTABLE, device });
    Ok((places, not_run))
}

/// The adapter's own forms alone.
pub fn own(common: &Common) -> anyhow::Result<Place> {
    let device = crate::session::open_device(common)?;
    Ok(Place { form: "own", caps: device.caps(), device })
}

impl Place {
    /// An empty recording.
    pub fn recorder(&self) -> Recorder {
        Recorder::new(self.caps)
    }

    /// The same place, on which matrices are split as if a binding held no more than `bytes`.
    pub fn with_binding_limit(&self, bytes: u64) -> Place {
        Place { device: self.device.with_binding_limit(bytes), ..self.clone() }
    }

    /// A tensor of f32.
    pub fn tensor(&self, rows: u32, cols: u32, values: &[f32]) -> Result<Tensor> {
        self.device.tensor(Category::Io, "selftest", rows, cols, values)
    }

    /// A tensor of u32.
    pub fn table(&self, rows: u32, cols: u32, values: &[u32]) -> Result<Tensor> {
        self.device.tensor(Category::Io, "selftest", rows, cols, values)
    }

    /// One row of u32.
    pub fn ids(&self, values: &[u32]) -> Result<Tensor> {
        self.table(1, values.len() as u32, values)
    }

    /// A random matrix in `format`, and its values as the oracle is to see them: rounded as they are stored.
    pub fn matrix(&self, rng: &mut Rng, format: WeightFormat, n: u32, k: u32) -> Result<(Matrix, Vec<f64>)> {
        let values: Vec<f32> = (0..n * k).map(|_| rng.normal() / (k as f32).sqrt()).collect();
        let matrix = Matrix::uninit(&self.device, "selftest", n, k, format)?;
        matrix.write_rows(&self.device, 0, &values);
        let (mut packed, mut scales) = (Vec::new(), Vec::new());
        format.pack(&values, &mut packed, &mut scales);
        let seen = match format {
            WeightFormat::F16 => values.into_iter().map(|v| f16::from_f32(v).to_f64()).collect(),
            WeightFormat::Q8 => quantised::q8(&packed, &scales),
            WeightFormat::Q4 => quantised::q4(&packed, &scales),
        };
        Ok((matrix, seen))
    }

    /// A linear layer with random parameters, and those as the oracle is to see them.
    pub fn linear(
        &self,
        rng: &mut Rng,
        format: WeightFormat,
        (n, k): (u32, u32),
        bias: bool,
    ) -> Result<(Linear, Vec<f64>, Vec<f64>)> {
        let (weight, w) = self.matrix(rng, format, n, k)?;
        let b = if bias { rng.normals(n) } else { Vec::new() };
        let bias = if bias { Some(self.tensor(1, n, &b)?) } else { None };
        Ok((Linear { weight, bias }, w, wide(&b)))
    }

    /// A norm with random parameters, and those as the oracle is to see them.
    pub fn norm(&self, rng: &mut Rng, d: u32, eps: f32, bias: bool) -> Result<(Norm, Vec<f64>, Vec<f64>)> {
        let (weight, shift) = (rng.normals(d), rng.normals(d));
        let bias = if bias { Some(self.tensor(1, d, &shift)?) } else { None };
        let norm = Norm { label: "selftest".into(), weight: self.tensor(1, d, &weight)?, bias, eps };
        Ok((norm, wide(&weight), wide(&shift)))
    }

    /// A cache of `capacity` pages as its tensors hold it, head by head.
    pub fn cache(&self, pages: &Pages, keys: &[f32], values: &[f32]) -> Result<KvLayer> {
        let tensor = |rows: &[f32]| self.tensor(pages.heads * pages.capacity, pages.dim, &pages.lay_out(rows));
        Ok(KvLayer { keys: tensor(keys)?, values: tensor(values)?, capacity: pages.capacity })
    }

    /// `t` new rows of one sequence over a cache.
    pub fn rows(&self, t: u32, pages: &Pages) -> Result<Rows> {
        let places: Vec<u32> = (0..t).flat_map(|i| [i, 0]).collect();
        let table: Vec<u32> = (0..pages.capacity).map(|s| pages.page(s)).collect();
        Ok(Rows { places: self.table(t, 2, &places)?, pages: self.ids(&table)? })
    }
}

/// How a cache is laid out.
#[derive(Clone, Copy, Debug)]
pub struct Pages {
    /// Key and value heads.
    pub heads: u32,
    /// Channels of a head.
    pub dim: u32,
    /// Positions there is room for.
    pub capacity: u32,
    /// What is on pages that nothing was stored on.
    pub garbage: f32,
}

impl Pages {
    /// The page of position `s`: backwards, so that a kernel that forgets the table is found out.
    pub fn page(&self, s: u32) -> u32 {
        self.capacity - 1 - s
    }

    /// `rows` `[len, heads, dim]` on the pages of positions from 0, head by head, garbage on the others.
    pub fn lay_out(&self, rows: &[f32]) -> Vec<f32> {
        self.lay_out_from(0, rows)
    }

    /// The same for positions from `first`.
    pub fn lay_out_from(&self, first: u32, rows: &[f32]) -> Vec<f32> {
        let (heads, dim) = (self.heads as usize, self.dim as usize);
        let mut out = vec![self.garbage; heads * self.capacity as usize * dim];
        for (row, s) in rows.chunks(heads * dim).zip(first..) {
            for (head, values) in row.chunks(dim).enumerate() {
                let at = head * self.capacity as usize + self.page(s) as usize;
                out[at * dim..][..dim].copy_from_slice(values);
            }
        }
        out
    }
}

/// Seeded random numbers: a case is the same on every machine.
pub struct Rng(fastrand::Rng);

impl Rng {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Rng {
        Rng(fastrand::Rng::with_seed(seed))
    }

    /// An integer below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        self.0.u32(..n)
    }

    /// About normal with unit variance: the sum of four uniforms, which have a third together.
    pub fn normal(&mut self) -> f32 {
        ((0..4).map(|_| self.0.f32()).sum::<f32>() - 2.0) * 3f32.sqrt()
    }

    /// `n` normal values.
    pub fn normals(&mut self, n: u32) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }
}
