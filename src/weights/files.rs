//! The tensors of a checkpoint: shards, their headers, and where each tensor is.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::adapter::{Adapter, Entry};
use crate::checkpoint::names::{INDEX, WEIGHTS, Weights, is_pickle, is_shard, shards};
use crate::checkpoint::{Checkpoint, Source};
use crate::error::{Error, Result};
use crate::runtime::WeightFormat;

/// Largest header accepted; a real shard's is well under 1 MB.
const MAX_HEADER_BYTES: u64 = 8 << 20;

/// The tensors of a checkpoint: where each one is.
pub struct TensorFiles {
    pub(super) root: PathBuf,
    shards: Vec<Shard>,
    tensors: BTreeMap<String, Entry>,
    pub(super) adapter: Adapter,
}

struct Shard {
    path: PathBuf,
    source: Source,
    data_start: u64,
}

/// One tensor of a file, found once and read many times.
#[derive(Clone, Copy)]
pub struct Stored<'a> {
    shard: &'a Shard,
    info: &'a TensorInfo,
}

/// A matrix's rows as they are stored in the files.
#[derive(Clone, Copy)]
pub enum StoredRows<'a> {
    /// Floats of 16 or 32 bits under the matrix's name.
    Plain(Stored<'a>),
    /// Integers under `name.q8` or `name.q4`, with their scales under `name.scales`.
    Packed {
        /// The format of the integers.
        format: WeightFormat,
        /// The integers.
        values: Stored<'a>,
        /// The scales.
        scales: Stored<'a>,
    },
}

impl TensorFiles {
    /// Opens `model.safetensors`, or else the shards `model.safetensors.index.json` names, and reads their headers.
    /// With `mmap` files are mapped into memory where the system can; without, and elsewhere, they are read.
    ///
    /// Tensors get the names they have in the model: what `from_pretrained` renames is renamed.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when files are missing, damaged or only in pickle form; [`Error::Io`].
    pub fn open(checkpoint: &Checkpoint, mmap: bool) -> Result<TensorFiles> {
        let root = checkpoint.root().to_path_buf();
        let mut files = TensorFiles {
            root: root.clone(),
            shards: Vec::new(),
            tensors: BTreeMap::new(),
            adapter: Adapter::default(),
        };
        for name in shard_names(checkpoint)? {
            let path = root.join(&name);
            let tensors = files.read_shard(checkpoint, &name, mmap)?;
            let missing =
                || Error::checkpoint(&path, format!("is named by {INDEX} but is not there; download it again"));
            for (stored, entry) in tensors.ok_or_else(missing)? {
                let tensor = model_name(&stored);
                if files.tensors.insert(tensor.clone(), entry).is_some() {
                    return Err(Error::checkpoint(path, format!("tensor {tensor} is stored here a second time")));
                }
            }
        }
        Ok(files)
    }

    /// Opens a file of tensors and reads its header: the tensors' names in the file, and where they are. `None` when
    /// there is no such file.
    pub(super) fn read_shard(
        &mut self,
        checkpoint: &Checkpoint,
        name: &str,
        mmap: bool,
    ) -> Result<Option<Vec<(String, Entry)>>> {
        let path = checkpoint.root().join(name);
        let Some((source, size)) = checkpoint.open(name)? else { return Ok(None) };
        let (metadata, data_start) = read_header(&path, &source, size)?;
        let shard = self.shards.len();
        let entry = |(tensor, info): (String, &TensorInfo)| (tensor, Entry { shard, info: info.clone() });
        let tensors = metadata.tensors().into_iter().map(entry).collect();
        let source = if mmap { source.mapped() } else { source };
        self.shards.push(Shard { path, source, data_start });
        Ok(Some(tensors))
    }

    /// Makes a tensor that is stored under one of `names` be found under all of them, as they are one in the model.
    /// Names that are stored themselves keep their own.
    #[must_use]
    pub fn tied(mut self, names: &[String]) -> TensorFiles {
        if let Some(entry) = names.iter().find_map(|name| self.tensors.get(name)).cloned() {
            let absent: Vec<&String> = names.iter().filter(|name| self.rows(name).is_none()).collect();
            absent.into_iter().for_each(|name| self.put(name, entry.clone()));
        }
        self
    }

    /// True if two names are of the same tensor, and no adapter changes that.
    pub(super) fn are_one(&self, first: &str, second: &str) -> bool {
        let place = |name: &str| self.tensors.get(name).map(|entry| (entry.shard, entry.info.data_offsets));
        place(first).is_some() && place(first) == place(second) && ![first, second].iter().any(|n| self.is_adapted(n))
    }

