//! Runs many cases on a device, in the forms of kernels that it can run: drivers compute wrong results, and the first to
//! notice is the person with the card.

use std::time::Instant;

use super::case::{Case, References};
use crate::error::{Error, Result};
use crate::runtime::{AdapterClass, Caps, Device, DeviceOptions, kernels};

/// An open device and the caps to choose kernels by.
#[derive(Clone)]
pub struct Target {
    /// The name of these forms in reports.
    pub form: &'static str,
    /// The device.
    pub device: Device,
    /// Facts by which kernels are chosen: forms for other devices may run on this one, too.
    pub caps: Caps,
}

/// A form that could not be tried, and why.
pub type NotRun = (&'static str, String);

impl Target {
    /// The device's own forms.
    pub fn own(device: Device) -> Target {
        Target { form: "own", caps: device.caps(), device }
    }

    /// The adapter's own forms, those by matrices, the portable ones under WebGPU's default limits, and those again with
    /// every runtime check on. With `portable` or `checked` in `options`, the forms that devices with these options have.
    ///
    /// # Errors
    /// Those of [`Device::open`], except where other forms can still be tried.
    pub fn all(options: &DeviceOptions) -> Result<(Vec<Target>, Vec<NotRun>)> {
        let open = |portable, checked| Device::open(&DeviceOptions { portable, checked, ..options.clone() });
        let (mut targets, mut not_run) = (Vec::new(), Vec::new());
        if !options.portable && !options.checked {
            let own = Target::own(open(false, false)?);
            targets.push(own.clone());
            // On a GPU they are its own.
            if own.caps.matrix.is_some() && own.caps.class == AdapterClass::Cpu {
                targets.push(own.with_matrices());
            }
            not_run.extend(kernels::all().filter_map(|kernel| Some((kernel.form, own.caps.obstacle(kernel)?))));
            not_run.dedup();
        }
        if !options.checked {
            match open(true, false) {
                Ok(device) => targets.push(Target { form: "portable", caps: Caps::PORTABLE, device }),
                // The other forms may still do; the reason is in the report.
                Err(e) if !options.portable => not_run.push(("portable", e.to_string())),
                Err(e) => return Err(e),
            }
        }
        let device = open(options.portable, true)?;
        if options.checked && !options.portable {
            targets.push(Target { form: "own, checked", ..Target::own(device.clone()) });
        }
        targets.push(Target { form: "portable, checked", caps: Caps::PORTABLE, device });
        Ok((targets, not_run))
    }

    /// The forms by matrices of an adapter that has any, by pretence where it is no GPU.
    pub fn with_matrices(&self) -> Target {
        Target { form: "matrix", caps: Caps { class: AdapterClass::Gpu, ..self.caps }, device: self.device.clone() }
    }
}

/// The outcome of a case in one form.
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
    /// The reason why it did not run.
    pub failure: Option<String>,
    /// Compiling, running and reading back, in milliseconds.
    pub ms: f64,
}

impl Row {
    /// True if it ran and the result is right.
    pub fn ok(&self) -> bool {
        self.error.is_some_and(|error| error <= self.bound)
    }
}

/// The outcome of all cases.
#[derive(Debug, Default)]
pub struct Outcome {
    /// A row for every case and form.
    pub rows: Vec<Row>,
    /// The error that ended the run early: the GPU is gone, or the device's watch wanted the end.
    pub ended: Option<Error>,
}

/// Runs every case whose kernel, form or shape contains `filter` on every target. `progress` hears how many cases are
/// done. A case that fails is a row; only the loss of the device ends the run, and its watch.
pub fn run(cases: &[Case], targets: &[Target], filter: &str, progress: &mut dyn FnMut(u64)) -> Outcome {
    let is_wanted = |row: &Row| format!("{} {} {}", row.kernel, row.form, row.shape).contains(filter);
    let mut outcome = Outcome::default();
    for (done, case) in cases.iter().enumerate() {
        let mut references = References::default();
        for target in targets.iter().filter(|target| case.can_run(&target.caps)) {
            match try_case(case, target, &is_wanted, &mut references) {
                Ok(row) => outcome.rows.extend(row),
                Err(ended) => {
                    outcome.ended = Some(ended);
                    return outcome;
                }
            }
        }
        progress(done as u64 + 1);
    }
    outcome
}

/// A row, or nothing where it is not wanted; an error only if the run is to end.
fn try_case(
    case: &Case,
    target: &Target,
    is_wanted: &dyn Fn(&Row) -> bool,
    references: &mut References,
) -> Result<Option<Row>> {
    let mut row = Row {
        kernel: "(not recorded)".into(),
        kernels: Vec::new(),
        form: target.form,
        shape: case.name(),
        bound: case.bound,
        error: None,
        failure: None,
        ms: 0.0,
    };
    let started = Instant::now();
    let error = case.setup(&target.device).and_then(|setup| {
        let recorded = setup.recorded(case.recorder(target.caps));
        (row.kernels, row.kernel, row.bound) = (recorded.kernels(), recorded.judged(), recorded.bound(case.bound));
        if !is_wanted(&row) {
            return Ok(None);
        }
        recorded.error(&target.device, references, None).map(Some)
    });
    row.ms = started.elapsed().as_secs_f64() * 1e3;
    match error {
        Ok(None) => return Ok(None),
        Ok(error) => row.error = error,
        Err(ended @ (Error::DeviceLost { .. } | Error::Cancelled)) => return Err(ended),
        Err(e) => row.failure = Some(e.to_string()),
    }
    Ok(is_wanted(&row).then_some(row))
}
