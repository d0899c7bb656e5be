//! burn peer: f32 matmul on burn's wgpu backend.
//!
//!   burnbench [gl|vulkan] MxNxK ...
//!
//! Prints one line per figure: `what shape unit median runs`, and the adapter first.
//! This file is the `main.rs` of a crate that `run.sh` writes outside the repository.

use burn::tensor::wgpu::WgpuBackend;
use burn::tensor::{Device, DeviceKind, Tensor, TensorData};
use std::time::Instant;

const WARM_UP: usize = 4;

struct Random(u32);

impl Random {
    fn fill(&mut self, length: usize) -> Vec<f32> {
        (0..length)
            .map(|_| {
                self.0 = self.0.wrapping_mul(1664525).wrapping_add(1013904223);
                self.0 as f32 / 4294967296.0 - 0.5
            })
            .collect()
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2] + values[(values.len() - 1) / 2]) / 2.0
}

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let api = match arguments.first().map(String::as_str) {
        Some("vulkan") => WgpuBackend::Vulkan,
        Some("gl") => WgpuBackend::Gl,
        _ => panic!("usage: burnbench gl|vulkan MxNxK ..."),
    };
    let seconds_per_shape: f64 = std::env::var("PEER_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(4.0);
    let (device, setup) = Device::wgpu_options()
        .device_kind(DeviceKind::DefaultDevice)
        .graphics_api(api)
        .init_with_setup()
        .expect("no adapter");
    let info = setup.adapter.get_info();
    println!("device {} ({:?}, {} {})", info.name, info.backend, info.driver, info.driver_info);

    let mut random = Random(0x1234_5678);
    for shape in arguments.drain(1..) {
        let sizes: Vec<usize> = shape.split('x').map(|s| s.parse().expect("a shape is MxNxK")).collect();
        let [m, n, k] = sizes[..] else { panic!("a shape is MxNxK") };
        let (left, right) = (random.fill(m * k), random.fill(k * n));
        let a = Tensor::<2>::from_data(TensorData::new(left.clone(), [m, k]), &device);
        let w = Tensor::<2>::from_data(TensorData::new(right.clone(), [k, n]), &device);

        // The first calls tune: burn times its kernels for this shape and keeps the best.
        let start = Instant::now();
        for _ in 0..WARM_UP {
            let _ = a.clone().matmul(w.clone());
            device.sync().expect("sync");
        }
        let tuning = start.elapsed().as_secs_f64();

        let got: Vec<f32> = a.clone().matmul(w.clone()).into_data().to_vec().expect("f32");
        assert_eq!(got.len(), m * n);
        let mut worst = 0f64;
        for i in 0..64 {
            let (row, column) = ((i * 7919) % m, (i * 104729) % n);
            let want: f64 = (0..k).map(|j| f64::from(left[row * k + j]) * f64::from(right[j * n + column])).sum();
            worst = worst.max((f64::from(got[row * n + column]) - want).abs());
        }
        assert!(worst < 1e-3, "{shape}: wrong result, error {worst}");

        let mut times = Vec::new();
        let begin = Instant::now();
        while times.len() < 5 || (times.len() < 30 && begin.elapsed().as_secs_f64() < seconds_per_shape) {
            let start = Instant::now();
            let _c = a.clone().matmul(w.clone());
            device.sync().expect("sync");
            times.push(start.elapsed().as_secs_f64());
        }
        let runs = times.len();
        let seconds = median(times);
        let (unit, figure) = if m == 1 {
            ("GB/s", 4.0 * (n * k) as f64 / seconds / 1e9)
        } else {
            ("GFLOP/s", 2.0 * (m * n * k) as f64 / seconds / 1e9)
        };
        eprintln!("{shape}: {:.2} ms, warm-up {tuning:.1} s, largest error {worst:.1e}", 1e3 * seconds);
        println!("matmul {shape} {unit} {figure:.3} {runs}");
    }
}
