//! The ceilings of an adapter: the most that it can do, measured in the run that compares kernels with it.

use super::clock::{Clock, least};
use super::results::Ceilings;
use crate::error::{Error, Result};
use crate::runtime::{AdapterClass, Caps, Category, Device, Plan, Recorder, Step, Tensor};

/// Read and written by the measurements: more than a last-level cache holds.
const BYTES: u32 = 96 << 20;

/// The ceilings of a device. Each is the best of several runs: whatever slowed one down was not the kernel's doing.
pub fn measure(device: &Device) -> Result<Ceilings> {
    let x = device.zeros(Category::Io, "ceiling", BYTES / 4096, 1024)?;
    let copy = |r: &mut Recorder| {
        let mut y = r.empty(x.rows(), x.cols());
        r.copy(&mut y, &x);
        y
    };
    let (copy_us, _) = best(device, copy, &|out| out.iter().all(|&v| v == 0.0))?;
    let (read_us, _) = best(device, |r| r.read_sums(&x), &|out| out.iter().all(|&v| v == 0.0))?;
    // With factor 1 and summand 0 the chains stay where they begin.
    let seed = device.tensor(Category::Io, "seed", 1, 2, &[1.0f32, 0.0])?;
    let caps = device.caps();
    let (groups, steps) = match caps.class {
        AdapterClass::Gpu => (16_384, 256),
        AdapterClass::Cpu => (512, 1024),
    };
    let chains = |out: &[f32]| out.iter().enumerate().all(|(i, &v)| v == (12 * (i % 256) + 66) as f32);
    let f32_rate = best(device, |r| r.multiply_adds(&seed, groups, steps), &chains)?;
    let pairs = |out: &[f32]| out.iter().enumerate().all(|(i, &v)| v == (24 * (i % 256) + 144) as f32);
    let f16_rate = match caps.f16 {
        true => Some(best(device, |r| r.multiply_adds_f16(&seed, groups, steps), &pairs)?),
        false => None,
    };
    let matrix_rate = MatrixProbe::of(&caps).map(|probe| probe.measure(device)).transpose()?;
    let gflop_s = |(us, flops): (f64, u64)| flops as f64 / us / 1e3;
    Ok(Ceilings {
        copy_gb_s: 2.0 * f64::from(BYTES) / copy_us / 1e3,
        read_gb_s: f64::from(BYTES) / read_us / 1e3,
        f32_gflop_s: gflop_s(f32_rate),
        f16_gflop_s: f16_rate.map(gflop_s),
        matrix_gflop_s: matrix_rate.map(gflop_s),
        gap_us: Some(gap_us(device)?),
    })
}

/// Dispatches of the shorter chain; the longer one has twice as many.
const CHAIN: usize = 256;

/// Microseconds from one dispatch to the next in a chain of them that do next to nothing, each to what the one before made.
/// Of two chains, so that what a submit takes by itself is not counted.
fn gap_us(device: &Device) -> Result<f64> {
    let x = device.zeros(Category::Io, "gap", 1, 64)?;
    let chain = |length: usize| -> Result<f64> {
        let mut r = Recorder::new(device.caps());
        let mut y = r.empty(1, 64);
        r.copy(&mut y, &x);
        for _ in 0..length {
            r.add(&mut y, &x);
        }
        let plan = r.finish(device)?;
        plan.submit()?;
        let times = Clock::new(device).times(&plan, 9)?;
        Ok(times.iter().map(|t| t.wall_us).fold(f64::INFINITY, f64::min))
    };
    Ok(((chain(2 * CHAIN)? - chain(CHAIN)?) / CHAIN as f64).max(0.0))
}

impl Ceilings {
    /// The better of two measurements of the same adapter.
    pub fn max(self, other: Ceilings) -> Ceilings {
        // None is less than any number.
        let greater = |a: Option<f64>, b: Option<f64>| if a > b { a } else { b };
        Ceilings {
            copy_gb_s: self.copy_gb_s.max(other.copy_gb_s),
            read_gb_s: self.read_gb_s.max(other.read_gb_s),
            f32_gflop_s: self.f32_gflop_s.max(other.f32_gflop_s),
            f16_gflop_s: greater(self.f16_gflop_s, other.f16_gflop_s),
            matrix_gflop_s: greater(self.matrix_gflop_s, other.matrix_gflop_s),
            gap_us: [self.gap_us, other.gap_us].into_iter().flatten().reduce(f64::min),
        }
    }
}

/// Known operands for measuring matrices, and what comes of them.
#[derive(Clone, Copy, Debug)]
pub struct MatrixProbe {
    /// Rows and columns of the matrices that a subgroup multiplies.
    pub edge: u32,
    /// Invocations of a subgroup.
    pub lanes: u32,
}

impl MatrixProbe {
    /// The probe for a device, if it multiplies matrices.
    pub fn of(caps: &Caps) -> Option<MatrixProbe> {
        let (size, lanes) = caps.matrix.zip(caps.subgroup_size)?;
        Some(MatrixProbe { edge: size.edge(), lanes })
    }

    /// `[64, edge]` integers from 0 to 3: 32 rows of x, then 32 of W.
    pub fn seed(&self) -> Vec<f32> {
        (0..64 * self.edge).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 30) as f32).collect()
    }

    /// The results of a workgroup's invocations: sums over their places in the matrices that each subgroup has.
    pub fn sums(&self, workgroup: u32, steps: u32) -> Vec<f64> {
        let (seed, edge) = (self.seed(), self.edge as usize);
        let row = |i: usize| &seed[i * edge..][..edge];
        let dot = |i: usize, j: usize| -> f64 {
            row(i).iter().zip(row(32 + j)).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum()
        };
        let mut sums = vec![0.0; workgroup as usize];
        for place in 0..(workgroup / self.lanes) as usize * edge * edge {
            let (i, j) = (place % (edge * edge) / edge, place % edge);
            let blocks = (0..32).step_by(edge).flat_map(|row| (0..32).step_by(edge).map(move |column| (row, column)));
            let all: f64 = blocks.map(|(row, column)| dot(row + i, column + j)).sum();
            sums[place % workgroup as usize] += f64::from(steps) * all;
        }
        sums
    }

    fn measure(&self, device: &Device) -> Result<(f64, u64)> {
        let seed = device.tensor(Category::Io, "seed", 64, self.edge, &self.seed())?;
        let (groups, steps) = match device.caps().class {
            AdapterClass::Gpu => (4096, 1024),
            AdapterClass::Cpu => (64, 256),
        };
        let is_right = |out: &[f32]| {
            let sums = self.sums(out.len() as u32 / groups, steps);
            out.iter().zip(sums.iter().cycle()).all(|(&v, &want)| f64::from(v) == want)
        };
        best(device, |r| r.matrix_multiply_adds(&seed, groups, steps), &is_right)
    }
}

/// The least time in microseconds of a kernel that does what it should, and its arithmetic.
fn best(
    device: &Device,
    record: impl Fn(&mut Recorder) -> Tensor,
    is_right: &dyn Fn(&[f32]) -> bool,
) -> Result<(f64, u64)> {
    let mut r = Recorder::new(device.caps());
    let out = record(&mut r);
    let flops = r.flops();
    let plan: Plan = r.finish(device)?;
    plan.write_step(Step::default());
    plan.submit()?;
    if !is_right(&device.read(&plan.output(&out))?) {
        let (what, problem) = ("measuring the ceilings".into(), "a kernel computes something else".into());
        return Err(Error::Incorrect { what, problem });
    }
    Ok((least(&Clock::new(device).times(&plan, 5)?), flops))
}
