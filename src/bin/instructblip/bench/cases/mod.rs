//! What is timed: every op at the shapes of published models, with a check of what it computes against f64.

mod attention;
mod linear;
mod normed;
mod rows;

use anyhow::Result;
use instructblip::Device;
use instructblip::runtime::kernels::Needs;
use instructblip::runtime::{Caps, Category, Plan, Recorder, Rows, Step, Tensor, WeightFormat};

/// Copies of a case's weights are made until they hold this many bytes together: no GPU has such a cache.
const ROTATED_BYTES: u64 = 128 << 20;

/// Outputs of a linear layer that are checked.
const SAMPLES: u32 = 64;

/// Most that an output may be off, relative (L2), where kernels do not round their inputs.
const BOUND: f64 = 1e-4;

/// Records the op over one copy of its weights.
type Record<'a> = Box<dyn Fn(&mut Recorder, usize) -> Tensor + 'a>;
/// The relative error of an output.
type Check<'a> = Box<dyn Fn(&[f32]) -> Result<f64> + 'a>;

/// What a case is called, and how to set it up.
pub struct Entry<'a> {
    /// The operation, with the format of weights other than f16.
    pub op: &'static str,
    /// Rows, columns, heads and so on in words; of linear layers MxNxK.
    pub shape: String,
    /// The rows and the format of linear layers, which have several forms.
    pub linear: Option<(u32, WeightFormat)>,
    make: Box<dyn Fn() -> Result<Case<'a>> + 'a>,
}

impl<'a> Entry<'a> {
    /// The operation and its shape.
    pub fn name(&self) -> String {
        format!("{} {}", self.op, self.shape)
    }

    /// Uploads what it needs.
    pub fn make(&self) -> Result<Case<'a>> {
        (self.make)()
    }
}

/// Something to time: `record` writes the op once; `check` compares its output with f64.
pub struct Case<'a> {
    /// Least traffic: every operand once.
    pub bytes: u64,
    /// Least arithmetic, where what the op counts is only a bound.
    pub flops: Option<u64>,
    /// Copies of what it reads, together larger than a cache.
    pub copies: usize,
    /// The step that it runs at.
    pub step: Step,
    /// Writes it.
    pub record: Record<'a>,
    /// The error of what it gave.
    pub check: Check<'a>,
}

/// Kernels with their constants and grids: what is launched in the same way takes the same time.
pub type Launch = Vec<(&'static str, Vec<u64>, [u32; 3])>;

/// A case as some forms of kernels run it.
pub struct Prepared {
    /// What is launched.
    pub launch: Launch,
    /// Arithmetic of one call.
    pub flops: u64,
    /// Whether it multiplies by cooperative matrices.
    pub matrices: bool,
    /// Against f64.
    pub error: f64,
    /// Most that it may be off.
    pub bound: f64,
    /// A call for each copy of the operands.
    pub cold: Plan,
}

impl Prepared {
    /// Whether it computes what it should.
    pub fn is_right(&self) -> bool {
        self.error <= self.bound
    }
}

/// Makes cases on a device.
pub struct Lab<'a> {
    /// The device.
    pub device: &'a Device,
    /// What kernel forms are chosen by while inputs are made.
    pub caps: Caps,
}

