//! Time one linear layer `[m, k] x [n, k]ᵀ` on the GPU, as the model runs it:
//!
//! ```text
//! $ cargo run --release --example bench_kernel -- 257 1408 1408
//! linear_tile_subgroup 257x1408x1408: 14663 us, 69.5 GFLOP/s
//! ```
//!
//! The kernel's source is `shaders/<name>.wgsl`; edit it and run again. `cargo test --test library ops` says whether it is
//! still right.

use instructblip::runtime::{Category, Device, DeviceOptions, Linear, Matrix, Recorder, WeightFormat};

fn main() -> anyhow::Result<()> {
    let sizes: Vec<u32> = std::env::args().skip(1).map(|word| word.parse()).collect::<Result<_, _>>()?;
    let [m, n, k] = sizes[..] else { anyhow::bail!("usage: bench_kernel M N K") };
    anyhow::ensure!(k % 8 == 0, "K must be a multiple of 8");
    let device = Device::open(&DeviceOptions::default())?;

    // Weights are made on the device, by a recording of their own.
    let weight = Matrix::uninit(&device, "example", n, k, WeightFormat::F16)?;
    let mut recorder = Recorder::new(device.caps());
    recorder.fill(&weight, 1, 1.0);
    recorder.finish(&device)?.submit()?;

    let x = device.zeros(Category::Io, "x", m, k)?;
    let mut recorder = Recorder::new(device.caps());
    recorder.linear(&x, &Linear { weight, bias: None });
    let flops = recorder.flops() as f64;
    let plan = recorder.finish(&device)?;
    plan.submit()?; // the first run warms caches
    let mut times = Vec::new();
    for _ in 0..10 {
        let timings = plan.profile()?;
        times.push((timings.iter().map(|t| t.microseconds).sum::<f64>(), timings[0].kernel));
    }
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (microseconds, kernel) = times[times.len() / 2];
    println!("{kernel} {m}x{n}x{k}: {microseconds:.0} us, {:.1} GFLOP/s", flops / microseconds / 1e3);
    Ok(())
}
