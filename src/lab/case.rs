//! One op at one shape: its operands, what it must give, and what it costs at least.

use std::time::Duration;

use half::f16;

use super::operands::Operands;
use super::oracle;
use crate::error::{Error, Result};
use crate::runtime::kernels::{Kernel, Needs};
use crate::runtime::ops::linear;
use crate::runtime::{Caps, Device, Matrix, Plan, Recorder, Step, Tensor};

/// The first kind of run that has a case. A self-test runs the first two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// `doctor`: the kernels that models run, each once, most of them at a published model's size.
    Quick,
    /// `selftest`: sizes that a user waits for, those that have cost people answers among them.
    Small,
    /// The tests: ragged, aligned, one, limits.
    Ragged,
    /// `bench kernels`: shapes of published models, most of them checked in samples.
    Published,
}

/// Largest relative L2 error of a sum of f32 in another order.
pub const BOUND: f64 = 1e-5;

/// Makes the operands of a case.
type Prepare = Box<dyn Fn(&mut Operands<'_>) -> Result<Setup>>;

/// One op at one shape.
pub struct Case {
    /// The operation, with the format of weights other than f16: `linear q4`.
    pub op: String,
    /// Rows, columns, heads and so on in words; of linear layers MxNxK.
    pub shape: String,
    /// Largest relative L2 error that is right; kernels by matrices may be off by [`Needs::bound`] of it.
    pub bound: f64,
    /// The first kind of run that has it.
    pub depth: Depth,
    /// The shape of a linear layer, which has several forms.
    pub layer: Option<linear::Shape>,
    /// Arithmetic by which run times are estimated before anything runs; 0 where it takes next to no time.
    pub flops: u64,
    binding_bytes: Option<u64>,
    can_run: Box<dyn Fn(&Caps) -> bool>,
    adapted: Box<dyn Fn(Caps) -> Caps>,
    setup: Prepare,
}

impl Case {
    /// A case of which `setup` makes the operands.
    pub fn new(
        op: impl Into<String>,
        shape: impl Into<String>,
        setup: impl Fn(&mut Operands<'_>) -> Result<Setup> + 'static,
    ) -> Case {
        Case {
            op: op.into(),
            shape: shape.into(),
            bound: BOUND,
            depth: Depth::Small,
            layer: None,
            flops: 0,
            binding_bytes: None,
            can_run: Box::new(|_| true),
            adapted: Box::new(|caps| caps),
            setup: Box::new(setup),
        }
    }

    /// Belongs to runs of this depth.
    pub fn at(self, depth: Depth) -> Case {
        Case { depth, ..self }
    }

    /// May be off by `bound`.
    pub fn within(self, bound: f64) -> Case {
        Case { bound, ..self }
    }

    /// Runs only where `can_run` says so.
    pub fn only(self, can_run: impl Fn(&Caps) -> bool + 'static) -> Case {
        Case { can_run: Box::new(can_run), ..self }
    }

    /// Kernels are chosen by what `adapted` makes of a device's caps.
    pub fn with_caps(self, adapted: impl Fn(Caps) -> Caps + 'static) -> Case {
        let before = self.adapted;
        Case { adapted: Box::new(move |caps| adapted(before(caps))), ..self }
    }

    /// Takes the kernels of this form, where they can run.
    pub fn by(self, form: &'static str) -> Case {
        let shape = format!("{} by {form}", self.shape);
        Case { shape, ..self }.with_caps(move |caps| Caps { preferred: Some(form), ..caps })
    }

    /// Is a linear layer of this shape, which has several forms.
    pub fn of_layer(self, shape: linear::Shape) -> Case {
        Case { layer: Some(shape), ..self }
    }

    /// Takes about so much arithmetic.
    pub fn costing(self, flops: u64) -> Case {
        Case { flops, ..self }
    }

    /// Says more about the shape.
    pub fn with(self, more: &str) -> Case {
        Case { shape: format!("{} {more}", self.shape), ..self }
    }

    /// Matrices are split as if a binding held no more than `bytes`.
    pub fn on_bindings_of(self, bytes: u64) -> Case {
        Case { binding_bytes: Some(bytes), ..self }
    }

    /// The operation and its shape.
    pub fn name(&self) -> String {
        format!("{} {}", self.op, self.shape)
    }

    /// True if it can run on devices with these `caps`.
    pub fn can_run(&self, caps: &Caps) -> bool {
        (self.can_run)(caps)
    }

    /// Makes the operands on a device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], or whatever went wrong on the GPU.
    pub fn setup(&self, device: &Device) -> Result<Setup> {
        let split = self.binding_bytes.map(|bytes| device.with_binding_limit(bytes));
        (self.setup)(&mut Operands::new(split.as_ref().unwrap_or(device)))
    }

    /// The op recorded for devices with these `caps`, without a device.
    ///
    /// # Errors
    /// Those of a case's setup; without a device, none of the cases here has any.
    pub fn unbacked(&self, caps: Caps) -> Result<Recorder> {
        let max_binding_bytes = self.binding_bytes.unwrap_or(caps.max_binding_bytes);
        let setup = (self.setup)(&mut Operands::unbacked(Caps { max_binding_bytes, ..caps }))?;
        Ok(setup.recorded(self.recorder(caps)).recorder)
    }

    /// An empty recording in which kernels are chosen by `caps`, as far as the case does not choose them itself.
    pub fn recorder(&self, caps: Caps) -> Recorder {
        Recorder::new((self.adapted)(caps))
    }
}

/// Something that an op gives.
#[derive(Clone, Debug)]
pub enum Output {
    /// A tensor.
    Tensor(Tensor),
    /// A tensor of f16, two to a word.
    Halves(Tensor),
    /// The output of the op with this label, taken as a tap.
    Tap(&'static str),
    /// These rows of a matrix of f16.
    Rows(Matrix, Vec<u32>),
}

impl Output {
    fn is_half(&self) -> bool {
        matches!(self, Output::Tensor(tensor) if tensor.is_half())
    }
}

impl From<Tensor> for Output {
    fn from(tensor: Tensor) -> Output {
        Output::Tensor(tensor)
    }
}

/// Values that an output must have.
enum Wanted {
    /// Close to these.
    Close(Vec<f64>),
    /// Exactly these words.
    Same(Vec<u32>),
}

/// A requirement on one output.
struct Want {
    /// Indices of the elements that are compared; all of them if `None`.
    sample: Option<Vec<usize>>,
    /// Computes the values; the argument is true where kernels round what they multiply to f16.
    compute: Box<dyn Fn(bool) -> Wanted>,
}

/// Records the op over one copy of its operands.
type Record = Box<dyn Fn(&mut Recorder, usize) -> Vec<Output>>;

/// Operands on a device, the op over them, and what it must give.
pub struct Setup {
    record: Record,
    wants: Vec<Want>,
    step: Step,
    judged: Option<&'static str>,
    taps: Vec<String>,
    overwritten: Vec<(Tensor, Vec<f32>)>,
    /// Least traffic in bytes: every operand once.
    pub bytes: u64,
    /// Least arithmetic, where what the op counts is only a bound.
    pub flops: Option<u64>,
    /// Calls that are timed together, each with its copy of the weights, which together are larger than a cache.
    pub copies: usize,
}

impl Setup {
    /// A setup of an op with one output.
    pub fn new<T: Into<Output>>(record: impl Fn(&mut Recorder, usize) -> T + 'static) -> Setup {
        Setup::of_several(move |r, copy| vec![record(r, copy).into()])
    }

    /// A setup of an op with several outputs.
    pub fn of_several(record: impl Fn(&mut Recorder, usize) -> Vec<Output> + 'static) -> Setup {
        Setup {
            record: Box::new(record),
            wants: Vec::new(),
            step: Step::default(),
            judged: None,
            taps: Vec::new(),
            overwritten: Vec::new(),
            bytes: 0,
            flops: None,
            copies: 4,
        }
    }

    /// Runs at this step.
    pub fn at(self, step: Step) -> Setup {
        Setup { step, ..self }
    }

    /// Judges `kernel`, where others only prepare its inputs.
    pub fn judging(self, kernel: &'static str) -> Setup {
        Setup { judged: Some(kernel), ..self }
    }

    /// Keeps the outputs of these ops for [`Output::Tap`].
    pub fn tapping(self, labels: &[&str]) -> Setup {
        Setup { taps: labels.iter().map(|label| label.to_string()).collect(), ..self }
    }

    /// Moves at least `bytes`.
    pub fn moving(self, bytes: u64) -> Setup {
        Setup { bytes, ..self }
    }

    /// Has so many copies of its weights, or is called so often together if it has none.
    pub fn in_copies(self, copies: usize) -> Setup {
        Setup { copies, ..self }
    }

    /// Needs at least so much arithmetic, where the op's own count is only a bound.
    pub fn computing(self, flops: u64) -> Setup {
        Setup { flops: Some(flops), ..self }
    }

    /// `tensor` is written over and must hold `values` when the op begins.
    pub fn over(mut self, tensor: &Tensor, values: Vec<f32>) -> Setup {
        self.overwritten.push((tensor.clone(), values));
        self
    }

    /// The next output must be close to `values`.
    pub fn gives(self, values: impl Fn() -> Vec<f64> + 'static) -> Setup {
        self.gives_sample(None, move |_| values())
    }

    /// The next output must be exactly `words`.
    pub fn gives_words(mut self, words: impl Fn() -> Vec<u32> + 'static) -> Setup {
        self.wants.push(Want { sample: None, compute: Box::new(move |_| Wanted::Same(words())) });
        self
    }

    /// The `sample` of the next output, or all of it, must be close to `values`, whose argument is true where kernels
    /// round what they multiply to f16.
    pub fn gives_sample(mut self, sample: Option<Vec<usize>>, values: impl Fn(bool) -> Vec<f64> + 'static) -> Setup {
        self.wants.push(Want { sample, compute: Box::new(move |rounds| Wanted::Close(values(rounds))) });
        self
    }

    /// The step that it runs at.
    pub fn step(&self) -> Step {
        self.step
    }

    /// Writes the op once more into a recording.
    pub fn record(&self, r: &mut Recorder, copy: usize) {
        (self.record)(r, copy);
    }

    /// The op over the first copy of its operands, written into an empty recording.
    pub fn recorded(&self, r: Recorder) -> Recorded<'_> {
        let mut r = r.with_taps(&self.taps);
        let outputs = (self.record)(&mut r, 0);
        assert_eq!(outputs.len(), self.wants.len(), "a requirement for each output");
        Recorded { setup: self, recorder: r, outputs }
    }
}

/// References of one case, computed when they are first asked for: as they are, and with inputs rounded to f16.
#[derive(Default)]
pub struct References([Option<Vec<Wanted>>; 2]);

/// Kernels with their constants and grids: what is launched in the same way takes the same time.
pub type Launches = Vec<(&'static str, Vec<u64>, [u32; 3])>;

/// A kernel and its constants.
pub type Variant = (&'static Kernel, Vec<(&'static str, f64)>);

/// A case as some kernels run it.
pub struct Recorded<'a> {
    setup: &'a Setup,
    recorder: Recorder,
    outputs: Vec<Output>,
}

impl Recorded<'_> {
    /// Names of the kernels, each once, in order.
    pub fn kernels(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for dispatch in self.recorder.dispatches() {
            if !names.contains(&dispatch.kernel.name) {
                names.push(dispatch.kernel.name);
            }
        }
        names
    }

    /// The kernel that is judged, or several if they make one op.
    pub fn judged(&self) -> String {
        self.setup.judged.map_or_else(|| self.kernels().join("+"), str::to_string)
    }

    /// The kernels as they are launched.
    pub fn launches(&self) -> Launches {
        let bits = |&(_, value): &(&str, f64)| value.to_bits();
        let launch =
            |d: &crate::runtime::recorder::Dispatch| (d.kernel.name, d.constants.iter().map(bits).collect(), d.grid);
        self.recorder.dispatches().iter().map(launch).collect()
    }

    /// The kernels with their constants, each once, in order.
    pub fn variants(&self) -> Vec<Variant> {
        let mut variants: Vec<Variant> = Vec::new();
        for dispatch in self.recorder.dispatches() {
            if !variants.iter().any(|of| of.0.name == dispatch.kernel.name && of.1 == dispatch.constants) {
                variants.push((dispatch.kernel, dispatch.constants.clone()));
            }
        }
        variants
    }

    /// Arithmetic of one call.
    pub fn flops(&self) -> u64 {
        self.setup.flops.unwrap_or(self.recorder.flops())
    }

    /// True if it multiplies by cooperative matrices.
    pub fn has_matrices(&self) -> bool {
        self.recorder.dispatches().iter().any(|dispatch| dispatch.kernel.needs == Needs::Matrices)
    }

    /// The largest error that is right of what these kernels make, where the case's own is `bound`.
    pub fn bound(&self, bound: f64) -> f64 {
        self.recorder.dispatches().iter().fold(bound, |bound, dispatch| dispatch.kernel.needs.bound(bound))
    }

    /// Runs it and gives the largest error of its outputs: relative (L2), or the share of words that differ; infinite if
    /// a value is no number. Kernels that nobody has proved to end get no longer than `limit`.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU; [`Error::DeviceLost`] when it takes longer than `limit`: then closing the device
    /// would wait for it, so the device and the plan are left open.
    pub fn error(self, device: &Device, references: &mut References, limit: Option<Duration>) -> Result<f64> {
        let rounds = self.has_matrices();
        let Recorded { setup, recorder, outputs } = self;
        let written = setup.overwritten.iter();
        written.for_each(|(tensor, values)| device.write(tensor, values));
        let plan = recorder.finish(device)?;
        plan.write_step(setup.step);
        plan.submit()?;
        if let Some(limit) = limit
            && let Err(e) = device.wait_for(limit)
        {
            std::mem::forget((plan, device.clone()));
            return Err(e);
        }
        let got = outputs.iter().map(|output| read(device, &plan, output)).collect::<Result<Vec<_>>>()?;
        let compute = || setup.wants.iter().map(|want| (want.compute)(rounds)).collect();
        let wanted = references.0[usize::from(rounds)].get_or_insert_with(compute);
        let each = setup.wants.iter().zip(&got).zip(wanted).zip(outputs.iter().map(Output::is_half));
        let off = |(((want, got), wanted), is_half): (((&Want, &Vec<u32>), &mut Wanted), bool)| {
            off(got, want.sample.as_deref(), wanted, is_half)
        };
        Ok(each.map(off).fold(0.0, f64::max))
    }
}

