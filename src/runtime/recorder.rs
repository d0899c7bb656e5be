//! Recording: ops write dispatches and scratch buffers as plain data. Nothing here touches a device.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::buffers::Buffer;
use super::caps::Caps;
use super::kernels::Kernel;
use super::stream::Streamed;
use super::tensor::{ScratchBuffer, Storage, Tensor};

/// The memory that a kernel's binding is filled with: whole storages, since offsets travel in the parameters.
#[derive(Clone, Debug)]
pub enum Binding {
    /// The scratch buffer of this index. Not a handle: a dispatch does not keep its buffers from being reused.
    Scratch(usize),
    /// A weight, a cache or another stage's output.
    Buffer(Arc<Buffer>),
    /// The plan's [`Step`](super::plan::Step).
    Step,
    /// The plan's arrivals, at least so many u32, all zero before and after every dispatch: workgroups that have
    /// something to join count themselves there, and the last one puts its count back.
    Arrivals(u32),
}

impl From<&Tensor> for Binding {
    fn from(tensor: &Tensor) -> Self {
        match &tensor.storage {
            Storage::Scratch(buffer) => Binding::Scratch(buffer.index),
            Storage::Device(buffer) => Binding::Buffer(buffer.clone()),
        }
    }
}

/// One kernel launch, as data. `Dispatch::new` begins it, and each method that follows says one thing more.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// The place it comes from: the weight's checkpoint name, or the scope and the op.
    pub label: String,
    /// The kernel.
    pub kernel: &'static Kernel,
    /// Values of its override constants.
    pub constants: Vec<(&'static str, f64)>,
    /// The bindings in order, without the parameters, which always come last.
    pub bindings: Vec<Binding>,
    /// The kernel's `Params`.
    pub params: Vec<u8>,
    /// Workgroups in x, y and z.
    pub grid: [u32; 3],
    /// Floating point operations, a fused multiply-add counting two.
    pub flops: u64,
    /// The layer whose weights must be on the device, where they are not always.
    pub needs: Option<Arc<Streamed>>,
}

impl Dispatch {
    /// A launch of one workgroup of `kernel`, which binds nothing yet.
    pub(super) fn new(kernel: &'static Kernel, label: impl Into<String>) -> Dispatch {
        Dispatch {
            label: label.into(),
            kernel,
            constants: Vec::new(),
            bindings: Vec::new(),
            params: Vec::new(),
            grid: [1, 1, 1],
            flops: 0,
            needs: None,
        }
    }

    /// Sets an override constant; a `bool` is 0 or 1.
    pub(super) fn constant(mut self, name: &'static str, value: impl Into<f64>) -> Dispatch {
        self.constants.push((name, value.into()));
        self
    }

