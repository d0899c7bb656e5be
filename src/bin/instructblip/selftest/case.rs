//! A case, what it must give, and running many of them.

use std::time::Instant;

use instructblip::runtime::{Caps, Recorder, Step, Tensor};
use instructblip::{Error, Result};

use super::place::Place;

/// Uploads a case's inputs to a place and records its op, the same every time.
type Record = Box<dyn Fn(&Place) -> Result<Recording>>;
/// Computes what an output must be.
type Wanted = Box<dyn FnOnce() -> Want>;

/// One op at one shape.
pub struct Case {
    /// Op and shape in words.
    pub shape: String,
    /// Largest relative L2 error that is right.
    pub bound: f64,
    /// Where it can run.
    can_run: fn(&Caps) -> bool,
    record: Record,
}

impl Case {
    /// A case that `record` sets up.
    pub fn new(shape: impl Into<String>, bound: f64, record: impl Fn(&Place) -> Result<Recording> + 'static) -> Case {
        Case { shape: shape.into(), bound, can_run: |_| true, record: Box::new(record) }
    }

    /// Runs only where `can_run` says so.
    pub fn only(self, can_run: fn(&Caps) -> bool) -> Case {
        Case { can_run, ..self }
    }
}

/// What an output must be.
enum Want {
    /// These values, within the case's bound.
    Close(Vec<f64>),
    /// These words.
    Same(Vec<u32>),
}

enum Output {
    Tensor(Tensor),
    Tap(String),
}

/// A recorded op and what its outputs must be.
pub struct Recording {
    recorder: Recorder,
    step: Step,
    about: Option<&'static str>,
    outputs: Vec<(Output, Wanted)>,
}

impl Recording {
    /// What `recorder` holds.
    pub fn new(recorder: Recorder) -> Recording {
        Recording { recorder, step: Step::default(), about: None, outputs: Vec::new() }
    }

    /// Runs at this step.
    pub fn at(self, step: Step) -> Recording {
        Recording { step, ..self }
    }

    /// The kernel that is judged, where others only carry its output.
    pub fn about(self, kernel: &'static str) -> Recording {
        Recording { about: Some(kernel), ..self }
    }

    /// `tensor` must come out as `want` says. The reference is computed once for all places.
    pub fn gives(mut self, tensor: &Tensor, want: impl FnOnce() -> Vec<f64> + 'static) -> Recording {
        self.outputs.push((Output::Tensor(tensor.clone()), Box::new(|| Want::Close(want()))));
        self
    }

    /// The same for words.
    pub fn gives_exactly(mut self, tensor: &Tensor, want: impl FnOnce() -> Vec<u32> + 'static) -> Recording {
        self.outputs.push((Output::Tensor(tensor.clone()), Box::new(|| Want::Same(want()))));
        self
    }

    /// The same for a tap.
    pub fn taps(mut self, label: impl Into<String>, want: impl FnOnce() -> Vec<f64> + 'static) -> Recording {
        self.outputs.push((Output::Tap(label.into()), Box::new(|| Want::Close(want()))));
        self
    }

    /// The largest error that is right of what these kernels make, where the op's own is `bound`.
    fn bound(&self, bound: f64) -> f64 {
        self.recorder.dispatches().iter().fold(bound, |bound, dispatch| dispatch.kernel.needs.bound(bound))
    }

    /// Names of the kernels, each once, in order.
    fn kernels(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for dispatch in self.recorder.dispatches() {
            if !names.contains(&dispatch.kernel.name) {
                names.push(dispatch.kernel.name);
            }
        }
        names
    }
}

/// What became of a case in one form.
#[derive(Clone, Debug)]
pub struct Row {
    /// The kernel that is judged, or several if they make one op.
    pub kernel: String,
    /// Every kernel that ran.
    pub kernels: Vec<&'static str>,
    /// The form.
    pub form: &'static str,
    /// Op and shape.
    pub shape: String,
    /// Largest relative L2 error that is right.
    pub bound: f64,
    /// The error; infinite if a value is not finite. None if the case did not run.
    pub error: Option<f64>,
    /// Why it did not run.
    pub failure: Option<String>,
    /// Compiling, running and reading back.
    pub ms: f64,
}

impl Row {
    /// Whether it ran and the result is right.
    pub fn ok(&self) -> bool {
        self.error.is_some_and(|error| error <= self.bound)
    }
}

/// What became of all cases.
#[derive(Debug, Default)]
pub struct Outcome {
    /// A row for every case and form.
    pub rows: Vec<Row>,
    /// What ended the run early: the GPU is gone.
    pub lost: Option<Error>,
}

