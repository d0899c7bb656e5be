//! Custom kernels in a model, and the clock that ends what nobody has proved to end.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use instructblip::runtime::CustomKernel;
use instructblip::{Device, Error, GenerateOptions, Image, InstructBlip};

use crate::common::Common;
use crate::files::read_text;
use crate::progress::say;

/// Options about custom kernels.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Kernels of your own")]
pub struct Overrides {
    /// A WGSL file that runs in the place of the kernel of this name, as `--kernels` knows it; may be repeated. `ask` answers
    /// with our kernels first and says whether yours change the answer; `bench kernels --wgsl` checks and times one alone
    #[arg(long = "wgsl-override", value_name = "NAME=FILE", value_parser = pair)]
    pub files: Vec<Override>,
    /// Seconds a kernel of yours may keep the GPU before the program gives up, with exit code 7
    #[arg(long, value_name = "SECONDS", default_value_t = 120, requires = "files",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub time_out: u64,
}

/// A file with a custom kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The name of the kernel in whose place it runs.
    pub name: String,
    /// The file whose text runs in its place.
    pub file: PathBuf,
}

fn pair(text: &str) -> Result<Override, String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => {
            Ok(Override { name: name.into(), file: file.into() })
        }
        _ => Err("give a kernel's name and a file, as norm=my_norm.wgsl".into()),
    }
}

impl Overrides {
    /// True if there are any files.
    pub fn any(&self) -> bool {
        !self.files.is_empty()
    }

    /// The names of the kernels in whose places custom kernels run.
    pub fn names(&self) -> Vec<&str> {
        self.files.iter().map(|one| one.name.as_str()).collect()
    }

    /// The files, read and compiled.
    ///
    /// # Errors
    /// [`instructblip::Error::Io`], and whatever [`CustomKernel::of`] refuses.
    pub fn custom_kernels(&self) -> instructblip::Result<Vec<&'static CustomKernel>> {
        let names = self.names();
        if let Some((_, name)) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
            let problem = format!("--wgsl-override is given twice for {name}; only one can run in its place");
            return Err(Error::Request { problem });
        }
        let mut all = Vec::new();
        for Override { name, file } in &self.files {
            all.extend(CustomKernel::of(name, &file.display().to_string(), &read_text(file)?)?);
        }
        Ok(all)
    }

    /// Names the custom kernels that no plan of `device` ran, once all is done: the adapter may choose other kernels.
    pub fn tell_unused(&self, common: &Common, device: &Device) {
        let unused = self.names().into_iter().filter(|name| !common.quiet && !device.runs_custom(name));
        for name in unused {
            say(&format!("your {name} did not run for this; --kernels {name} makes it run where it can"));
        }
    }

    /// Starts a watchdog that ends the program unless it hears of the GPU again and again within the limit.
    pub fn watchdog(&self) -> Watchdog {
        let files: Vec<_> = self.files.iter().map(|one| Path::display(&one.file).to_string()).collect();
        Watchdog::start(&files.join(", "), Duration::from_secs(self.time_out))
    }

    /// Generates two tokens about a grey picture under the watchdog. An error is ignored here, since it occurs again in
    /// the real run.
    pub fn try_once(&self, model: &mut InstructBlip) -> Result<()> {
        let _watchdog = self.watchdog();
        let image = Image::from_rgb(32, 32, vec![128; 32 * 32 * 3])?;
        let options = GenerateOptions { max_new_tokens: Some(2), ..GenerateOptions::default() };
        drop(model.ask(&image, "a", &options));
        Ok(())
    }
}

/// A watchdog ends the program with exit code 7 when it hears nothing for too long. It ends when it is dropped.
pub struct Watchdog {
    alive: Sender<()>,
}

impl Watchdog {
    fn start(files: &str, limit: Duration) -> Watchdog {
        let line = format!(
            "error: {files}: its kernels did not end within {} s; a loop may have no end, or --time-out gives it longer",
            limit.as_secs()
        );
        let (alive, heard) = mpsc::channel();
        std::thread::spawn(move || {
            loop {
                match heard.recv_timeout(limit) {
                    Ok(()) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {
                        say(&line);
                        // Nothing can end a kernel but the end of the process.
                        std::process::exit(7);
                    }
                }
            }
        });
        Watchdog { alive }
    }

    /// The GPU has been heard of.
    pub fn beat(&self) {
        // The other end lives as long as this one.
        let _ = self.alive.send(());
    }
}