    /// Sets override constants that are sizes.
    pub(super) fn sizes(mut self, sizes: impl IntoIterator<Item = (&'static str, u32)>) -> Dispatch {
        self.constants.extend(sizes.into_iter().map(|(name, size)| (name, f64::from(size))));
        self
    }

    /// Binds tensors that the kernel reads, after what is bound already: none of halves.
    pub(super) fn reads<const N: usize>(self, tensors: [&Tensor; N]) -> Dispatch {
        assert!(!tensors.iter().any(|tensor| tensor.is_half()), "{}: halves in {}", self.label, self.kernel.name);
        self.binds(tensors)
    }

    /// Binds tensors that the kernel reads or writes and that may be of halves, after what is bound already.
    pub(super) fn binds<const N: usize>(mut self, tensors: [&Tensor; N]) -> Dispatch {
        self.bindings.extend(tensors.map(Binding::from));
        self
    }

    /// Binds the plan's [`Step`](super::plan::Step).
    pub(super) fn reads_step(mut self) -> Dispatch {
        self.bindings.push(Binding::Step);
        self
    }

    /// Binds `count` of the plan's arrivals, see [`Binding::Arrivals`].
    pub(super) fn counts_arrivals(mut self, count: u32) -> Dispatch {
        self.bindings.push(Binding::Arrivals(count));
        self
    }

    /// Binds tensors that the kernel writes, after what is bound already: none of halves.
    pub(super) fn writes<const N: usize>(self, tensors: [&Tensor; N]) -> Dispatch {
        self.reads(tensors)
    }

    /// Sets the kernel's `Params`.
    pub(super) fn params(self, params: &impl bytemuck::NoUninit) -> Dispatch {
        Dispatch { params: bytemuck::bytes_of(params).to_vec(), ..self }
    }

    /// Sets the workgroups in x, y and z.
    pub(super) fn grid(self, grid: [u32; 3]) -> Dispatch {
        Dispatch { grid, ..self }
    }

    /// Counts floating point operations, a fused multiply-add as two.
    pub(super) fn flops(self, flops: u64) -> Dispatch {
        Dispatch { flops, ..self }
    }

    /// Names the layer whose weights must be on the device, where they are not always.
    pub(super) fn needs(self, needs: Option<Arc<Streamed>>) -> Dispatch {
        Dispatch { needs, ..self }
    }
}

/// A LayerNorm between two layers by matrices, begun by the one before.
pub(super) struct Ahead {
    /// The norm's label.
    pub norm: String,
    /// The scratch buffer of what goes through it.
    pub buffer: Option<usize>,
    /// Its gains times that as halves, and behind them eight more for each row.
    pub rows: Tensor,
    /// Dispatches up to the one that made them: they hold until the next.
    pub dispatches: usize,
}

/// Collects the dispatches of one pass through a model part.
pub struct Recorder {
    caps: Caps,
    pub(super) dispatches: Vec<Dispatch>,
    pub(super) buffers: Vec<(Arc<ScratchBuffer>, u64)>,
    pub(super) scope_ends: Vec<usize>,
    pub(super) tapped: Vec<(String, Tensor)>,
    pub(super) ahead: Option<Ahead>,
    typical_rows: Option<u32>,
    scope: Vec<String>,
    wanted: BTreeSet<String>,
}

impl Recorder {
    /// An empty recording for devices with these `caps`.
    pub fn new(caps: Caps) -> Recorder {
        Recorder {
            caps,
            dispatches: Vec::new(),
            buffers: Vec::new(),
            scope_ends: Vec::new(),
            tapped: Vec::new(),
            ahead: None,
            typical_rows: None,
            scope: Vec::new(),
            wanted: BTreeSet::new(),
        }
    }

    /// Keeps a copy of the output of every op with one of these labels; the second of one label is `label#2`.
    pub fn with_taps(mut self, labels: &[String]) -> Recorder {
        self.wanted = labels.iter().cloned().collect();
        self
    }

    /// The facts kernels are chosen by.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// Runs `body` with `name` in front of the labels inside; a long plan may be cut where a scope ends.
    pub fn scope<T>(&mut self, name: impl Into<String>, body: impl FnOnce(&mut Recorder) -> T) -> T {
        self.scope.push(name.into());
        let value = body(self);
        self.scope.pop();
        self.scope_ends.push(self.dispatches.len());
        value
    }

    /// Runs `body` with kernels chosen as for `rows` rows, however many there are: what comes of some rows then has the same
    /// bits whatever others are with them.
    pub fn as_for_rows<T>(&mut self, rows: u32, body: impl FnOnce(&mut Recorder) -> T) -> T {
        let outer = self.typical_rows.replace(rows);
        let value = body(self);
        self.typical_rows = outer;
        value
    }

    /// The number of rows that kernels are chosen by where there are `rows`.
    pub(super) fn typical_rows(&self, rows: u32) -> u32 {
        self.typical_rows.unwrap_or(rows)
    }

    /// An uninitialised scratch tensor. Its memory is free for other ops once the last handle is dropped.
    pub fn empty(&mut self, rows: u32, cols: u32) -> Tensor {
        Tensor::new(self.buffer(4 * u64::from(rows) * u64::from(cols)), rows, cols)
    }

    /// An uninitialised scratch tensor of halves.
    pub(super) fn empty_halves(&mut self, rows: u32, cols: u32) -> Tensor {
        Tensor::new(self.buffer(2 * u64::from(rows) * u64::from(cols)), rows, cols).of_halves()
    }

    fn buffer(&mut self, bytes: u64) -> Storage {
        let free = |&i: &usize| Arc::strong_count(&self.buffers[i].0) == 1;
        let free: Vec<usize> = (0..self.buffers.len()).filter(free).collect();
        // The tightest buffer that is large enough; else the largest one, grown: no memory exists yet.
        let tightest = free.iter().filter(|&&i| self.buffers[i].1 >= bytes).min_by_key(|&&i| self.buffers[i].1);
        let chosen = tightest.or_else(|| free.iter().max_by_key(|&&i| self.buffers[i].1)).copied();
        let index = chosen.unwrap_or_else(|| {
            self.buffers.push((Arc::new(ScratchBuffer { index: self.buffers.len() }), 0));
            self.buffers.len() - 1
        });
        self.buffers[index].1 = self.buffers[index].1.max(bytes);
        Storage::Scratch(self.buffers[index].0.clone())
    }