impl<'a> Lab<'a> {
    /// Every case; of linear layers those of `shapes`, if there are any.
    pub fn cases(&'a self, shapes: &[(u32, u32, u32)]) -> Vec<Entry<'a>> {
        let mut cases = self.linear_cases(shapes);
        if shapes.is_empty() {
            cases.extend([self.normed_case(12288, 4096), self.turned_case(32, 128)]);
            cases.extend(self.attention_cases());
            cases.extend(self.row_cases());
        }
        cases
    }

    /// Runs a recording once.
    pub fn run(&self, r: Recorder, step: Step) -> Result<Plan> {
        let plan = self.submitted(r, step)?;
        self.device.wait()?;
        Ok(plan)
    }

    /// Submits a recording once, without waiting for it.
    pub fn submitted(&self, r: Recorder, step: Step) -> Result<Plan> {
        let plan = r.finish(self.device)?;
        plan.write_step(step);
        plan.submit()?;
        Ok(plan)
    }

    /// Checks the op over the first copy of its operands and makes a plan over all of them.
    pub fn prepare(&self, case: &Case<'_>, caps: Caps) -> Result<Prepared> {
        let mut r = Recorder::new(caps);
        let out = (case.record)(&mut r, 0);
        let bits = |&(_, value): &(&str, f64)| value.to_bits();
        let launch = r.dispatches().iter().map(|d| (d.kernel.name, d.constants.iter().map(bits).collect(), d.grid));
        let (launch, flops) = (launch.collect(), case.flops.unwrap_or(r.flops()));
        let matrices = r.dispatches().iter().any(|dispatch| dispatch.kernel.needs == Needs::Matrices);
        let bound = bound(&r);
        let plan = self.run(r, case.step)?;
        let error = (case.check)(&self.device.read(&plan.output(&out))?)?;
        Ok(Prepared { launch, flops, matrices, error, bound, cold: self.repeated(case, caps, 0..case.copies)? })
    }

    /// The op over each of these copies, one after the other.
    pub fn repeated(&self, case: &Case<'_>, caps: Caps, copies: impl Iterator<Item = usize>) -> Result<Plan> {
        let mut r = Recorder::new(caps);
        copies.for_each(|copy| drop((case.record)(&mut r, copy)));
        self.run(r, case.step)
    }

    fn tensor(&self, seed: u64, rows: u32, cols: u32) -> Result<(Tensor, Vec<f32>)> {
        let values = noise(seed, rows * cols);
        Ok((self.device.tensor(Category::Io, "bench", rows, cols, &values)?, values))
    }

    /// `t` rows of one sequence, or each of its own, whose pages lie in order.
    fn rows(&self, t: u32, sequences: u32, pages: u32) -> Result<Rows> {
        let places: Vec<u32> = (0..t).flat_map(|i| if sequences == 1 { [i, 0] } else { [0, i] }).collect();
        let table: Vec<u32> = (0..sequences).flat_map(|_| 0..pages).collect();
        Ok(Rows {
            places: self.device.tensor(Category::Io, "places", t, 2, &places)?,
            pages: self.device.tensor(Category::Io, "pages", sequences, pages, &table)?,
        })
    }
}

/// Most that what is recorded may be off.
pub fn bound(r: &Recorder) -> f64 {
    r.dispatches().iter().fold(BOUND, |bound, dispatch| dispatch.kernel.needs.bound(bound))
}

fn entry<'a>(op: &'static str, shape: String, make: impl Fn() -> Result<Case<'a>> + 'a) -> Entry<'a> {
    Entry { op, shape, linear: None, make: Box::new(make) }
}

/// Seeded values, uniform in (-1, 1).
fn noise(seed: u64, count: u32) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| random.f32() * 2.0 - 1.0).collect()
}

/// Relative L2 of (got, want) pairs.
fn relative(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (difference, size) = pairs.fold((0.0, 0.0), |(d, s), (g, w)| (d + (g - w).powi(2), s + w * w));
    if difference.is_finite() { (difference / size).sqrt() } else { f64::INFINITY }
}

/// `count` of the indices below `n`, from the first to the last.
fn spread(n: u32, count: u32) -> Vec<u32> {
    let last = u64::from(n - 1);
    (0..count).map(|i| (last * u64::from(i) / u64::from((count - 1).max(1))) as u32).collect()
}

/// 0 when both hold the same values, else 1.
fn unequal(got: &[f32], want: &[f32]) -> f64 {
    f64::from(u8::from(got != want))
}

/// Element `i` of what `shaders/fill.wgsl` makes from a seed with range 1.
fn filled_value(i: u64, seed: u32) -> f64 {
    let hash = |value: u32| {
        let mut h = value;
        h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
        h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
        h ^ (h >> 16)
    };
    let bits = hash((i / 2) as u32 ^ hash(seed));
    f64::from(if i.is_multiple_of(2) { bits & 0xffff } else { bits >> 16 }) / 32768.0 - 1.0
}
