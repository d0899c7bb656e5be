//! Errors of the library in this program's words: it has buttons where the library has calls.

use instructblip::Error;
use instructblip::error::{Bytes, Setting};

/// An error for people: what failed, and what to do.
pub fn words(error: &Error) -> String {
    let fault = error.fault();
    match error {
        Error::NoAdapter { .. } => format!("{fault}; GPU shows what there is"),
        Error::OverBudget { settings, .. } => match settings.as_slice() {
            [] => format!("{fault}; nothing makes it small enough, choose a smaller model"),
            settings => {
                let settings: Vec<String> = settings.iter().map(with_peak).collect();
                format!("{fault}; choose under Models: {}", settings.join(", or "))
            }
        },
        Error::NotTheFile { .. } | Error::NotCached { .. } => format!("{fault}; Models fetches it"),
        Error::DeviceLost { .. } => format!("{fault} the model under Models"),
        Error::NotFinite { .. } => format!("{fault}; fetch the model again, or test the GPU under GPU"),
        Error::ImageTooLarge { .. } => format!("{fault}; make it smaller"),
        other => other.fault().to_string(),
    }
}

/// A way to load a model, in words.
pub fn setting(setting: &Setting) -> String {
    let parts = [
        setting.weight_bits.map(|bits| format!("weights of {bits} bits")),
        setting.offload.then(|| "stages that take turns".into()),
        setting.turns.map(|(turns, layers)| format!("{turns} of {layers} layers read again for every word, slow")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "as its files are".into() } else { parts.join(", ") }
}

fn with_peak(of: &Setting) -> String {
    format!("{} ({})", setting(of), Bytes(of.peak_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_what_this_program_has() {
        let settings =
            vec![Setting { weight_bits: Some(4), offload: true, peak_bytes: 2_500_000, ..Setting::default() }];
        let (what, parts) = ("the model".into(), "all of it".into());
        let error = Error::OverBudget { what, parts, need_bytes: 2_000_000_000, budget_bytes: 3_000_000, settings };
        let told = "; choose under Models: weights of 4 bits, stages that take turns (2.5 MB)";
        assert!(words(&error).ends_with(told), "{}", words(&error));
        let lost = words(&Error::DeviceLost { reason: "reset".into() });
        assert_eq!(lost, "the GPU was lost (reset); start again the model under Models");
        assert!(!words(&Error::NotFinite { stage: "Q-Former" }).contains("ForwardOptions"));
    }
}
