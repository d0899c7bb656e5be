//! Check one linear layer `[m, k] x [n, k]ᵀ` against f64 and time it in every form that this adapter can run:
//!
//! ```text
//! $ cargo run --release --example bench_kernel -- 257 1408 1408
//! linear_tile_software auto: 15290 us, 66.6 GFLOP/s, off by 7.9e-8
//! ```
//!
//! The kernel's source is `shaders/<name>.wgsl`; edit it and run again.

use instructblip::lab::kernels::{Event, Options, measure};
use instructblip::{Device, DeviceOptions};

fn main() -> anyhow::Result<()> {
    let sizes: Vec<u32> = std::env::args().skip(1).map(|word| word.parse()).collect::<Result<_, _>>()?;
    let [m, n, k] = sizes[..] else { anyhow::bail!("usage: bench_kernel M N K") };
    let opened = DeviceOptions::default();
    let device = Device::open(&opened)?;
    // Formats are cases of their own: `linear`, `linear q8`, `linear q4`.
    let options = Options { shapes: vec![(m, n, k)], filter: Some(format!("linear {m}x")), ..Options::default() };
    let outcome = measure(&options, &device, &opened, &mut |event| {
        if let Event::Planned { cases, time, .. } = event {
            eprintln!("{cases} case, about {} s", time.as_secs());
        }
    })?;
    for row in &outcome.rows {
        let (us, rate) = (row.cold_us, row.gflop_per_s);
        println!("{} {}: {us:.0} us, {rate:.1} GFLOP/s, off by {:.1e}", row.kernel, row.variant, row.error);
    }
    for problem in &outcome.refused {
        eprintln!("{problem}");
    }
    Ok(())
}
