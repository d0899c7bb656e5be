//! Writing tensors as `save_pretrained` does: shards of bounded size, and an index where there are several.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::runtime::{Watch, Work};

/// Threads that each write a shard.
const WRITERS: usize = 2;
/// Most bytes of a shard where nobody says otherwise.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// A tensor to write.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// Its name.
    pub name: String,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its dimensions.
    pub shape: Vec<usize>,
}

impl Written {
    /// Number of its elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }

    /// Bytes of its elements.
    pub fn bytes(&self) -> u64 {
        self.elements() * self.dtype.bitsize() as u64 / 8
    }
}

/// Makes a folder to write a checkpoint to, which must be empty or not there yet.
///
/// # Errors
/// [`Error::Request`] if there is something in its place, [`Error::Io`].
pub fn new_folder(folder: &Path) -> Result<()> {
    if let Some(file) = folder.ancestors().find(|path| path.is_file()) {
        return Err(Error::request(format!("{} is a file; give a new folder", file.display())));
    }
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    match std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))?.next() {
        Some(_) => Err(Error::request(format!("{} is not empty; give a new folder", folder.display()))),
        None => Ok(()),
    }
}

/// Takes the next bytes of a tensor.
pub type Put<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;
/// Gives all bytes of a tensor, in order. Called by several threads at once.
pub type Produce<'a> = dyn Fn(&Written, &mut Put<'_>) -> Result<()> + Sync + 'a;

