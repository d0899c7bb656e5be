//! Copies of a tiny checkpoint that tests may damage.

use std::path::{Path, PathBuf};

use instructblip::shapes::{Layers, Shape};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};

use super::golden::checkpoint_folder;

/// A copy of `tests/golden/checkpoints/mha-untied-d88` in a temporary folder.
pub struct Fixture(tempfile::TempDir);

impl Fixture {
    /// An undamaged copy.
    pub fn new() -> Fixture {
        Fixture::of("mha-untied-d88")
    }

    /// A copy of another checkpoint.
    pub fn of(name: &str) -> Fixture {
        let folder = tempfile::tempdir().expect("a temporary folder");
        copy(&checkpoint_folder(name), folder.path());
        Fixture(folder)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The bytes of a file.
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).expect("a readable file")
    }

    /// Overwrites or makes a file.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.file(name), bytes).expect("a writable file");
    }

    /// Deletes a file.
    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.file(name)).expect("a file to delete");
    }

    /// Sets a value in a JSON file, by pointer; `null` takes the key out.
    pub fn set(&self, name: &str, pointer: &str, value: Value) {
        let mut json: Value = serde_json::from_slice(&self.read(name)).expect("JSON");
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        let object = json.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
        match value {
            Value::Null => drop(object.remove(key)),
            value => drop(object.insert(key.into(), value)),
        }
        self.write(name, json.to_string());
    }

    /// [`edit_tensors`] in this folder.
    pub fn edit_tensors(&self, edit: impl Fn(&str, Stored) -> Option<Stored>) {
        edit_tensors(self.path(), edit);
    }
}

/// Rewrites `model.safetensors` of a folder with each tensor as `edit` returns it; `None` leaves it out.
pub fn edit_tensors(folder: &Path, edit: impl Fn(&str, Stored) -> Option<Stored>) {
    let file = folder.join("model.safetensors");
    let bytes = std::fs::read(&file).expect("a readable file");
    let tensors = SafeTensors::deserialize(&bytes).expect("a valid file");
    let stored = |(name, view): (String, TensorView<'_>)| {
        let tensor = Stored { dtype: view.dtype(), shape: view.shape().to_vec(), bytes: view.data().to_vec() };
        edit(&name, tensor).map(|tensor| (name, tensor))
    };
    let edited: Vec<(String, Stored)> = tensors.tensors().into_iter().filter_map(stored).collect();
    let views = edited.iter().map(|(name, t)| {
        (name.as_str(), TensorView::new(t.dtype, t.shape.clone(), &t.bytes).expect("a consistent tensor"))
    });
    std::fs::write(&file, safetensors::serialize(views, None).expect("a file")).expect("a writable file");
}

/// Gives a tensor of a folder's `model.safetensors` another name.
pub fn rename_tensor(folder: &Path, from: &str, to: &str) {
    let file = folder.join("model.safetensors");
    let bytes = std::fs::read(&file).expect("a readable file");
    let tensors = SafeTensors::deserialize(&bytes).expect("a valid file");
    let renamed = tensors.tensors().into_iter().map(|(name, view)| (if name == from { to.into() } else { name }, view));
    let bytes = safetensors::serialize(renamed, None).expect("a file");
    std::fs::write(&file, bytes).expect("a writable file");
}

/// A tensor as a file holds it.
pub struct Stored {
    /// Type of the elements.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Elements, little-endian.
    pub bytes: Vec<u8>,
}

impl Stored {
    /// The elements.
    pub fn values(&self) -> impl Iterator<Item = f32> + '_ {
        let size = if self.dtype == Dtype::F32 { 4 } else { 2 };
        self.bytes.chunks_exact(size).map(|b| match self.dtype {
            Dtype::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            Dtype::F16 => half::f16::from_le_bytes([b[0], b[1]]).to_f32(),
            Dtype::BF16 => half::bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            other => panic!("{other:?}"),
        })
    }

    /// The same tensor with other elements, as f32.
    pub fn with(&self, values: &[f32]) -> Stored {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Stored { dtype: Dtype::F32, shape: self.shape.clone(), bytes }
    }

    /// The same tensor with every element changed, as f32.
    pub fn map(&self, change: impl Fn(f32) -> f32) -> Stored {
        self.with(&self.values().map(change).collect::<Vec<f32>>())
    }
}

/// Copies a folder.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(std::fs::copy(&path, &target).expect("copied")),
        }
    }
}

/// A published shape with few layers, its widths small numbers times `scale`.
pub fn narrow(name: &str, layers: Layers, scale: u32) -> Value {
    let mut document = Shape::named(name).expect("a published shape").document();
    layers.put_into(&mut document);
    let text = match document["text_config"]["model_type"].as_str() {
        Some("llama") => json!({"hidden_size": 64 * scale, "intermediate_size": 96 * scale, "num_attention_heads": 4,
                                "num_key_value_heads": 4, "head_dim": 16 * scale, "vocab_size": 704}),
        Some("t5") => {
            json!({"d_model": 48 * scale, "d_kv": 24, "d_ff": 64 * scale, "num_heads": 3, "vocab_size": 704})
        }
        _ => json!({"hidden_size": 64 * scale, "word_embed_proj_dim": 64 * scale, "ffn_dim": 96 * scale,
                    "num_attention_heads": 4, "vocab_size": 704}),
    };
    let narrower = [
        (
            "vision_config",
            json!({"hidden_size": 48 * scale, "intermediate_size": 64 * scale, "num_attention_heads": 2 * scale,
                   "image_size": 28}),
        ),
        (
            "qformer_config",
            json!({"hidden_size": 32 * scale, "intermediate_size": 48 * scale, "num_attention_heads": 2,
                   "encoder_hidden_size": 48 * scale, "vocab_size": 513}),
        ),
        ("text_config", text),
    ];
    for (part, fields) in narrower {
        let fields = fields.as_object().expect("an object").clone();
        fields.into_iter().for_each(|(field, value)| document[part][field] = value);
    }
    document["num_query_tokens"] = 5.into();
    document["image_token_index"] = 700.into();
    document
}
