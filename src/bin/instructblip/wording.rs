//! Errors in the words of the command line: the library names its own calls and options, the program its commands.

use instructblip::Error;
use instructblip::error::{Bytes, Setting};

/// An error after everything that it was met in, on one line.
pub fn in_words(error: &anyhow::Error) -> String {
    let cause = |cause: &(dyn std::error::Error + 'static)| match cause.downcast_ref() {
        Some(error) => of_library(error),
        None => cause.to_string(),
    };
    error.chain().map(cause).collect::<Vec<_>>().join(": ")
}

/// An error of the library.
pub fn of_library(error: &Error) -> String {
    let fault = error.fault();
    match error {
        Error::NoAdapter { .. } => format!("{fault}; `instructblip doctor` tells more"),
        Error::OverBudget { settings, .. } if !settings.is_empty() => {
            let settings: Vec<String> = settings.iter().map(with_peak).collect();
            format!("{fault}; what fits: {}", settings.join("; "))
        }
        Error::NotFinite { .. } => format!("{fault}; `instructblip forward --taps` shows where it begins"),
        Error::NotTheFile { .. } => format!("{fault} with `instructblip pull`"),
        Error::NotCached { repo, revision, .. } => {
            let revision = revision.as_ref().map_or(String::new(), |revision| format!(" --revision {revision}"));
            format!("{fault}; fetch it with: instructblip pull {repo}{revision}")
        }
        Error::ImageTooLarge { .. } => format!("{fault} (--max-pixels)"),
        Error::OverSlots { .. } => format!("{fault}, or give more with --slots and --max-new-tokens"),
        other => other.to_string(),
    }
}

/// The options of a setting; none for what is asked for.
pub fn options(setting: &Setting) -> String {
    let Setting { weight_bits, offload, turns: _, budget_bytes, peak_bytes: _ } = *setting;
    let options = [
        weight_bits.map(|bits| format!("--weights q{bits}")),
        offload.then(|| "--offload".into()),
        budget_bytes.map(|bytes| format!("--budget {}MB", bytes / 1_000_000)),
    ];
    options.into_iter().flatten().collect::<Vec<String>>().join(" ")
}

fn with_peak(setting: &Setting) -> String {
    let turns = setting.turns.map_or(String::new(), |(turns, layers)| {
        format!(" with {turns} of {layers} layers read again for every token, slow")
    });
    format!("{}{turns} ({})", options(setting), Bytes(setting.peak_bytes))
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_program_names_its_own_options() {
        let peak_bytes = 2_500_000;
        let settings = vec![
            Setting { weight_bits: Some(8), peak_bytes, ..Setting::default() },
            Setting { offload: true, turns: Some((3, 32)), peak_bytes, ..Setting::default() },
            Setting {
                weight_bits: Some(4),
                offload: true,
                budget_bytes: Some(3_000_000),
                peak_bytes,
                ..Setting::default()
            },
        ];
        let (what, parts) = ("the model".into(), "all of it".into());
        let error = Error::OverBudget { what, parts, need_bytes: 2_000_000_000, budget_bytes: 3_000_000, settings };
        assert_eq!(
            of_library(&error),
            "the model needs 2.0 GB on the device (all of it), may take 3.0 MB; what fits: --weights q8 (2.5 MB); \
             --offload with 3 of 32 layers read again for every token, slow (2.5 MB); \
             --weights q4 --offload --budget 3MB (2.5 MB)"
        );
        assert_eq!(
            error.to_string(),
            "the model needs 2.0 GB on the device (all of it), may take 3.0 MB; what fits, of LoadOptions: \
             formats of 8 bits (2.5 MB); offload with 3 of 32 layers read again for every token, slow (2.5 MB); \
             formats of 4 bits, offload, budget_bytes 3000000 (2.5 MB)"
        );
    }

    #[test]
    fn the_place_of_an_error_comes_first() {
        let error: Result<(), _> = Err(Error::NotFinite { stage: "vision tower" });
        let words = in_words(&error.context("a.png").expect_err("an error"));
        assert!(words.starts_with("a.png: the vision tower gave values"), "{words}");
        assert!(words.ends_with("; `instructblip forward --taps` shows where it begins"), "{words}");
    }
}
