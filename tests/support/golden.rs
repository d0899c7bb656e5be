//! Recorded outputs of the reference, and how closely ours must agree.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use instructblip::model::{NamedTensor, Values};
use safetensors::{Dtype, SafeTensors};

/// The tests' folder.
pub fn tests_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// The folder of one of the tiny checkpoints.
pub fn checkpoint_folder(name: &str) -> PathBuf {
    tests_folder().join("golden/checkpoints").join(name)
}

/// One of the pictures that goldens are of.
pub fn golden_image(name: &str) -> PathBuf {
    tests_folder().join("golden/images").join(name)
}

/// A golden file: tensors as f64 and the metadata beside them.
pub struct Golden {
    tensors: HashMap<String, (Vec<usize>, Vec<f64>)>,
    metadata: HashMap<String, String>,
}

impl Golden {
    /// The reference's results for one of the tiny checkpoints.
    pub fn of(name: &str) -> Golden {
        Golden::read(&checkpoint_folder(name).join("golden.safetensors"))
    }

    /// Reads a safetensors file.
    pub fn read(path: &Path) -> Golden {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("a valid golden file");
        let file = SafeTensors::deserialize(&bytes).expect("a valid golden file");
        let tensors = file
            .tensors()
            .into_iter()
            .map(|(name, view)| {
                let values = match view.dtype() {
                    Dtype::F32 => view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect(),
                    Dtype::I32 => view.data().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect(),
                    Dtype::I64 => view.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
                    other => panic!("{name} is {other:?}"),
                };
                (name, (view.shape().to_vec(), values))
            })
            .collect();
        Golden { tensors, metadata: header.metadata().clone().unwrap_or_default() }
    }

    /// A metadata entry.
    pub fn about(&self, key: &str) -> &str {
        self.metadata.get(key).unwrap_or_else(|| panic!("no metadata {key}"))
    }

    /// Number of cases in the file.
    pub fn cases(&self) -> usize {
        self.about("cases").parse().expect("a number of cases")
    }

    /// Shape and values of a tensor.
    pub fn tensor(&self, name: &str) -> &(Vec<usize>, Vec<f64>) {
        self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    /// Shape and values of a tensor, if there is one.
    pub fn find(&self, name: &str) -> Option<&(Vec<usize>, Vec<f64>)> {
        self.tensors.get(name)
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor of ids.
    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.tensor(name).1.iter().map(|&id| id as u32).collect()
    }
}

/// A tensor of ours as f64.
pub fn values(tensor: &NamedTensor) -> Vec<f64> {
    match &tensor.values {
        Values::F32(values) => values.iter().map(|&v| v.into()).collect(),
        Values::I32(values) => values.iter().map(|&v| v.into()).collect(),
    }
}

/// ‖got − want‖ / ‖want‖.
pub fn relative_l2(got: &[f64], want: &[f64]) -> f64 {
    let square = |it: &mut dyn Iterator<Item = f64>| it.map(|v| v * v).sum::<f64>();
    let difference = square(&mut got.iter().zip(want).map(|(g, w)| g - w));
    (difference / square(&mut want.iter().copied()).max(1e-300)).sqrt()
}

/// The largest |got − want|.
pub fn max_difference(got: &[f64], want: &[f64]) -> f64 {
    got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max)
}
