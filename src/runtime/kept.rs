//! Compiled pipelines kept in a file from one run to the next, where the driver gives them out (Vulkan).

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::hash::fnv1a;

/// The first bytes of a file. They change whenever the layout of the header does.
const MAGIC: [u8; 8] = *b"IBPIPE01";

/// Magic, who wrote it, checksum of the data.
const HEADER_BYTES: usize = 24;

/// A file beyond this is neither read nor written. Kernels of all formats together are far below.
const MAX_BYTES: u64 = 64 << 20;

/// A driver's pipelines and the file they are kept in.
pub(super) struct Kept {
    cache: wgpu::PipelineCache,
    file: PathBuf,
    writer: u64,
    /// Bytes of data in the file, as far as this process knows.
    in_file: Mutex<Option<usize>>,
}

impl Kept {
    /// Reads what the file in `folder` for this adapter has. A file that is damaged, or that another version or another
    /// driver wrote, counts as none and is replaced. There is one file per adapter, so that the folder cannot grow.
    #[allow(unsafe_code)]
    pub fn open(gpu: &wgpu::Device, info: &wgpu::AdapterInfo, folder: &Path) -> Option<Kept> {
        let file = folder.join(wgpu::util::pipeline_cache_key(info)?);
        let writer = checksum([env!("CARGO_PKG_VERSION"), &info.driver, &info.driver_info].join("\n").as_bytes());
        let data = read(&file).and_then(|bytes| unpack(&bytes, writer).map(<[u8]>::to_vec));
        let descriptor = wgpu::PipelineCacheDescriptor { label: None, data: data.as_deref(), fallback: true };
        // SAFETY: the data are what this program once got from the same call for this driver: its checksum and its writer
        // say so, and the graphics layer compares adapter and driver again. The folder is the user's own.
        let cache = unsafe { gpu.create_pipeline_cache(&descriptor) };
        Some(Kept { cache, file, writer, in_file: Mutex::new(data.map(|data| data.len())) })
    }

    pub fn cache(&self) -> &wgpu::PipelineCache {
        &self.cache
    }

    /// Writes the file if there is more to keep than it has. That it cannot be written is no harm: the next run
    /// compiles.
    pub fn save(&self) {
        let Some(data) = self.cache.get_data() else { return };
        let mut in_file = self.in_file.lock().expect("no panic while it is held");
        // Drivers only ever add.
        if *in_file != Some(data.len()) && data.len() as u64 <= MAX_BYTES {
            *in_file = Some(data.len());
            let _ = write(&self.file, &pack(&data, self.writer));
        }
    }
}

fn read(file: &Path) -> Option<Vec<u8>> {
    // Opening a pipe would wait for its writer.
    let metadata = std::fs::metadata(file).ok()?;
    let fits = metadata.len() <= MAX_BYTES + HEADER_BYTES as u64;
    if metadata.is_file() && fits { std::fs::read(file).ok() } else { None }
}

/// Writes under another name first: who is killed here, or writes at the same time, leaves a whole file or one whose
/// checksum is wrong, and no more than one of each.
fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let unfinished = file.with_extension("new");
    std::fs::write(&unfinished, bytes)?;
    std::fs::rename(&unfinished, file)
}

fn pack(data: &[u8], writer: u64) -> Vec<u8> {
    [&MAGIC[..], &writer.to_le_bytes(), &checksum(data).to_le_bytes(), data].concat()
}

/// The data of a file this version wrote for this driver. Drivers trust what they are given, so nothing else will do.
fn unpack(bytes: &[u8], writer: u64) -> Option<&[u8]> {
    let (header, data) = bytes.split_at_checked(HEADER_BYTES)?;
    let want = [MAGIC, writer.to_le_bytes(), checksum(data).to_le_bytes()].concat();
    (header == want).then_some(data)
}

fn checksum(bytes: &[u8]) -> u64 {
    fnv1a(bytes.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_files_of_the_same_writer_are_read() {
        let data: Vec<u8> = (0..200).collect();
        let whole = pack(&data, 7);
        assert_eq!(unpack(&whole, 7), Some(&data[..]));
        assert_eq!(unpack(&pack(&[], 7), 7), Some(&[][..]));
        assert_eq!(unpack(&whole, 8), None);
        for length in 0..whole.len() {
            assert_eq!(unpack(&whole[..length], 7), None, "cut to {length}");
        }
        assert_eq!(unpack(&[&whole[..], &[0]].concat(), 7), None);
        for i in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[i] ^= 1;
            assert_eq!(unpack(&damaged, 7), None, "byte {i}");
        }
    }

    #[test]
    fn files_are_replaced_as_a_whole_and_bounded() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("new folder").join("kept");
        assert_eq!(read(&file), None);
        for bytes in [&[1u8; 9][..], &[2; 3]] {
            write(&file, bytes).expect("a file");
            assert_eq!(read(&file).as_deref(), Some(bytes));
        }
        assert_eq!(std::fs::read_dir(folder.path().join("new folder")).expect("a folder").count(), 1);
        assert!(write(&file.join("under a file"), &[1]).is_err());
        std::fs::File::create(&file).and_then(|f| f.set_len(MAX_BYTES + 25)).expect("a sparse file");
        assert_eq!(read(&file), None);
        assert_eq!(read(folder.path()), None);
    }
}
