//! Test code shared by the test programs.
#![allow(dead_code)] // each program uses its part

pub mod fixtures;
pub mod golden;
pub mod models;
pub mod program;
#[cfg(feature = "hub")]
pub mod server;
#[cfg(feature = "server")]
pub mod serving;

use std::sync::Mutex;

use instructblip::runtime::{AdapterClass, Device, DeviceOptions, KvFormat};

/// The best adapter, or `None` with a loud note where the environment says that tests may run without one. The device
/// is the test's own, for tests that count what is on it.
pub fn device() -> Option<Device> {
    open(&DeviceOptions::default())
}

/// The best adapter, as [`device`] gives it, for tests that count nothing.
pub fn shared_device() -> Option<Lent> {
    static FREE: Mutex<Vec<Device>> = Mutex::new(Vec::new());
    lend(&FREE, &DeviceOptions::default())
}

/// A device of these options, for this test alone.
pub fn device_with(options: &DeviceOptions) -> Option<Lent> {
    open(options).map(|device| Lent { device, free: None })
}

/// A device with WebGPU's default limits and no optional features, for tests that count nothing.
pub fn portable_device() -> Option<Lent> {
    static FREE: Mutex<Vec<Device>> = Mutex::new(Vec::new());
    lend(&FREE, &DeviceOptions { portable: true, ..Default::default() })
}

/// A device whose shaders keep their bounds and loop checks, for tests that count nothing.
pub fn checked_device() -> Option<Lent> {
    static FREE: Mutex<Vec<Device>> = Mutex::new(Vec::new());
    lend(&FREE, &DeviceOptions { checked: true, ..Default::default() })
}

/// A device that the next test gets when this one is done with it, so that kernels are compiled about once and no two
/// tests wait for each other in one queue.
pub struct Lent {
    device: Device,
    free: Option<&'static Mutex<Vec<Device>>>,
}

/// A device that no other test gets.
impl From<Device> for Lent {
    fn from(device: Device) -> Lent {
        Lent { device, free: None }
    }
}

impl std::ops::Deref for Lent {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.device
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // A test that failed may have left anything behind.
        if let (Some(free), false) = (self.free, std::thread::panicking()) {
            free.lock().expect("free devices").push(self.device.clone());
        }
    }
}

fn lend(free: &'static Mutex<Vec<Device>>, options: &DeviceOptions) -> Option<Lent> {
    let used = free.lock().expect("free devices").pop();
    Some(Lent { device: used.or_else(|| open(options))?, free: Some(free) })
}

/// The bound for the difference of a model's stage from the reference, relative (L2).
///
/// Layers by matrices round what they multiply to f16; over the layers of the models in these tests that adds up to about
/// 1e-3. Caches of f16, GPUs' usual ones but for T5, round keys and values.
pub fn stage_bound(device: &Device) -> f64 {
    let caps = device.caps();
    let wanted = caps.class == AdapterClass::Gpu || caps.preferred.is_some_and(|form| form.contains("matrix"));
    let usual = if caps.class == AdapterClass::Gpu { KvFormat::F16 } else { KvFormat::F32 };
    match caps.kv_cache.unwrap_or(usual) {
        _ if wanted && caps.matrix.is_some() => 2e-3,
        KvFormat::F16 => 5e-4,
        KvFormat::F32 => 1e-4,
    }
}

fn open(options: &DeviceOptions) -> Option<Device> {
    match Device::open(options) {
        Ok(device) => Some(device),
        Err(e) if std::env::var_os("INSTRUCTBLIP_TEST_WITHOUT_GPU").is_some() => {
            eprintln!("SKIPPED, NOTHING WAS TESTED: {e}");
            None
        }
        Err(e) => panic!("{e}\n(INSTRUCTBLIP_TEST_WITHOUT_GPU=1 skips the tests that need a device)"),
    }
}

/// Seeded random numbers: xorshift64*.
pub struct Rng(u64);

impl Rng {
    /// The same sequence for the same seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// An integer below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        (((self.next() >> 32) * u64::from(n)) >> 32) as u32
    }

    /// About normal with unit variance: the sum of twelve uniforms.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.next() >> 40) as f32 / (1u64 << 24) as f32).sum::<f32>() - 6.0
    }

    /// `n` normal values.
    pub fn normals(&mut self, n: u32) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }
}

/// Requires ‖got − want‖ ≤ `bound` ‖want‖ and finite values; says where they differ most.
pub fn assert_close(label: &str, got: &[f32], want: &[f64], bound: f64) {
    assert_eq!(got.len(), want.len(), "{label}: number of elements");
    let got: Vec<f64> = got.iter().map(|&v| v.into()).collect();
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(want).map(|(g, w)| g - w));
    let size = norm(&mut want.iter().copied());
    let worst = (0..want.len()).max_by(|&a, &b| (got[a] - want[a]).abs().total_cmp(&(got[b] - want[b]).abs()));
    if let Some(i) = worst {
        assert!(
            difference <= bound * size.max(1e-30) && got.iter().all(|v| v.is_finite()),
            "{label}: off by {difference:e} of {size:e}, bound {bound:e}; worst at {i}: {} for {}",
            got[i],
            want[i]
        );
    }
}
