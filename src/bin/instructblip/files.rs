//! Files that commands write.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

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
    if is_standard_output(path) {
        let problem = "is this program's standard output, which has other things to say; give the name of a file";
        return Err(unwritable(path, std::io::Error::other(problem)));
    }
    Ok(())
}

/// Refuses to write over what is to be read.
pub fn check_is_no_input<'a>(path: &Path, inputs: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    let Ok(path) = path.canonicalize() else { return Ok(()) };
    match inputs.into_iter().any(|input| input.canonicalize().is_ok_and(|input| input == path)) {
        true => Err(unwritable(&path, std::io::Error::other("is one of the pictures; give the name of another file"))),
        false => Ok(()),
    }
}

/// True if a file is what standard output goes to, as `/dev/stdout` is.
#[cfg(unix)]
fn is_standard_output(path: &Path) -> bool {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;
    let standard = std::io::stdout().as_fd().try_clone_to_owned();
    let standard = standard.and_then(|file| std::fs::File::from(file).metadata());
    let same = |a: std::fs::Metadata, b: std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    standard.is_ok_and(|standard| path.metadata().is_ok_and(|file| same(file, standard)))
}

#[cfg(not(unix))]
fn is_standard_output(_: &Path) -> bool {
    false
}

/// Refuses what is no regular file before it is opened: a pipe would wait for its writer, some devices never end.
pub fn check_source(path: &Path) -> instructblip::Result<()> {
    let failed = |source| Error::Io { path: path.into(), source };
    match std::fs::metadata(path).map_err(failed)? {
        found if found.is_file() => Ok(()),
        found => {
            let what = if found.is_dir() { "is a folder" } else { "is a device or a pipe" };
            Err(failed(std::io::Error::other(format!("{what}; give the name of a regular file"))))
        }
    }
}

/// Bytes in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The lines of a text file, without the mark some programs begin UTF-8 with. What ends lines may be left at their ends.
///
/// # Errors
/// [`Error::Io`], also for what is no regular file, and [`Error::Request`] for UTF-16.
pub fn read_lines(path: &Path) -> instructblip::Result<Vec<Vec<u8>>> {
    check_source(path)?;
    let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.into(), source })?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    // With its mark, or by the zeros beside ASCII.
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") || bytes[..bytes.len().min(4)].contains(&0) {
        let path = path.display();
        let problem = format!("{path} is UTF-16 text, as Windows' PowerShell 5 writes; save it as UTF-8");
        return Err(Error::Request { problem });
    }
    Ok(bytes.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect())
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

/// The text of a file.
///
/// # Errors
/// [`Error::Io`], also for what is no regular file.
pub fn read_text(path: &Path) -> instructblip::Result<String> {
    check_source(path)?;
    std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_every_system_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lines");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("written");
            read_lines(&path).map_err(|error| error.to_string())
        };
        assert_eq!(read(b"\xef\xbb\xbfa\r\nb\n"), Ok(vec![b"a\r".to_vec(), b"b".to_vec(), Vec::new()]));
        assert_eq!(read(b""), Ok(vec![Vec::new()]));
        for wide in [&b"\xff\xfe{\0"[..], b"\xfe\xff\0{", b"{\0\"\0", b"\0{\0\""] {
            assert!(read(wide).is_err_and(|e| e.contains("UTF-16") && e.contains("UTF-8")), "{wide:?}");
        }
        let folder = read_lines(folder.path()).expect_err("a folder").to_string();
        assert!(folder.contains("is a folder"), "{folder}");
        if cfg!(unix) {
            let endless = read_lines(Path::new("/dev/zero")).expect_err("a device").to_string();
            assert!(endless.contains("device or a pipe"), "{endless}");
        }
    }

    #[test]
    fn folders_have_safe_names_of_their_own() {
        let titles = ["llvmpipe (LLVM 15.0.6, 256 bits)", "../RTX 4090", "rtx/4090", "RTX 4090", "…", &"a".repeat(99)];
        let names = folder_names(titles.into_iter());
        assert_eq!(names[..3], ["llvmpipe-LLVM-15-0-6-256-bits", "RTX-4090", "rtx-4090-2"]);
        assert_eq!(names[3..], ["RTX-4090-3".to_string(), "unnamed".into(), "a".repeat(60)]);
    }
}