/// Tensors spread over files.
#[derive(Debug)]
pub struct Shards {
    shards: Vec<Shard>,
    metadata: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Shard {
    name: String,
    /// The tensors by name, which is their order in the file.
    tensors: BTreeMap<String, Written>,
    bytes: u64,
}

impl Shards {
    /// Spreads tensors over files as `save_pretrained` does: in order, a new file where the next one does not fit. A
    /// tensor larger than `shard_bytes` has a file of its own.
    pub fn new(tensors: impl IntoIterator<Item = Written>, shard_bytes: u64, metadata: &[(&str, String)]) -> Shards {
        let mut shards: Vec<Shard> = Vec::new();
        for tensor in tensors {
            let bytes = tensor.bytes();
            if shards.last().is_none_or(|shard| shard.bytes + bytes > shard_bytes) {
                shards.push(Shard { name: String::new(), tensors: BTreeMap::new(), bytes: 0 });
            }
            let shard = shards.last_mut().expect("pushed just now");
            shard.bytes += bytes;
            shard.tensors.insert(tensor.name.clone(), tensor);
        }
        let of = shards.len();
        for (i, shard) in (1..).zip(&mut shards) {
            shard.name = match of {
                1 => "model.safetensors".into(),
                _ => format!("model-{i:05}-of-{of:05}.safetensors"),
            };
        }
        let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.clone()));
        Shards { shards, metadata: [("format".into(), "pt".into())].into_iter().chain(metadata).collect() }
    }

    /// Number of files.
    pub fn files(&self) -> usize {
        self.shards.len()
    }

    /// Number of tensors.
    pub fn tensors(&self) -> usize {
        self.shards.iter().map(|shard| shard.tensors.len()).sum()
    }

    /// Elements of all tensors.
    pub fn elements(&self) -> u64 {
        self.shards.iter().flat_map(|shard| shard.tensors.values()).map(Written::elements).sum()
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes).sum()
    }

    /// Writes all files and, if there are several, their index into `folder`. `watch` hears of it as [`Work::Writing`].
    /// After an error nothing of it is left.
    ///
    /// # Errors
    /// [`Error::Io`], also for a disk that has no room left; what `produce` gives; [`Error::Cancelled`].
    pub fn write(&self, folder: &Path, produce: &Produce<'_>, watch: &Watch) -> Result<()> {
        const INDEX: &str = "model.safetensors.index.json";
        let written = self.write_shards(folder, produce, watch).and_then(|()| match self.shards.len() {
            1 => Ok(()),
            _ => {
                let path = folder.join(INDEX);
                std::fs::write(&path, format!("{:#}\n", self.index())).map_err(|e| Error::io(path, e))
            }
        });
        written.map_err(|error| {
            let names = self.shards.iter().map(|shard| shard.name.as_str()).chain([INDEX]);
            names.for_each(|name| drop(std::fs::remove_file(folder.join(name))));
            self.explained(error)
        })
    }

    /// Says what a full disk would have needed.
    fn explained(&self, error: Error) -> Error {
        match error {
            Error::Io { path, source } if source.kind() == ErrorKind::StorageFull => {
                let bytes = self.bytes();
                let problem = format!("no room left: the tensors need {bytes} bytes in all; nothing of them was kept");
                Error::io(path, std::io::Error::new(ErrorKind::StorageFull, problem))
            }
            other => other,
        }
    }

    fn index(&self) -> Value {
        let file = |shard: &Shard| Value::from(shard.name.clone());
        let map =
            self.shards.iter().flat_map(|shard| shard.tensors.keys().map(move |name| (name.clone(), file(shard))));
        let metadata = json!({"total_parameters": self.elements(), "total_size": self.bytes()});
        json!({"metadata": metadata, "weight_map": map.collect::<Map<String, Value>>()})
    }

    /// Writes all shards, some at a time.
    fn write_shards(&self, folder: &Path, produce: &Produce<'_>, watch: &Watch) -> Result<()> {
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (sender, receiver) = channel();
        let write = |sender: Sender<usize>| -> Result<()> {
            let piece = |bytes| sender.send(bytes).is_ok() && !stop.load(Ordering::Relaxed);
            while let Some(shard) = self.shards.get(next.fetch_add(1, Ordering::Relaxed)) {
                let written = shard.write(folder, &self.metadata, produce, &piece);
                if written.is_err() {
                    // The first reason counts; what the others say follows from it.
                    return if stop.swap(true, Ordering::Relaxed) { Ok(()) } else { written };
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let writers = [(); WRITERS].map(|()| sender.clone()).map(|sender| scope.spawn(|| write(sender)));
            drop(sender);
            let (mut done, mut wanted) = (0, Ok(()));
            for bytes in receiver {
                done += bytes as u64;
                if wanted.is_ok() {
                    wanted = watch.tell(&Work::Writing { done, total: self.bytes() });
                    stop.fetch_or(wanted.is_err(), Ordering::Relaxed);
                }
            }
            let all = writers.map(|writer| writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            wanted.and(all.into_iter().collect())
        })
    }
}

impl Shard {
    /// The file's first bytes: the header's length and the header, filled up to a multiple of eight.
    fn header(&self, metadata: &BTreeMap<String, String>) -> Vec<u8> {
        let mut header = Map::from_iter([("__metadata__".to_string(), json!(metadata))]);
        let mut start = 0;
        for (name, tensor) in &self.tensors {
            let end = start + tensor.bytes();
            let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]});
            header.insert(name.clone(), entry);
            start = end;
        }
        let mut text = Value::Object(header).to_string();
        text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
        [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
    }

    /// Writes the file under another name and renames it; `piece` hears bytes and says whether to go on.
    fn write(
        &self,
        folder: &Path,
        metadata: &BTreeMap<String, String>,
        produce: &Produce<'_>,
        piece: &dyn Fn(usize) -> bool,
    ) -> Result<()> {
        let (target, unfinished) = (folder.join(&self.name), folder.join(format!("{}.unfinished", self.name)));
        let failed = |e| Error::io(&target, e);
        let written = File::create(&unfinished).map_err(failed).and_then(|mut file| {
            file.write_all(&self.header(metadata)).map_err(failed)?;
            for tensor in self.tensors.values() {
                produce(tensor, &mut |bytes| {
                    file.write_all(bytes).map_err(failed)?;
                    match piece(bytes.len()) {
                        true => Ok(()),
                        false => Err(failed(std::io::Error::other("given up, as another file could not be written"))),
                    }
                })?;
            }
            Ok(())
        });
        let done = written.and_then(|()| std::fs::rename(&unfinished, &target).map_err(failed));
        if done.is_err() {
            let _ = std::fs::remove_file(&unfinished);
        }
        done
    }
}
