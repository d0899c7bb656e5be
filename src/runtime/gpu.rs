//! The graphics layer's device and queue, what they hold, and what happens when the GPU fails.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::counters::Counters;
use crate::error::{Error, Result, first_line};

/// The device and queue that buffers and pipelines are made with. It knows neither.
pub(super) struct Gpu {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub counters: Arc<Counters>,
    fault: Arc<Mutex<Option<Error>>>,
}

impl Gpu {
    pub fn new(device: wgpu::Device, queue: wgpu::Queue) -> Gpu {
        Gpu { fault: watch_faults(&device), device, queue, counters: Arc::default() }
    }

    /// Waits for a submission, or for everything submitted so far, but no longer than `limit`.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU meanwhile; [`Error::DeviceLost`] when it takes longer.
    pub fn wait(&self, submission_index: Option<wgpu::SubmissionIndex>, limit: Option<Duration>) -> Result<()> {
        let polled = self.device.poll(wgpu::PollType::Wait { submission_index, timeout: limit });
        self.check()?;
        match (polled, limit) {
            (Ok(_), _) => Ok(()),
            (Err(wgpu::PollError::Timeout), Some(limit)) => {
                Err(Error::DeviceLost { reason: format!("its kernels did not end within {} s", limit.as_secs_f64()) })
            }
            (Err(e), _) => Err(Error::DeviceLost { reason: first_line(&e.to_string()) }),
        }
    }

    /// The first fault reported by the driver since the last call, if any.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::OutOfMemory`] or [`Error::Gpu`].
    pub fn check(&self) -> Result<()> {
        match self.fault.lock().expect("no panic while the fault is held").take() {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }
}

/// Remembers the first thing that goes wrong: the ones after it are consequences.
fn watch_faults(device: &wgpu::Device) -> Arc<Mutex<Option<Error>>> {
    let fault = Arc::new(Mutex::new(None));
    let remember = |first: &Mutex<Option<Error>>, error: Error| {
        if let Ok(mut first) = first.lock() {
            first.get_or_insert(error);
        }
    };
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