    /// Gives a tensor this name.
    pub(super) fn put(&mut self, name: &str, entry: Entry) {
        self.tensors.insert(name.into(), entry);
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Bytes of all tensors.
    pub fn data_bytes(&self) -> u64 {
        self.tensors.values().map(|e| (e.info.data_offsets.1 - e.info.data_offsets.0) as u64).sum()
    }

    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        match self.rows(name) {
            Some(StoredRows::Plain(stored) | StoredRows::Packed { values: stored, .. }) => stored.shard.path.clone(),
            None => self.root.clone(),
        }
    }

    /// The tensor of this name.
    pub fn stored(&self, name: &str) -> Option<Stored<'_>> {
        self.tensors.get(name).map(|entry| self.at(entry))
    }

    /// The tensor at a place.
    pub(super) fn at<'a>(&'a self, entry: &'a Entry) -> Stored<'a> {
        Stored { shard: &self.shards[entry.shard], info: &entry.info }
    }

    /// The matrix of this name, in whatever form it is stored.
    pub fn rows(&self, name: &str) -> Option<StoredRows<'_>> {
        if let Some(plain) = self.stored(name) {
            return Some(StoredRows::Plain(plain));
        }
        let scales = self.stored(&format!("{name}.scales"))?;
        let packed = [WeightFormat::Q8, WeightFormat::Q4].into_iter();
        packed.into_iter().find_map(|format| {
            let values = self.stored(&format!("{name}.{format}"))?;
            Some(StoredRows::Packed { format, values, scales })
        })
    }

    /// Asks the system to read bytes of a tensor ahead.
    pub(super) fn prefetch(&self, name: &str, bytes: Range<u64>) {
        if let Some(stored) = self.stored(name) {
            let first = stored.first_byte();
            stored.shard.source.prefetch(first + bytes.start..first + bytes.end);
        }
    }
}

impl<'a> StoredRows<'a> {
    /// The format that needs no conversion; `None` for plain floats.
    pub fn format(&self) -> Option<WeightFormat> {
        match self {
            StoredRows::Plain(_) => None,
            StoredRows::Packed { format, .. } => Some(*format),
        }
    }

    /// Rows of the matrix.
    pub fn rows(&self) -> Option<u32> {
        let (StoredRows::Plain(stored) | StoredRows::Packed { values: stored, .. }) = self;
        stored.info.shape.first().and_then(|&n| u32::try_from(n).ok())
    }

    /// The tensors that make it up.
    pub(super) fn tensors(&self) -> impl Iterator<Item = Stored<'a>> + use<'a> {
        let (first, second) = match *self {
            StoredRows::Plain(stored) => (stored, None),
            StoredRows::Packed { values, scales, .. } => (values, Some(scales)),
        };
        std::iter::once(first).chain(second)
    }
}

impl<'a> Stored<'a> {
    /// Its shape.
    pub fn shape(&self) -> &'a [usize] {
        &self.info.shape
    }

    /// Type of its elements.
    pub fn dtype(&self) -> Dtype {
        self.info.dtype
    }

    /// Bytes of an element.
    pub fn element_bytes(&self) -> usize {
        self.info.dtype.bitsize() / 8
    }

    /// Bytes of all elements.
    pub fn bytes(&self) -> u64 {
        (self.info.data_offsets.1 - self.info.data_offsets.0) as u64
    }

    /// The file it is in.
    pub fn path(&self) -> &'a Path {
        &self.shard.path
    }

    fn first_byte(&self) -> u64 {
        self.shard.data_start + self.info.data_offsets.0 as u64
    }

    /// Elements `first .. first + count` as they are stored: in place where the file is in memory, else in `room`.
    /// What was made of them counts only if [`Stored::check_intact`] finds nothing afterwards.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn elements<'b>(&self, first: usize, count: usize, room: &'b mut Vec<u8>) -> Result<&'b [u8]>
    where
        'a: 'b,
    {
        let size = self.element_bytes();
        let start = self.first_byte() + (first * size) as u64;
        let bytes = self.shard.source.bytes(start, count * size, room);
        bytes.map_err(|e| Error::io(&self.shard.path, e))
    }

    /// Checks that a mapped file was not cut while it was read, since bytes past its end are read as zeros.
    ///
    /// # Errors
    /// [`Error::Io`] if it was.
    pub fn check_intact(&self) -> Result<()> {
        self.shard.source.check_intact().map_err(|e| Error::io(&self.shard.path, e))
    }

    /// Tells the system that the tensor was read and will not be soon again.
    pub fn release(&self) {
        let first = self.first_byte();
        self.shard.source.release(first..first + self.bytes());
    }

    /// Requires this tensor, whose name is `name`, to be stored as one of these types.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming those.
    pub(super) fn check_type(self, name: &str, supported: &[Dtype]) -> Result<()> {
        if supported.contains(&self.dtype()) {
            return Ok(());
        }
        let names: Vec<String> = supported.iter().map(|dtype| format!("{dtype:?}")).collect();
        let supported = match names.as_slice() {
            [one] => one.clone(),
            [others @ .., last] => format!("{} and {last}", others.join(", ")),
            [] => String::new(),
        };
        let problem = format!("tensor {name} is stored as {:?}; supported are {supported}", self.dtype());
        Err(Error::checkpoint(self.path(), problem))
    }
}

