//! Ends of commands that are no errors of the library, with exit codes of their own.

use instructblip::jobs::Failure;

/// The end of a command that did not do everything.
#[derive(Debug)]
pub struct Ended {
    /// The exit code.
    pub code: u8,
    words: String,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Ended {}

impl Ended {
    /// An end with this exit code.
    pub fn new(code: u8, words: String) -> Ended {
        Ended { code, words }
    }

    /// The end by a failure that stopped everything.
    pub fn by(failure: &Failure, left: &str) -> Ended {
        let code = match failure.code.as_str() {
            "out_of_memory" => 5,
            "device_lost" => 6,
            code => code.strip_prefix("exit_").and_then(|code| code.parse().ok()).unwrap_or(1),
        };
        Ended::new(code, format!("{}{left}", failure.message))
    }
}
