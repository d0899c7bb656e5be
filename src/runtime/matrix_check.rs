//! Matrices that subgroups multiply: which ones an adapter has, and a product that is known. What drivers make of them is
//! young, and a wrong one must not reach a model.

use super::buffers::{Category, Linear, Matrix};
use super::device::{AdapterClass, Caps, Device, fixed_subgroup_size};
use super::recorder::Recorder;
use super::weight_format::WeightFormat;
use crate::error::Result;

/// Square matrices that a subgroup multiplies: f16 times f16, summed in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixSize {
    /// 8 x 8: Metal.
    Eight,
    /// 16 x 16: Vulkan.
    Sixteen,
}

impl MatrixSize {
    /// Rows, and columns.
    pub fn edge(self) -> u32 {
        match self {
            MatrixSize::Eight => 8,
            MatrixSize::Sixteen => 16,
        }
    }
}

/// What kernels by matrices use.
pub(super) const MATRIX_FEATURES: wgpu::Features =
    wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16).union(wgpu::Features::SUBGROUP);

/// Workgroup memory that kernels by matrices may take, in bytes.
const MATRIX_WORKGROUP_BYTES: u32 = 32 << 10;

/// The matrices that kernels may use on this adapter.
pub(super) fn matrix_size(adapter: &wgpu::Adapter) -> Option<MatrixSize> {
    let offered = adapter.cooperative_matrix_properties();
    let has = |size: &MatrixSize| {
        let types = (wgpu::CooperativeScalarType::F16, wgpu::CooperativeScalarType::F32);
        let sizes = [size.edge(); 3];
        offered.iter().any(|p| [p.m_size, p.n_size, p.k_size] == sizes && (p.ab_type, p.cr_type) == types)
    };
    let fits = adapter.features().contains(MATRIX_FEATURES)
        && adapter.limits().max_compute_workgroup_storage_size >= MATRIX_WORKGROUP_BYTES
        // Six subgroups are a workgroup of at most 256.
        && fixed_subgroup_size(&adapter.get_info(), adapter.features()).is_some_and(|lanes| lanes <= 32);
    [MatrixSize::Sixteen, MatrixSize::Eight].into_iter().find(has).filter(|_| fits)
}

/// Several tiles, rows, columns and steps of k, none of them full at the end.
const SHAPE: (u32, u32, u32) = (70, 72, 104);

/// Whether `device` gets the product right, to the bit: the values are small integers, which lose nothing in f16.
/// The device is as new afterwards.
pub(super) fn is_right(device: &Device) -> bool {
    let right = product(device).is_ok_and(|y| y == expected()) && device.trim().is_ok();
    device.counters().restart();
    right
}

fn product(device: &Device) -> Result<Vec<f32>> {
    let (m, n, k) = SHAPE;
    let values = |count| (0..count).map(value).collect::<Vec<f32>>();
    let weight = Matrix::uninit(device, "matrix check", n, k, WeightFormat::F16)?;
    weight.write_rows(device, 0, &values(n * k));
    let x = device.tensor(Category::Io, "matrix check", m, k, &values(m * k))?;
    // Software adapters choose other forms, and are tested by the pretence that they are none.
    let mut r = Recorder::new(Caps { class: AdapterClass::Gpu, ..device.caps() });
    let y = r.linear(&x, &Linear { weight, bias: None });
    let plan = r.finish(device)?;
    plan.submit()?;
    device.read(&plan.output(&y))
}

fn expected() -> Vec<f32> {
    let (m, n, k) = SHAPE;
    let dot = |i: u32, j: u32| (0..k).map(|c| value(i * k + c) * value(j * k + c)).sum();
    (0..m).flat_map(|i| (0..n).map(move |j| dot(i, j))).collect()
}

/// -8 to 7, in no order.
fn value(i: u32) -> f32 {
    (i.wrapping_mul(0x9e37_79b9) >> 28) as f32 - 8.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::DeviceOptions;

    #[test]
    fn a_device_is_right_and_as_new() {
        let device = match Device::open(&DeviceOptions::default()) {
            Ok(device) => device,
            Err(_) if std::env::var_os("INSTRUCTBLIP_TEST_WITHOUT_GPU").is_some() => return,
            Err(e) => panic!("{e}"),
        };
        if device.caps().matrix.is_none() {
            eprintln!("the check ran on the tiles of {}, which has no cooperative matrices", device.name());
        }
        assert!(is_right(&device));
        assert_eq!((device.counters().total_bytes(), device.counters().buffers_created()), (0, 0));
    }
}
