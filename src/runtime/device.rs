//! An open device: what it is, what it holds, and waiting for it.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use super::buffers::{Buffer, Pool};
use super::caps::Caps;
use super::counters::{Category, Counters};
use super::gpu::Gpu;
use super::kernels;
use super::kv_format::KvFormat;
use super::piece::PieceSize;
use super::pipelines::Pipelines;
use super::watch::{Watch, Watched, Work};
use crate::error::Result;

/// A place in what was submitted: see [`Device::mark`].
pub struct Mark(wgpu::SubmissionIndex);

/// An open device with its queue, compiled kernels and reusable buffers. Cheap to clone.
#[derive(Clone)]
pub struct Device {
    pub(super) inner: Arc<Inner>,
    pub(super) caps: Caps,
    pub(super) watch: Watched,
}

pub(super) struct Inner {
    pub gpu: Gpu,
    pub pipelines: Pipelines,
    pub pool: Pool,
    pub name: String,
    pub timestamps: bool,
    pub memory_bytes: Option<u64>,
    pub piece: PieceSize,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("name", &self.inner.name).field("caps", &self.caps).finish()
    }
}

impl Device {
    /// The facts that kernels may rely on here.
    pub fn caps(&self) -> Caps {
        self.caps
    }

    /// Gives the same device, which splits weights as if one binding could cover no more than `bytes`.
    pub fn with_binding_limit(&self, bytes: u64) -> Device {
        let limit = self.caps.max_binding_bytes.min(bytes);
        Device { caps: Caps { max_binding_bytes: limit, ..self.caps }, ..self.clone() }
    }

    /// Gives the same device, whose caches are in this format where one is given.
    pub fn with_kv_cache(&self, format: Option<KvFormat>) -> Device {
        Device { caps: self.caps.with_kv_cache(format), ..self.clone() }
    }

    /// Name, backend and driver in one line.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Says whether kernels can be timed on the device.
    pub fn has_timestamps(&self) -> bool {
        self.inner.timestamps
    }

    /// Memory the device has, where its driver says: of a card of its own, the card's. Some of it is in use by others.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.inner.memory_bytes
    }

    /// Live bytes by category and objects created so far.
    pub fn counters(&self) -> &Counters {
        &self.inner.gpu.counters
    }

    /// Waits until everything submitted so far has run.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU meanwhile.
    pub fn wait(&self) -> Result<()> {
        self.inner.gpu.wait(None, None)
    }

    /// The end of what was submitted so far.
    pub fn mark(&self) -> Mark {
        Mark(self.inner.gpu.submit([]))
    }

    /// Waits until everything in front of a mark has run, and not for what comes after it.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU meanwhile.
    pub fn wait_to(&self, mark: Mark) -> Result<()> {
        self.inner.gpu.wait(Some(mark.0), None)
    }

    /// Waits until everything submitted so far has run, but no longer than `limit`: for kernels that nobody has proved
    /// to end. A driver cannot be made to stop; dropping the device waits for it, so end the process.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU meanwhile; [`Error::DeviceLost`](crate::Error::DeviceLost) when it takes longer.
    pub fn wait_for(&self, limit: Duration) -> Result<()> {
        self.inner.gpu.wait(None, Some(limit))
    }

    /// The first fault reported by the driver since the last call, if any.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost), [`Error::OutOfMemory`](crate::Error::OutOfMemory) or
    /// [`Error::Gpu`](crate::Error::Gpu).
    pub fn check(&self) -> Result<()> {
        self.inner.gpu.check()
    }

    /// Says whether plans of this device run a kernel in the place of one of this form, of any weight format.
    pub fn runs_custom(&self, form: &str) -> bool {
        let is_of_form = |name: &str| kernels::all().any(|kernel| kernel.form == form && kernel.name == name);
        let mut custom = self.caps().custom.iter();
        custom.any(|custom| is_of_form(custom.name) && self.inner.pipelines.has(&custom.kernel))
    }

    /// Gives the same device, whose work is told to this watch and to no other: that of plans and models made with it.
    #[must_use]
    pub fn watched(&self, watch: Watch) -> Device {
        Device { watch: Arc::new(RwLock::new(watch)), ..self.clone() }
    }

    /// The listener to the work of this device.
    pub fn watch(&self) -> Watch {
        self.watch.read().expect("no panic while it is held").clone()
    }

    /// Has this watch hear of the work of plans that were made with this device. Models have watches of their own:
    /// [`InstructBlip::set_watch`](crate::InstructBlip::set_watch).
    pub fn set_watch(&self, watch: Watch) {
        *self.watch.write().expect("no panic while it is held") = watch;
    }

    /// Tells of work.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled), if it is to end.
    pub fn tell(&self, work: &Work) -> Result<()> {
        self.watch().tell(work)
    }

    /// A buffer; one that can be mapped for writing is.
    pub(super) fn buffer(
        &self,
        category: Category,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<Buffer> {
        Buffer::new(&self.inner.gpu, self.caps.max_buffer_bytes, (category, label), bytes, usage)
    }

    pub(super) fn storage_buffer(&self, category: Category, label: &str, bytes: u64) -> Result<Buffer> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        self.buffer(category, label, bytes, usage)
    }
}