    /// The label of an op without a weight: the scopes and `op`.
    pub(super) fn label(&self, op: &str) -> String {
        let mut parts = self.scope.clone();
        parts.push(op.into());
        parts.join(".")
    }

    /// Appends a dispatch.
    pub(super) fn push(&mut self, mut dispatch: Dispatch) {
        if let Some(custom) = self.caps.custom.iter().find(|r| r.name == dispatch.kernel.name) {
            dispatch.kernel = &custom.kernel;
        }
        let parts = dispatch.grid.iter().all(|&n| n > 0 && n <= 65_535);
        assert!(parts, "{}: grid {:?}", dispatch.label, dispatch.grid);
        self.dispatches.push(dispatch);
    }

    /// Says whether someone asked for what has this label.
    pub(super) fn is_tapped(&self, label: &str) -> bool {
        self.wanted.contains(label)
    }

    /// Keeps a copy of `output` if its label was asked for. Every op ends with this.
    pub(super) fn tap(&mut self, label: &str, output: &Tensor) {
        if self.wanted.contains(label) {
            let mut copy = self.empty(output.rows(), output.cols());
            self.launch_elementwise("tap", false, 1.0, &mut copy, output);
            // Weights that are used again (a norm over two inputs) tap again, under a name of their own.
            let again = |(name, _): &&(String, Tensor)| name == label || name.starts_with(&format!("{label}#"));
            let name = match self.tapped.iter().filter(again).count() {
                0 => label.to_string(),
                n => format!("{label}#{}", n + 1),
            };
            self.tapped.push((name, copy));
        }
    }

    /// Number of dispatches so far.
    pub fn len(&self) -> usize {
        self.dispatches.len()
    }

    /// Says whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.dispatches.is_empty()
    }

    /// The dispatches so far.
    pub fn dispatches(&self) -> &[Dispatch] {
        &self.dispatches
    }

    /// Scratch buffers so far and their bytes in all.
    pub fn scratch(&self) -> (usize, u64) {
        (self.buffers.len(), self.buffers.iter().map(|s| s.1).sum())
    }

    /// Bytes of each scratch buffer so far.
    pub fn scratch_bytes(&self) -> Vec<u64> {
        self.buffers.iter().map(|s| s.1).collect()
    }

    /// The scratch buffer that a tensor lies in.
    pub fn scratch_of(&self, tensor: &Tensor) -> Option<usize> {
        match &tensor.storage {
            Storage::Scratch(buffer) => Some(buffer.index),
            Storage::Device(_) => None,
        }
    }

    /// Floating point operations of the whole recording.
    pub fn flops(&self) -> u64 {
        self.dispatches.iter().map(|d| d.flops).sum()
    }

    /// Bytes of the buffer for [`Binding::Arrivals`], none where no dispatch binds it.
    pub(super) fn arrivals_bytes(&self) -> u64 {
        let bindings = self.dispatches.iter().flat_map(|dispatch| &dispatch.bindings);
        let counts = bindings.filter_map(|binding| match binding {
            Binding::Arrivals(count) => Some(u64::from(*count)),
            Binding::Scratch(_) | Binding::Buffer(_) | Binding::Step => None,
        });
        4 * counts.max().unwrap_or(0)
    }

    /// One line per dispatch: label, kernel, grid. What the plan tests compare.
    pub fn listing(&self) -> String {
        let line = |d: &Dispatch| {
            let [x, y, z] = d.grid;
            format!("{:<72} {:<22} {x} {y} {z}\n", d.label, d.kernel.name)
        };
        self.dispatches.iter().map(line).collect()
    }
}

/// Workgroups for `count` items of `per_group`, folded into two dimensions past the limit of one.
/// The kernel recovers its index as `x + y * num_workgroups.x`.
pub(super) fn fold(count: u64, per_group: u64) -> [u32; 3] {
    let groups = count.div_ceil(per_group).max(1);
    let y = groups.div_ceil(65_535);
    [groups.div_ceil(y) as u32, y as u32, 1]
}
