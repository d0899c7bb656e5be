//! GPU time per dispatch, by timestamp queries.

use super::counters::Category;
use super::plan::Plan;
use crate::error::{Error, Result};

/// The cost of one dispatch.
#[derive(Clone, Debug)]
pub struct Timing {
    /// The op's label.
    pub label: String,
    /// The kernel's name.
    pub kernel: &'static str,
    /// Time on the device in microseconds.
    pub microseconds: f64,
    /// Floating point operations.
    pub flops: u64,
    /// Bytes of the buffers bound: an upper bound of the traffic.
    pub bytes: u64,
}

/// Dispatches per query set: WebGPU allows 4096 queries in one.
const BATCH: usize = 2048;

impl Plan {
    /// Runs the plan once with every dispatch in a pass of its own and returns each one's time.
    ///
    /// # Errors
    /// [`Error::Request`] when the device has no timestamps, or whatever went wrong on the GPU.
    pub fn profile(&self) -> Result<Vec<Timing>> {
        let device = self.device();
        if !device.has_timestamps() {
            return Err(Error::request("this device has no timestamp queries; time whole stages instead"));
        }
        if self.streams() {
            return Err(Error::request(
                "layers that take turns in memory cannot be timed one by one; time whole stages",
            ));
        }
        let mut timings = Vec::with_capacity(self.launches.len());
        for batch in self.launches.chunks(BATCH) {
            let count = 2 * batch.len() as u32;
            let queries = device.inner.gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("profile"),
                ty: wgpu::QueryType::Timestamp,
                count,
            });
            let bytes = u64::from(count) * 8;
            let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
            let resolved = device.buffer(Category::Staging, "timestamps", bytes, usage)?;
            let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ;
            let staging = device.buffer(Category::Staging, "timestamps", bytes, usage)?;
            let mut encoder = device.inner.gpu.device.create_command_encoder(&Default::default());
            for (i, launch) in batch.iter().enumerate() {
                let writes = wgpu::ComputePassTimestampWrites {
                    query_set: &queries,
                    beginning_of_pass_write_index: Some(2 * i as u32),
                    end_of_pass_write_index: Some(2 * i as u32 + 1),
                };
                let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes: Some(writes) };
                launch.encode(&mut encoder.begin_compute_pass(&descriptor));
            }
            encoder.resolve_query_set(&queries, 0..count, resolved.gpu()?, 0);
            encoder.copy_buffer_to_buffer(resolved.gpu()?, 0, staging.gpu()?, 0, bytes);
            device.inner.gpu.submit([encoder.finish()]);
            let ticks: Vec<u64> = device.map(&staging, bytes)?;
            let microseconds = f64::from(device.inner.gpu.queue.get_timestamp_period()) / 1000.0;
            timings.extend(batch.iter().zip(ticks.chunks(2)).map(|(launch, t)| Timing {
                label: launch.label.clone(),
                kernel: launch.kernel,
                microseconds: t[1].saturating_sub(t[0]) as f64 * microseconds,
                flops: launch.flops,
                bytes: launch.bytes,
            }));
        }
        Ok(timings)
    }
}
