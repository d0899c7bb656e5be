//! `instructblip forward`: every stage's tensors in a file, for whoever compares implementations.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;
use instructblip::model::{ForwardOptions, NamedTensor, Values};
use instructblip::{Error, Question};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::args::{Common, Forward};
use crate::progress::say;
use crate::session::{load_model, read_image};

pub fn run(common: &Common, forward: &Forward) -> Result<()> {
    check_target(&forward.output)?;
    let image = read_image(&forward.image)?;
    let mut model = load_model(common, &forward.model)?;
    let tensors = model.forward(
        &Question::new(&image, &forward.prompt),
        &ForwardOptions { taps: forward.taps.clone(), ..Default::default() },
    )?;
    let about = HashMap::from([
        ("prompt".to_string(), forward.prompt.clone()),
        ("model".to_string(), model.name().to_string()),
        ("device".to_string(), model.device().name().to_string()),
        ("program".to_string(), concat!("instructblip ", env!("CARGO_PKG_VERSION")).to_string()),
    ]);
    write(&forward.output, &tensors, about)?;
    if !common.quiet {
        for tensor in &tensors {
            say(&format!("{} {:?}", tensor.name, tensor.shape));
        }
    }
    Ok(())
}

/// Refuses, before the work is done, what could not be written after it.
fn check_target(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(unwritable(folder, std::io::Error::other("there is no such folder to write to")));
    }
    // The rename would put a plain file in the place of a device or a pipe.
    if path.metadata().is_ok_and(|m| !m.is_file()) {
        return Err(unwritable(path, std::io::Error::other("is not a regular file; give the name of one")));
    }
    Ok(())
}

/// Writes beside the target and renames: an interrupted run leaves no half file under the final name.
fn write(path: &Path, tensors: &[NamedTensor], about: HashMap<String, String>) -> Result<()> {
    let bytes: Vec<(Dtype, Vec<u8>)> = tensors
        .iter()
        .map(|t| match &t.values {
            Values::F32(values) => (Dtype::F32, bytemuck::cast_slice(values).to_vec()),
            Values::I32(values) => (Dtype::I32, bytemuck::cast_slice(values).to_vec()),
        })
        .collect();
    let views = tensors.iter().zip(&bytes).map(|(tensor, (dtype, bytes))| {
        Ok((tensor.name.as_str(), TensorView::new(*dtype, tensor.shape.clone(), bytes)?))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    let bytes = safetensors::serialize(views, Some(about))?;
    let unfinished = path.with_extension("unfinished");
    let written = std::fs::write(&unfinished, bytes).and_then(|()| std::fs::rename(&unfinished, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    written.map_err(|e| unwritable(path, e))
}

fn unwritable(path: &Path, source: std::io::Error) -> anyhow::Error {
    Error::Io { path: path.into(), source }.into()
}
