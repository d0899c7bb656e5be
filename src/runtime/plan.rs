//! A recording made real: replayed with one submit and no allocation.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::buffers::{Buffer, whole};
use super::caps::Caps;
use super::counters::Category;
use super::device::Device;
use super::pace::Pace;
use super::pipelines::{self, Pipeline};
use super::recorder::{Binding, Dispatch, Recorder};
use super::stream::Streamed;
use super::tensor::{Storage, Tensor};
use crate::error::{Error, Result};

/// The numbers that change from one replay of a plan to the next.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Step {
    /// Position of the first row: how many keys are in the cache before this step.
    pub pos: u32,
    /// Keys in the cache after this step.
    pub len: u32,
    /// Unused; uniform structs come in multiples of 16 bytes.
    pub reserved: [u32; 2],
}

impl Step {
    /// A step of `rows` new rows after `pos` cached ones.
    pub fn new(pos: u32, rows: u32) -> Step {
        Step { pos, len: pos + rows, reserved: [0; 2] }
    }
}

/// Readbacks that may be under way at once: the step being read and the one running.
const READBACKS: usize = 2;

/// Work one submit may hold before it is cut at the next scope end. Drivers reset a GPU that is busy for seconds;
/// on one that does 40 GFLOP/s (a weak integrated one) this is half a second.
const SUBMIT_FLOPS: u64 = 20_000_000_000;

pub(super) struct Launch {
    pub label: String,
    pub kernel: &'static str,
    pub flops: u64,
    pub bytes: u64,
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    grid: [u32; 3],
}

impl Launch {
    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline.gpu);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], self.grid[2]);
    }
}

/// Launches that are submitted together.
#[derive(Debug)]
struct Segment {
    end: usize,
    /// The layer whose weights are written before.
    needs: Option<Arc<Streamed>>,
}

struct Readback {
    staging: Vec<Buffer>,
    submitted: std::collections::VecDeque<(usize, wgpu::SubmissionIndex)>,
    next: usize,
}

/// Pipelines, buffers and bind groups of a recording.
pub struct Plan {
    device: Device,
    pub(super) launches: Vec<Launch>,
    segments: Vec<Segment>,
    scratch: Vec<Arc<Buffer>>,
    _params: Buffer,
    step: Buffer,
    _arrivals: Option<Buffer>,
    tokens: Option<Tensor>,
    readback: Mutex<Readback>,
    tapped: Vec<(String, Tensor)>,
}

impl Plan {
    fn new(recording: Recorder, device: &Device) -> Result<Plan> {
        let take = |(_, bytes): &(_, u64)| {
            device.inner.pool.take(*bytes, || device.storage_buffer(Category::Scratch, "scratch", *bytes))
        };
        let scratch: Vec<Arc<Buffer>> = recording.buffers.iter().map(take).collect::<Result<_>>()?;
        let uniform = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let step = device.buffer(Category::Io, "step", 16, uniform)?;
        // New buffers are zero.
        let arrivals = match recording.arrivals_bytes() {
            0 => None,
            bytes => Some(device.storage_buffer(Category::Io, "arrivals", bytes)?),
        };
        let stride = params_stride(&device.caps());
        let params_bytes = stride * recording.dispatches.len() as u64;
        let params = device.buffer(Category::Io, "params", params_bytes, uniform)?;
        let mut packed = vec![0u8; params.bytes() as usize];
        for (dispatch, bytes) in recording.dispatches.iter().zip(packed.chunks_mut(stride as usize)) {
            bytes[..dispatch.params.len()].copy_from_slice(&dispatch.params);
        }
        device.inner.gpu.queue.write_buffer(params.gpu()?, 0, &packed);
        let builder = Builder { device, scratch: &scratch, step: &step, arrivals: arrivals.as_ref(), params: &params };
        let variants: Vec<_> = recording.dispatches.iter().map(|d| (d.kernel, d.constants.as_slice())).collect();
        let compiled = device.inner.pipelines.get(&device.inner.gpu, &device.caps(), &variants, &device.watch())?;
        let launches = recording.dispatches.iter().zip(compiled).enumerate();
        let launch = |(i, (dispatch, pipeline))| builder.launch(dispatch, pipeline, i as u64 * stride);
        let launches = launches.map(launch).collect::<Result<Vec<_>>>()?;
        let segments = segments(&recording, SUBMIT_FLOPS);
        let on_device = |(label, tensor): &(String, Tensor)| (label.clone(), resolve(&scratch, tensor));
        let tapped = recording.tapped.iter().map(on_device).collect();
        device.check()?;
        Ok(Plan {
            device: device.clone(),
            launches,
            segments,
            _params: params,
            step,
            _arrivals: arrivals,
            tokens: None,
            readback: Mutex::new(Readback { staging: Vec::new(), submitted: Default::default(), next: 0 }),
            tapped,
            scratch,
        })
    }

