//! The folders that a model comes from: a checkpoint, and the adapter that is merged into it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::checkpoint::names::{ADAPTER_CONFIG, CONFIG};
use crate::checkpoint::{AdapterBase, Checkpoint};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::language::Language;
use crate::weights::TensorFiles;

/// A checkpoint and its adapter.
pub(super) struct Sources {
    base: Checkpoint,
    adapter: Option<Checkpoint>,
}

impl Sources {
    /// The sources that `checkpoint` stands for. A folder that holds an adapter too, or nothing else, stands for the
    /// adapter with its base, as `from_pretrained` has it.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for an adapter whose base is not a folder here, and for two adapters at once.
    pub fn of(checkpoint: &Checkpoint, adapter: Option<&Checkpoint>) -> Result<Sources> {
        let own = checkpoint.open(ADAPTER_CONFIG)?.is_some();
        let root = checkpoint.root();
        if let Some(adapter) = adapter {
            if own {
                let problem = "holds an adapter already, to which another cannot be added; give the checkpoint it was \
                               made for";
                return Err(Error::checkpoint(root, problem));
            }
            return Ok(Sources { base: checkpoint.clone(), adapter: Some(adapter.clone()) });
        }
        if !own {
            return Ok(Sources { base: checkpoint.clone(), adapter: None });
        }
        let base = match checkpoint.open(CONFIG)?.is_some() {
            true => checkpoint.clone(),
            false => match checkpoint.adapter_base()? {
                AdapterBase::Folder(folder) => Checkpoint::directory(folder)?,
                AdapterBase::Repository(name) => {
                    let problem =
                        format!("is an adapter for {name}, which is no folder here; load that, with this as adapter");
                    return Err(Error::checkpoint(root, problem));
                }
            },
        };
        Ok(Sources { base, adapter: Some(checkpoint.clone()) })
    }

    /// The checkpoint itself.
    pub fn base(&self) -> &Checkpoint {
        &self.base
    }

    /// The configuration.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], [`Error::Io`].
    pub fn config(&self) -> Result<Config> {
        let file = self.base.root().join(CONFIG);
        let missing = || Error::checkpoint(&file, "is missing; give the folder save_pretrained wrote");
        Config::parse(&file, &self.base.read(CONFIG)?.ok_or_else(missing)?)
    }

    /// The tensors of a model of this configuration.
    ///
    /// # Errors
    /// As [`TensorFiles::open`] and [`TensorFiles::adapted`].
    pub fn files(&self, config: &Config, mmap: bool) -> Result<Arc<TensorFiles>> {
        let files = TensorFiles::open(&self.base, mmap)?.tied(&Language::tied_weights(&config.text));
        Ok(Arc::new(match &self.adapter {
            Some(adapter) => files.adapted(adapter, mmap)?,
            None => files,
        }))
    }

    /// A file of the processor's: the adapter's own, as it may have more tokens than its base, or the base's.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let adapter = self.adapter.as_ref().filter(|_| name != CONFIG);
        match adapter.map(|adapter| adapter.read(name)).transpose()?.flatten() {
            Some(bytes) => Ok(Some(bytes)),
            None => self.base.read(name),
        }
    }

    /// Names of the files that [`Sources::read`] reads, but for those that say there is an adapter.
    ///
    /// # Errors
    /// As [`Checkpoint::small_files`].
    pub fn small_files(&self) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::from_iter(self.base.small_files()?);
        if let Some(adapter) = &self.adapter {
            names.extend(adapter.small_files()?);
        }
        names.remove(ADAPTER_CONFIG);
        Ok(names)
    }
}
