//! What may be chosen differently from adapter to adapter: a few sizes, and which form of a kernel runs.

use serde::{Deserialize, Serialize};

use super::device::AdapterClass;
use super::kernels;
use crate::error::{Error, Result};

/// The sizes that decide how fast kernels are on an adapter, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuning {
    /// Whether a workgroup of `linear_vec` is one subgroup, where those have one size.
    pub vec_subgroup: bool,
    /// Invocations in a workgroup of `linear_vec` (a power of two), where it is not one subgroup.
    pub vec_workgroup: u32,
    /// Columns of y that a workgroup of `linear_vec` makes: 4 or 8.
    pub vec_columns: u32,
    /// Most rows of x that go through `linear_vec`, up to 8; more go through tiles.
    pub vec_rows: u32,
    /// Whether `linear_vec` does an RMSNorm before and a rotation and store after it on the way, which reads the gains once
    /// for every workgroup and saves dispatches.
    pub fuse_norm: bool,
    /// Workgroups that share the keys of one head in a step of decoding.
    pub decode_splits: u32,
}

impl Tuning {
    /// What is good for a class of adapters, untuned.
    pub const fn of(class: AdapterClass) -> Tuning {
        match class {
            AdapterClass::Gpu => Tuning {
                vec_subgroup: true,
                vec_workgroup: 64,
                vec_columns: 4,
                vec_rows: 8,
                fuse_norm: true,
                decode_splits: 8,
            },
            // Loads cost more than dispatches there, and there are few threads to fill.
            AdapterClass::Cpu => Tuning {
                vec_subgroup: true,
                vec_workgroup: 8,
                vec_columns: 8,
                vec_rows: 8,
                fuse_norm: false,
                decode_splits: 1,
            },
        }
    }

    /// Whether every size is one that the kernels can run with: a file may say anything.
    pub fn is_valid(&self) -> bool {
        self.vec_workgroup.is_power_of_two()
            && (4..=256).contains(&self.vec_workgroup)
            && [4, 8].contains(&self.vec_columns)
            && self.vec_rows <= 8
            && (1..=64).contains(&self.decode_splits)
    }
}

/// Which forms of kernels run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Forms {
    /// The best for the adapter.
    #[default]
    Auto,
    /// Those that every GPU can run.
    Portable,
    /// This one wherever it can run, the best for the adapter elsewhere.
    Named(String),
}

impl Forms {
    /// `auto`, `portable` or a kernel's form.
    ///
    /// # Errors
    /// [`Error::Request`] for a name that no kernel has.
    pub fn parse(text: &str) -> Result<Forms> {
        match text {
            "auto" => Ok(Forms::Auto),
            "portable" => Ok(Forms::Portable),
            name => form(name).map(|name| Forms::Named(name.into())),
        }
    }
}

/// The form of this name.
///
/// # Errors
/// [`Error::Request`] for a name that no kernel has.
pub fn form(name: &str) -> Result<&'static str> {
    let mut forms: Vec<&'static str> = kernels::all().map(|kernel| kernel.form).collect();
    forms.dedup();
    match forms.iter().find(|&&form| form == name) {
        Some(form) => Ok(form),
        None => Err(Error::request(format!("there is no kernel {name:?}; there are {}", forms.join(", ")))),
    }
}