    /// Names the tensor that [`Plan::read_tokens`] gives back after each submit.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn with_tokens(mut self, tokens: &Tensor) -> Result<Plan> {
        let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ;
        let bytes = 4 * u64::from(tokens.len());
        let staging = (0..READBACKS).map(|_| self.device.buffer(Category::Staging, "tokens", bytes, usage));
        self.readback.lock().expect("no panic while it is held").staging = staging.collect::<Result<_>>()?;
        self.tokens = Some(self.output(tokens));
        Ok(self)
    }

    /// A tensor of the recording as a device tensor, valid while the plan lives or the handle is kept.
    pub fn output(&self, tensor: &Tensor) -> Tensor {
        resolve(&self.scratch, tensor)
    }

    /// The tensors whose labels were asked for, with their labels.
    pub fn taps(&self) -> &[(String, Tensor)] {
        &self.tapped
    }

    /// Sets what the next submit reads as its step.
    pub fn write_step(&self, step: Step) {
        if let Ok(gpu) = self.step.gpu() {
            self.device.inner.gpu.queue.write_buffer(gpu, 0, bytemuck::bytes_of(&step));
        }
    }

    /// Runs every dispatch once, in order. Returns without waiting for the last, and, where nobody watches, for any.
    ///
    /// # Errors
    /// The fault that an earlier submit left on the GPU; [`Error::Cancelled`], when some of the dispatches may have run.
    pub fn submit(&self) -> Result<()> {
        self.device.check()?;
        let mut readback = self.readback.lock().expect("no panic while it is held");
        let mut pace = Pace::new(&self.device);
        let mut start = 0;
        for Segment { end, needs } in &self.segments {
            if let Some(layer) = needs {
                pace.wait()?;
                layer.bring()?;
            }
            loop {
                let rest = self.launches[start..*end].iter();
                let next = start + pace.piece(rest.map(|launch| (launch.flops, launch.bytes)));
                pace.wait()?;
                pace.submitted(self.submit_piece(start..next, &mut readback)?);
                start = next;
                if start >= *end {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Submits some launches, and behind the last the copy of the tokens.
    fn submit_piece(&self, launches: Range<usize>, readback: &mut Readback) -> Result<wgpu::SubmissionIndex> {
        let gpu = &self.device.inner.gpu;
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        self.launches[launches.clone()].iter().for_each(|launch| launch.encode(&mut pass));
        drop(pass);
        let Some(tokens) = self.tokens.as_ref().filter(|_| launches.end == self.launches.len()) else {
            return Ok(gpu.submit([encoder.finish()]));
        };
        assert!(readback.submitted.len() < READBACKS, "read tokens before submitting a third step");
        let Storage::Device(source) = &tokens.storage else { unreachable!("outputs are device tensors") };
        let (turn, bytes) = (readback.next, 4 * u64::from(tokens.len()));
        let staging = readback.staging[turn].gpu()?;
        encoder.copy_buffer_to_buffer(source.gpu()?, 0, staging, 0, bytes);
        let submission = gpu.submit([encoder.finish()]);
        gpu.map(staging.slice(..bytes), wgpu::MapMode::Read);
        readback.submitted.push_back((turn, submission.clone()));
        readback.next = (turn + 1) % READBACKS;
        Ok(submission)
    }

    /// The tokens of the oldest submit not yet read. Waits for that submit only, not for later ones.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn read_tokens(&self) -> Result<Vec<u32>> {
        let bytes = self.tokens.as_ref().map_or(0, |tokens| 4 * u64::from(tokens.len()));
        let mut readback = self.readback.lock().expect("no panic while it is held");
        let (turn, submission) = readback.submitted.pop_front().expect("tokens are read once per submit");
        self.device.inner.gpu.wait(Some(submission), None)?;
        let staging = readback.staging[turn].gpu()?;
        let view = staging.slice(..bytes).get_mapped_range();
        let view = view.map_err(|e| Error::Gpu { what: "reading tokens".into(), problem: e.to_string() })?;
        let tokens = bytemuck::pod_collect_to_vec(&view[..]);
        drop(view);
        staging.unmap();
        Ok(tokens)
    }

    /// Discards the tokens of submits that nobody will read.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn drain_tokens(&self) -> Result<()> {
        while !self.readback.lock().expect("no panic while it is held").submitted.is_empty() {
            self.read_tokens()?;
        }
        Ok(())
    }

    /// Number of dispatches.
    pub fn len(&self) -> usize {
        self.launches.len()
    }

    /// Says whether there is nothing to run.
    pub fn is_empty(&self) -> bool {
        self.launches.is_empty()
    }

    /// Says whether weights have to come on the way.
    pub(super) fn streams(&self) -> bool {
        self.segments.iter().any(|segment| segment.needs.is_some())
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        self.tapped.clear();
        self.tokens = None;
        self.device.inner.pool.give_back(self.scratch.drain(..));
    }
}

/// Cuts the launches into submits: at the scope end after each share of work, and before each layer whose weights
/// have to come.
fn segments(recording: &Recorder, share: u64) -> Vec<Segment> {
    let dispatches = &recording.dispatches;
    let mut segments: Vec<Segment> = Vec::new();
    let mut scope_ends = recording.scope_ends.iter().peekable();
    let (mut flops, mut needs): (u64, Option<Arc<Streamed>>) = (0, None);
    let mut first = None;
    for (i, dispatch) in dispatches.iter().enumerate() {
        let mut ends_here = false;
        while scope_ends.next_if(|&&end| end <= i).is_some() {
            ends_here = true;
        }
        let comes = dispatch.needs.as_ref().filter(|layer| needs.as_ref().is_none_or(|now| !Arc::ptr_eq(now, layer)));
        if (comes.is_some() || (ends_here && flops >= share)) && i > 0 {
            segments.push(Segment { end: i, needs: first.take() });
            flops = 0;
        }
        if let Some(layer) = comes {
            first = Some(layer.clone());
            needs = Some(layer.clone());
        }
        flops += dispatch.flops;
    }
    segments.push(Segment { end: dispatches.len(), needs: first });
    segments
}

impl Recorder {
    /// Makes the recording real on `device`: buffers, pipelines, bind groups.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DoesNotFit`], or [`Error::Gpu`] when the driver refuses a kernel.
    pub fn finish(self, device: &Device) -> Result<Plan> {
        Plan::new(self, device)
    }

    /// Bytes of the plan's own small buffers.
    pub fn io_bytes(&self) -> u64 {
        let arrivals = self.arrivals_bytes();
        let arrivals = if arrivals == 0 { 0 } else { whole(arrivals) };
        whole(params_stride(self.caps()) * self.len() as u64) + whole(16) + arrivals
    }
}

/// Bytes from one dispatch's parameters to the next one's.
fn params_stride(caps: &Caps) -> u64 {
    u64::from(caps.uniform_alignment.max(64))
}

fn resolve(scratch: &[Arc<Buffer>], tensor: &Tensor) -> Tensor {
    let mut resolved = tensor.clone();
    if let Storage::Scratch(buffer) = &tensor.storage {
        resolved.storage = Storage::Device(scratch[buffer.index].clone());
    }
    resolved
}

struct Builder<'a> {
    device: &'a Device,
    scratch: &'a [Arc<Buffer>],
    step: &'a Buffer,
    arrivals: Option<&'a Buffer>,
    params: &'a Buffer,
}

