//! The identity of a job: what its answers depend on, in a form that is the same on every machine.

use anyhow::Result;
use instructblip::jobs::Identity;
use instructblip::weights::Formats;
use instructblip::{Checkpoint, Error};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::files::{hex, read_text};
use crate::options::{Model, Resize, Weights};
use crate::pictures::PictureOptions;
use crate::session::{Chosen, chosen, embedded, named};

/// Places in a file of weights that are looked at, and bytes at each. All weights of a model change when it is trained on.
const SAMPLES: (u64, usize) = (64, 4096);
/// Bytes at the beginning of a file of weights that are looked at: its names and shapes.
const HEAD: usize = 1 << 16;

/// The model and the settings that `model` asks for, for answers made in as many slots.
pub fn identity(model: &Model, slots: u32) -> Result<Identity> {
    // Taken apart, so that an option that is added has to be thought of here.
    let Model { model: name, lora, resize, image_size, special_tokens, picture_options, weights, overrides } = model;
    // How large a picture may be decides whether there is an answer, not which.
    let PictureOptions { max_pixels: _, exif_rotate } = picture_options;
    let Chosen { checkpoint, adapter } = match name {
        Some(name) => chosen(name, lora.as_deref())?,
        None => Chosen { checkpoint: embedded()?, adapter: lora.as_deref().map(named).transpose()? },
    };
    let mut settings = Map::new();
    if let Some(adapter) = adapter {
        settings.insert("lora".into(), fingerprint(&adapter)?.into());
    }
    settings.insert("slots".into(), slots.into());
    let Formats { vision, qformer, language } = weights.formats();
    for (part, format) in [("vision_weights", vision), ("qformer_weights", qformer), ("language_weights", language)] {
        settings.extend(format.map(|format| (part.to_string(), Value::from(format.name()))));
    }
    // As it is asked for: where it is not, kinds of devices differ, and so may answers where two tokens are about as likely.
    let Weights { kv_cache, budget: _, offload: _, no_mmap: _, .. } = weights;
    let kv_cache = kv_cache.map(|format| format.name().into());
    let others = [
        ("kv_cache", kv_cache),
        ("resize", (*resize == Resize::Pillow13).then(|| "pillow13".into())),
        ("image_size", image_size.map(Value::from)),
        ("special_tokens", special_tokens.then_some(Value::Bool(true))),
        ("exif_rotate", exif_rotate.then_some(Value::Bool(true))),
    ];
    settings.extend(others.into_iter().filter_map(|(name, value)| Some((name.to_string(), value?))));
    for file in &overrides.files {
        let text = hex(&Sha256::digest(read_text(&file.file)?))[..16].to_string();
        settings.insert(format!("kernel {}", file.name), text.into());
    }
    Ok(Identity {
        model: fingerprint(&checkpoint)?,
        name: name.as_ref().map_or_else(|| checkpoint.root().display().to_string(), |name| name.display().to_string()),
        settings,
        program: concat!("instructblip ", env!("CARGO_PKG_VERSION")).into(),
    })
}

/// A hash of a checkpoint that is had in a moment: of its configuration and tokenizers whole, and of its weights their
/// sizes, names, shapes and samples.
fn fingerprint(checkpoint: &Checkpoint) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut add = |name: &str, size: u64, bytes: &[u8]| {
        hasher.update(format!("{name} {size}\n"));
        hasher.update(bytes);
    };
    for name in checkpoint.small_files()?.iter().filter(|name| is_read(name)) {
        let bytes = checkpoint.read(name)?.unwrap_or_default();
        add(name, bytes.len() as u64, &bytes);
    }
    for name in weights(checkpoint)? {
        let failed = |source| Error::Io { path: checkpoint.root().join(&name), source };
        let Some((source, size)) = checkpoint.open(&name)? else { continue };
        let mut buffer = vec![0; HEAD.min(size as usize)];
        source.read_at(0, &mut buffer).map_err(failed)?;
        add(&name, size, &buffer);
        buffer.resize(SAMPLES.1.min(size as usize), 0);
        for i in 0..SAMPLES.0 {
            let at = (size - buffer.len() as u64) / SAMPLES.0 * (i + 1);
            source.read_at(at, &mut buffer).map_err(failed)?;
            add("", at, &buffer);
        }
    }
    Ok(hex(&hasher.finalize())[..16].to_string())
}

/// True for files that a model is read from: no cards, no notes.
fn is_read(name: &str) -> bool {
    [".json", ".txt", ".model"].iter().any(|end| name.ends_with(end))
}

fn weights(checkpoint: &Checkpoint) -> Result<Vec<String>> {
    let mut names: Vec<String> = match checkpoint {
        Checkpoint::Embedded { files, .. } => files.iter().map(|(name, _)| name.to_string()).collect(),
        Checkpoint::Memory { files, .. } => files.keys().cloned().collect(),
        Checkpoint::Directory(root) => {
            let failed = |source| Error::Io { path: root.clone(), source };
            let entries = std::fs::read_dir(root).map_err(failed)?;
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        }
    };
    names.retain(|name| name.ends_with(".safetensors"));
    names.sort();
    Ok(names)
}
