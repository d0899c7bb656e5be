//! What an adapter can do at most, measured in the run that compares kernels with it.

use anyhow::{Result, ensure};
use instructblip::Device;
use instructblip::runtime::{AdapterClass, Category, Plan, Recorder, Step, Tensor};

use super::results::Ceilings;
use super::time::{Clock, least};

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
    let (groups, steps) = match device.caps().class {
        AdapterClass::Gpu => (16_384, 256),
        AdapterClass::Cpu => (512, 1024),
    };
    let chains = |out: &[f32]| out.iter().enumerate().all(|(i, &v)| (v - (12 * i + 66) as f32).abs() <= 1e-5 * v);
    let (fma_us, flops) = best(device, |r| r.multiply_adds(&seed, groups, steps), &chains)?;
    Ok(Ceilings {
        copy_gb_s: 2.0 * f64::from(BYTES) / copy_us / 1e3,
        read_gb_s: f64::from(BYTES) / read_us / 1e3,
        f32_gflop_s: flops as f64 / fma_us / 1e3,
        f16_gflop_s: None,
        matrix_gflop_s: None,
    })
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
    ensure!(is_right(&device.read(&plan.output(&out))?), "a kernel that measures a ceiling computes something else");
    Ok((least(&Clock::new(device).times(&plan, 5)?)?, flops))
}