impl Builder<'_> {
    fn launch(&self, dispatch: &Dispatch, pipeline: Arc<Pipeline>, params_at: u64) -> Result<Launch> {
        let mut resources = Vec::with_capacity(dispatch.bindings.len() + 1);
        let mut bytes = 0;
        for binding in &dispatch.bindings {
            let buffer = match binding {
                Binding::Scratch(index) => &self.scratch[*index],
                Binding::Buffer(buffer) => buffer,
                Binding::Step => self.step,
                Binding::Arrivals(_) => self.arrivals.expect("a recording that binds arrivals has some"),
            };
            self.check_binding(&dispatch.label, buffer.bytes())?;
            bytes += buffer.bytes();
            resources.push(buffer.gpu()?.as_entire_binding());
        }
        let size = std::num::NonZeroU64::new(dispatch.params.len().next_multiple_of(16) as u64);
        let params = wgpu::BufferBinding { buffer: self.params.gpu()?, offset: params_at, size };
        resources.push(wgpu::BindingResource::Buffer(params));
        let bind_group = pipelines::bind_group(&self.device.inner.gpu, &pipeline, &dispatch.label, &resources);
        Ok(Launch {
            label: dispatch.label.clone(),
            kernel: dispatch.kernel.name,
            flops: dispatch.flops,
            bytes,
            pipeline,
            bind_group,
            grid: dispatch.grid,
        })
    }

    fn check_binding(&self, label: &str, need: u64) -> Result<()> {
        let have = self.device.caps().max_binding_bytes;
        if need > have {
            return Err(Error::DoesNotFit { what: format!("tensor bound by {label} in bytes"), need, have });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::tensor::{Linear, Matrix};
    use crate::runtime::weight_format::WeightFormat;

    /// Four scopes of one copy and one addition of 64 elements: 64 operations each.
    fn recording() -> Recorder {
        let mut r = Recorder::new(Caps::PORTABLE);
        let (mut y, x) = (r.empty(1, 64), Tensor::unbacked(1, 64));
        for i in 0..4 {
            r.scope(format!("{i}"), |r| {
                r.copy(&mut y, &x);
                r.add(&mut y, &x);
            });
        }
        r.copy(&mut y, &x);
        r
    }

    fn cuts(recording: &Recorder, share: u64) -> Vec<usize> {
        segments(recording, share).iter().map(|segment| segment.end).collect()
    }

    #[test]
    fn plans_are_cut_at_scope_ends_once_their_share_is_full() {
        assert_eq!(cuts(&recording(), 1_000), [9]);
        assert_eq!(cuts(&recording(), 100), [4, 8, 9]);
        assert_eq!(cuts(&recording(), 1), [2, 4, 6, 8, 9]);
    }

    #[test]
    fn an_empty_recording_is_one_empty_submit() {
        assert_eq!(cuts(&Recorder::new(Caps::PORTABLE), 1), [0]);
    }

    #[test]
    fn plans_are_cut_before_weights_that_have_to_come() {
        let layers = [Arc::new(Streamed::new()), Arc::new(Streamed::new())];
        let matrix = |layer: Option<&Arc<Streamed>>| {
            let matrix = Matrix::unbacked("w", 8, 64, WeightFormat::F16, 1 << 20);
            let weight = layer.map_or(matrix.clone(), |layer| matrix.streamed(layer));
            Linear { weight, bias: None }
        };
        let mut r = Recorder::new(Caps::PORTABLE);
        let x = Tensor::unbacked(1, 64);
        // One that stays, two of a layer, one that stays, one of another layer, and the first layer again.
        for layer in [None, Some(0), Some(0), None, Some(1), Some(0)] {
            r.linear(&x, &matrix(layer.map(|i: usize| &layers[i])));
        }
        let found = segments(&r, u64::MAX);
        let ends: Vec<usize> = found.iter().map(|s| s.end).collect();
        assert_eq!(ends, [1, 4, 5, 6]);
        let needed = |i: usize, layer: usize| found[i].needs.as_ref().is_some_and(|n| Arc::ptr_eq(n, &layers[layer]));
        assert!(found[0].needs.is_none() && needed(1, 0) && needed(2, 1) && needed(3, 0));
    }
}
