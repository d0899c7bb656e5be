//! Files that commands write.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;
use instructblip::Error;
use instructblip::model::{NamedTensor, Values};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// Refuses, before the work is done, what could not be written after it.
pub fn check_target(path: &Path) -> Result<()> {
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

/// Writes tensors as a safetensors file.
pub fn write_tensors(path: &Path, tensors: &[NamedTensor], about: HashMap<String, String>) -> Result<()> {
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
    write_bytes(path, &bytes)
}

/// Writes beside the target and renames: an interrupted run leaves no half file under the final name.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    let unfinished = path.with_extension("unfinished");
    let written = std::fs::write(&unfinished, bytes).and_then(|()| std::fs::rename(&unfinished, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&unfinished);
    }
    written.map_err(|e| unwritable(path, e))
}

/// Refuses, before the work is done, a folder that could not be made after it.
pub fn check_folder(path: &Path) -> Result<()> {
    match path.exists() && !path.is_dir() {
        true => Err(unwritable(path, std::io::Error::other("is not a folder"))),
        false => Ok(()),
    }
}

/// A name for each of these that can be a folder's on every system: letters and digits, with dashes for what is between,
/// and a number where another would have the same.
pub fn folder_names<'a>(titles: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for title in titles {
        let words = title.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let joined = words.collect::<Vec<_>>().join("-");
        let name = if joined.is_empty() { "unnamed" } else { &joined[..joined.len().min(60)] };
        let free = |name: &String| !names.iter().any(|other| other.eq_ignore_ascii_case(name));
        let mut numbered = (2..).map(|i| format!("{name}-{i}"));
        let name = Some(name.to_string()).filter(free).or_else(|| numbered.find(free));
        names.extend(name);
    }
    names
}

pub fn unwritable(path: &Path, source: std::io::Error) -> anyhow::Error {
    Error::Io { path: path.into(), source }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_have_safe_names_of_their_own() {
        let titles = ["llvmpipe (LLVM 15.0.6, 256 bits)", "../RTX 4090", "rtx/4090", "RTX 4090", "…", &"a".repeat(99)];
        let names = folder_names(titles.into_iter());
        assert_eq!(names[..3], ["llvmpipe-LLVM-15-0-6-256-bits", "RTX-4090", "rtx-4090-2"]);
        assert_eq!(names[3..], ["RTX-4090-3".to_string(), "unnamed".into(), "a".repeat(60)]);
    }
}