/// Which cases are run.
#[derive(Clone, Copy, Debug)]
pub enum Selection<'a> {
    /// Those whose kernel, form or shape contains this.
    Matching(&'a str),
    /// The first of each kernel in each form.
    OneEach,
}

/// Runs every selected case in every place. `progress` hears how many cases are
/// done. A case that fails is a row; only the loss of the device ends the run.
pub fn run(cases: &[Case], places: &[Place], selection: Selection<'_>, progress: &mut dyn FnMut(u64)) -> Outcome {
    let mut outcome = Outcome::default();
    for (done, case) in cases.iter().enumerate() {
        let mut wants = None;
        for place in places {
            let wanted = |row: &Row| match selection {
                Selection::Matching(text) => format!("{} {} {}", row.kernel, row.form, row.shape).contains(text),
                Selection::OneEach => !outcome.rows.iter().any(|r| (&r.kernel, r.form) == (&row.kernel, row.form)),
            };
            match try_case(case, place, &wanted, &mut wants) {
                Ok(Some(row)) => outcome.rows.push(row),
                Ok(None) => {}
                Err(lost) => {
                    outcome.lost = Some(lost);
                    return outcome;
                }
            }
        }
        progress(done as u64 + 1);
    }
    outcome
}

/// A row, or nothing where it is not wanted or cannot run; an error only if the device is lost.
fn try_case(
    case: &Case,
    place: &Place,
    is_wanted: &dyn Fn(&Row) -> bool,
    wants: &mut Option<Vec<Want>>,
) -> Result<Option<Row>> {
    if !(case.can_run)(&place.caps) {
        return Ok(None);
    }
    let mut row = Row {
        kernel: "(not recorded)".into(),
        kernels: Vec::new(),
        form: place.form,
        shape: case.shape.clone(),
        bound: case.bound,
        error: None,
        failure: None,
        ms: 0.0,
    };
    let started = Instant::now();
    let error = (case.record)(place).and_then(|recording| {
        row.kernels = recording.kernels();
        row.bound = recording.bound(case.bound);
        row.kernel = recording.about.map_or_else(|| row.kernels.join("+"), str::to_string);
        if !is_wanted(&row) {
            return Ok(None);
        }
        let (started, (got, wanted)) = (Instant::now(), outputs(place, recording)?);
        row.ms = started.elapsed().as_secs_f64() * 1e3;
        let wants = wants.get_or_insert_with(|| wanted.into_iter().map(|want| want()).collect());
        Ok(Some(got.iter().zip(wants).map(|(got, want)| relative_error(got, want)).fold(0.0, f64::max)))
    });
    match error {
        Ok(None) => return Ok(None),
        Ok(error) => row.error = error,
        Err(lost @ Error::DeviceLost { .. }) => return Err(lost),
        Err(e) => {
            row.failure = Some(e.to_string());
            row.ms = started.elapsed().as_secs_f64() * 1e3;
        }
    }
    Ok(is_wanted(&row).then_some(row))
}

/// Runs a recording and reads its outputs back as words, with what they must be.
fn outputs(place: &Place, recording: Recording) -> Result<(Vec<Vec<u32>>, Vec<Wanted>)> {
    let plan = recording.recorder.finish(&place.device)?;
    plan.write_step(recording.step);
    plan.submit()?;
    let (mut got, mut wanted) = (Vec::new(), Vec::new());
    for (output, want) in recording.outputs {
        let tensor = match output {
            Output::Tensor(tensor) => Some(plan.output(&tensor)),
            Output::Tap(label) => plan.taps().iter().find(|(l, _)| *l == label).map(|(_, tensor)| tensor.clone()),
        };
        let tensor = tensor.ok_or_else(|| Error::Request { problem: "no op has the label of this tap".into() })?;
        got.push(place.device.read::<u32>(&tensor)?);
        wanted.push(want);
    }
    Ok((got, wanted))
}

/// `‖got − want‖ / ‖want‖`, or the share of words that differ; infinite if the numbers do not match or are no numbers.
fn relative_error(got: &[u32], want: &Want) -> f64 {
    match want {
        Want::Same(want) if got.len() == want.len() => {
            let differ = got.iter().zip(want).filter(|(got, want)| got != want).count();
            differ as f64 / want.len().max(1) as f64
        }
        Want::Close(want) if got.len() == want.len() => {
            let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
            let got = got.iter().map(|&word| f64::from(f32::from_bits(word)));
            let off = norm(&mut got.zip(want).map(|(got, want)| got - want));
            let error = off / norm(&mut want.iter().copied()).max(1e-30);
            if error.is_finite() { error } else { f64::INFINITY }
        }
        _ => f64::INFINITY,
    }
}
