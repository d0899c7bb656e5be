//! A product by matrices that is known: what drivers make of them is young, and a wrong one must not reach a model.

use super::caps::{AdapterClass, Caps};
use super::counters::Category;
use super::device::Device;
use super::recorder::Recorder;
use super::tensor::{Linear, Matrix};
use super::weight_format::WeightFormat;
use crate::error::Result;

/// Rows, columns and inputs: several tiles and steps of k, none of them full at the end; and tiles whose inputs workgroups
/// share.
const SHAPES: [(u32, u32, u32); 2] = [(70, 72, 104), (130, 264, 1344)];

/// Says whether `device` gets the product right, to the bit: the values are small integers, which lose nothing in f16.
/// The device is as new afterwards.
pub(super) fn is_right(device: &Device) -> bool {
    let is_right = |shape: &_| product(device, *shape).is_ok_and(|y| y == expected(*shape));
    let right = SHAPES.iter().all(is_right) && device.trim().is_ok();
    device.counters().restart();
    right
}

fn product(device: &Device, (m, n, k): (u32, u32, u32)) -> Result<Vec<f32>> {
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

fn expected((m, n, k): (u32, u32, u32)) -> Vec<f32> {
    let dot = |i: u32, j: u32| (0..k).map(|c| value(i * k + c) * value(j * k + c)).sum();
    (0..m).flat_map(|i| (0..n).map(move |j| dot(i, j))).collect()
}

/// The value of element `i`: -8 to 7, in no order.
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
