//! Completions of shells and manual pages, made of the command line itself.

use std::io::Write;

use anyhow::Result;
use clap::Args;
use instructblip::Error;

/// Arguments of `completions`.
#[derive(Args, Debug)]
pub struct Completions {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Args, Debug)]
pub struct Man {
    /// The command, if not the program itself
    pub command: Vec<String>,
}

/// Completions for a shell, on standard output.
pub fn completions(mut program: clap::Command, arguments: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut program, "instructblip", &mut script);
    Ok(std::io::stdout().lock().write_all(&script)?)
}

/// A manual page on standard output: the program's, or that of one of its commands.
pub fn man(mut program: clap::Command, arguments: &Man) -> Result<()> {
    program.build();
    let mut page = &program;
    for name in &arguments.command {
        page = page.find_subcommand(name).ok_or_else(|| Error::Request {
            problem: format!("{name} is no command; instructblip --help lists them"),
        })?;
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(page.clone()).render(&mut text)?;
    Ok(std::io::stdout().lock().write_all(&text)?)
}
