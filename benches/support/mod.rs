//! Helpers of the benches: the program, arguments and CSV rows.
#![allow(dead_code)] // each bench uses its part

use std::io::Write;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

/// Runs `instructblip bench` with the process's arguments.
pub fn program(what: &str) -> std::io::Result<ExitCode> {
    let arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let status = Command::new(env!("CARGO_BIN_EXE_instructblip")).args(["bench", what]).args(arguments).status()?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// `--name value` pairs and plain words of the command line.
pub struct Arguments {
    words: Vec<String>,
}

impl Arguments {
    /// The process's arguments, without what `cargo bench` adds.
    pub fn new() -> Arguments {
        Arguments { words: std::env::args().skip(1).filter(|a| a != "--bench").collect() }
    }

    /// Takes `--name value` out.
    pub fn value(&mut self, name: &str) -> Result<Option<String>> {
        let Some(at) = self.words.iter().position(|w| w == name) else { return Ok(None) };
        self.words.remove(at);
        if at >= self.words.len() {
            bail!("{name} wants a value");
        }
        Ok(Some(self.words.remove(at)))
    }

    /// Takes `--name N` out.
    pub fn number(&mut self, name: &str) -> Result<Option<u32>> {
        self.value(name)?.map(|text| text.parse().with_context(|| format!("{name} {text}"))).transpose()
    }

    /// Takes `--name` out; whether it was there.
    pub fn flag(&mut self, name: &str) -> bool {
        let before = self.words.len();
        self.words.retain(|w| w != name);
        self.words.len() < before
    }

    /// The words that are left; options among them are unknown.
    pub fn finish(self) -> Result<Vec<String>> {
        match self.words.iter().find(|w| w.starts_with('-')) {
            Some(unknown) => bail!("unknown option {unknown}"),
            None => Ok(self.words),
        }
    }
}

/// Appends rows to a CSV file, with the header if the file is new.
pub fn append_csv(path: &str, header: &str, rows: &[String]) -> Result<()> {
    let new = !std::path::Path::new(path).exists();
    let mut file =
        std::fs::OpenOptions::new().create(true).append(true).open(path).with_context(|| path.to_string())?;
    if new {
        writeln!(file, "{header}")?;
    }
    rows.iter().try_for_each(|row| writeln!(file, "{row}"))?;
    Ok(())
}