/// The name that a stored tensor has in the model, as `from_pretrained` finds it: without the prefix that these models
/// have inside larger ones, and with today's names of norms.
fn model_name(stored: &str) -> String {
    let name = stored.strip_prefix("blip.").unwrap_or(stored);
    name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
}

fn shard_names(checkpoint: &Checkpoint) -> Result<Vec<String>> {
    match Weights::among(|name| checkpoint.has_file(|other| other == name)) {
        Some(Weights::Single) => Ok(vec![WEIGHTS.into()]),
        Some(Weights::Sharded) => indexed(checkpoint),
        None => Err(Error::checkpoint(
            checkpoint.root(),
            if checkpoint.has_file(is_pickle) {
                "has only pickled weights, which can run code when opened and are not read; convert them once in Python: \
                 InstructBlipForConditionalGeneration.from_pretrained(dir).save_pretrained(dir)"
            } else {
                "has neither model.safetensors nor model.safetensors.index.json"
            },
        )),
    }
}

/// The files that an index names.
fn indexed(checkpoint: &Checkpoint) -> Result<Vec<String>> {
    let wrong = |problem: String| Error::checkpoint(checkpoint.root().join(INDEX), problem);
    let bytes = checkpoint.read(INDEX)?.unwrap_or_default();
    let names = shards(&bytes).ok_or_else(|| wrong("is no index of weights, or damaged; download it again".into()))?;
    match names.iter().find(|name| !is_shard(name)) {
        Some(name) => Err(wrong(format!("names a shard {name:?}, which is not a plain file name"))),
        None => Ok(names.into_iter().collect()),
    }
}

/// The header of one file, checked: sizes first, then duplicate names, then what the safetensors crate checks.
fn read_header(path: &Path, source: &Source, size: u64) -> Result<(Metadata, u64)> {
    let bad = |problem: String| Error::checkpoint(path, problem);
    let truncated = |need| bad(format!("is truncated: needs {need} bytes, has {size}; download it again"));
    if size < 8 {
        return Err(truncated(8));
    }
    let mut length = [0; 8];
    source.read_at(0, &mut length).map_err(|e| Error::io(path, e))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Err(bad(format!(
            "is not a safetensors file, or damaged: its header claims {length} bytes, at most {MAX_HEADER_BYTES} are read"
        )));
    }
    if length + 8 > size {
        return Err(truncated(length + 8));
    }
    let mut header = vec![0; length as usize];
    source.read_at(8, &mut header).map_err(|e| Error::io(path, e))?;
    let mut names = serde_json::Deserializer::from_slice(&header);
    if let Ok(Some(name)) = names.deserialize_map(DuplicateKey) {
        return Err(bad(format!("names tensor {name} twice")));
    }
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|_| {
        bad("is damaged: its header does not describe whole, adjoining tensors; download it again".into())
    })?;
    let need = (8 + length).saturating_add(metadata.data_len() as u64);
    match need.cmp(&size) {
        std::cmp::Ordering::Greater => Err(truncated(need)),
        std::cmp::Ordering::Less => {
            Err(bad(format!("is damaged: its tensors end at {need} bytes, the file at {size}")))
        }
        std::cmp::Ordering::Equal => Ok((metadata, 8 + length)),
    }
}

/// Finds a key that occurs twice in a JSON object: the safetensors crate lets the last one win.
struct DuplicateKey;

impl<'de> Visitor<'de> for DuplicateKey {
    type Value = Option<String>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<String>, A::Error> {
        let mut seen = BTreeSet::new();
        let mut duplicate = None;
        while let Some((key, _)) = map.next_entry::<String, IgnoredAny>()? {
            if duplicate.is_none() && !seen.insert(key.clone()) {
                duplicate = Some(key);
            }
        }
        Ok(duplicate)
    }
}