/// An output's words.
fn read(device: &Device, plan: &Plan, output: &Output) -> Result<Vec<u32>> {
    match output {
        Output::Tensor(tensor) => device.read(&plan.output(tensor)),
        Output::Halves(tensor) => {
            let words: Vec<u32> = device.read(&plan.output(tensor))?;
            let widened = |half: u32| f16::from_bits(half as u16).to_f32().to_bits();
            Ok(words.iter().flat_map(|word| [widened(word & 0xffff), widened(word >> 16)]).collect())
        }
        Output::Tap(label) => {
            let tap = plan.taps().iter().find(|(l, _)| l == label);
            let missing = || Error::Request { problem: "no op has the label of this tap".into() };
            device.read(&tap.ok_or_else(missing)?.1)
        }
        Output::Rows(matrix, rows) => {
            let o = Operands::new(device);
            let ids = o.ids(rows)?;
            device.read(&o.made(Step::default(), |r| r.embed(&ids, matrix))?)
        }
    }
}

/// The error of the sampled words of an output, which may hold values of halves.
fn off(got: &[u32], sample: Option<&[usize]>, wanted: &Wanted, is_half: bool) -> f64 {
    let got: Vec<u32> = sample.map_or_else(|| got.to_vec(), |sample| sample.iter().map(|&i| got[i]).collect());
    match wanted {
        Wanted::Same(want) if got.len() == want.len() => {
            let differ = got.iter().zip(want).filter(|(got, want)| got != want).count();
            differ as f64 / want.len().max(1) as f64
        }
        Wanted::Close(want) if got.len() == want.len() => {
            let want = if is_half { oracle::halves(want, 16.0) } else { want.clone() };
            relative(got.iter().map(|&word| f64::from(f32::from_bits(word))).zip(want))
        }
        _ => f64::INFINITY,
    }
}

/// Relative L2 error of (got, want) pairs; infinite if one is no number.
pub fn relative(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (difference, size) = pairs.fold((0.0, 0.0), |(d, s), (g, w)| (d + (g - w) * (g - w), s + w * w));
    let error: f64 = difference.sqrt() / f64::max(size.sqrt(), 1e-30);
    if error.is_finite() { error } else { f64::INFINITY }
}
