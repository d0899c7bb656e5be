//! The graphics layer's device and queue, what they hold, and what happens when the GPU fails.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::counters::Counters;
use super::loss::{Loss, Operation};
use crate::error::{Error, Result, first_line};
use crate::quiet::without_panics;

/// The device and queue that buffers and pipelines are made with. It knows neither.
pub(super) struct Gpu {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub counters: Arc<Counters>,
    fault: Arc<Mutex<Option<Error>>>,
    loss: Option<Loss>,
}

impl Gpu {
    pub fn new(device: wgpu::Device, queue: wgpu::Queue) -> Gpu {
        Gpu { fault: watch_faults(&device), device, queue, counters: Arc::default(), loss: Loss::asked_for() }
    }

    /// Sends commands on their way.
    pub fn submit(&self, commands: impl IntoIterator<Item = wgpu::CommandBuffer>) -> wgpu::SubmissionIndex {
        self.meet(Operation::Submit);
        self.queue.submit(commands)
    }

    /// Has memory mapped once what was submitted before has run. Who waits for that, or reads it, hears of failures.
    pub fn map(&self, memory: wgpu::BufferSlice<'_>, mode: wgpu::MapMode) {
        self.meet(Operation::Map);
        memory.map_async(mode, |_| {});
    }

    /// Loses the device, where a test asks for that at this operation.
    fn meet(&self, operation: Operation) {
        if self.loss.as_ref().is_some_and(|loss| loss.comes_at(operation)) {
            self.device.destroy();
            remember(&self.fault, Error::DeviceLost { reason: "as a test wants it".into() });
        }
    }

    /// Waits for a submission, or for everything submitted so far, but no longer than `limit`.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU meanwhile; [`Error::DeviceLost`] when it takes longer.
    pub fn wait(&self, submission_index: Option<wgpu::SubmissionIndex>, limit: Option<Duration>) -> Result<()> {
        match (self.poll(submission_index, limit)?, limit) {
            (false, Some(limit)) => {
                Err(Error::DeviceLost { reason: format!("its kernels did not end within {} s", limit.as_secs_f64()) })
            }
            _ => Ok(()),
        }
    }

    /// Waits for a submission, but no longer than `limit`, and says whether it has run.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU meanwhile.
    pub fn wait_a_while(&self, submission: wgpu::SubmissionIndex, limit: Duration) -> Result<bool> {
        self.poll(Some(submission), Some(limit))
    }

    fn poll(&self, submission_index: Option<wgpu::SubmissionIndex>, timeout: Option<Duration>) -> Result<bool> {
        // The graphics layer panics where a driver says that the device is lost.
        let polled = without_panics(|| {
            let polled = self.device.poll(wgpu::PollType::Wait { submission_index, timeout });
            assert!(!self.loss.as_ref().is_some_and(Loss::has_come), "Error in Device::poll: Parent device is lost");
            polled
        });
        self.check()?;
        let reason = match polled {
            Some(Ok(_)) => return Ok(true),
            Some(Err(wgpu::PollError::Timeout)) => return Ok(false),
            Some(Err(e)) => first_line(&e.to_string()),
            None => "it could not be waited for".into(),
        };
        Err(Error::DeviceLost { reason })
    }

    /// The first fault reported by the driver since the last call, if any. A lost device stays lost.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::OutOfMemory`] or [`Error::Gpu`].
    pub fn check(&self) -> Result<()> {
        let mut fault = self.fault.lock().expect("no panic while the fault is held");
        match fault.take() {
            Some(Error::DeviceLost { reason }) => {
                *fault = Some(Error::DeviceLost { reason: reason.clone() });
                Err(Error::DeviceLost { reason })
            }
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// Remembers the first thing that goes wrong: the ones after it are consequences.
fn watch_faults(device: &wgpu::Device) -> Arc<Mutex<Option<Error>>> {
    let fault = Arc::new(Mutex::new(None));
    let lost = fault.clone();
    device.set_device_lost_callback(move |reason, message| {
        if reason != wgpu::DeviceLostReason::Destroyed {
            remember(&lost, Error::DeviceLost { reason: first_line(&message) });
        }
    });
    let uncaptured = fault.clone();
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        let error = match error {
            wgpu::Error::OutOfMemory { .. } => Error::OutOfMemory { what: "the driver".into(), need_bytes: 0 },
            other => Error::Gpu { what: "a command".into(), problem: first_line(&other.to_string()) },
        };
        remember(&uncaptured, error);
    }));
    fault
}

/// Remembers a fault, unless there was one before.
fn remember(first: &Mutex<Option<Error>>, error: Error) {
    if let Ok(mut first) = first.lock() {
        first.get_or_insert(error);
    }
}
