//! Compiles the default variants with the driver that this process sees, and prints what it made of them in frames.

use std::io::{Write, stdout};

use anyhow::{Context, Result};
use instructblip::DeviceOptions;
use instructblip::runtime::MatrixSize;
use instructblip::runtime::isa::Compiler;

use crate::gpus::Gpu;
use crate::variants;

/// What a driver made of a variant, as it came out of the worker.
#[derive(Default)]
pub struct Made {
    pub variant: String,
    pub used_by: String,
    pub hash: u64,
    pub workgroup_bytes: u32,
    pub subgroup: u32,
    pub statistics: Vec<(String, f64)>,
    /// The machine code.
    pub code: String,
}

/// Frames begin with lines of this sign.
const SIGN: char = '\u{1}';

/// Prints the driver, and every variant whose name contains `filter`.
pub fn run(gpu: &Gpu, filter: &str) -> Result<()> {
    let compiler = Compiler::open(&DeviceOptions { robust_access: Some(gpu.robust), ..Default::default() })?;
    println!("{SIGN}driver\t{}", compiler.name());
    let caps = compiler.caps();
    let size = |size: Option<u32>| size.map_or("no known size".into(), |size| size.to_string());
    let matrix = size(caps.matrix.map(MatrixSize::edge));
    println!("{SIGN}caps\tsubgroups of {}, matrices of {matrix}, f16 {}", size(caps.subgroup_size), caps.f16);
    for (name, variant) in variants::of(caps)?.iter().filter(|(name, _)| name.contains(filter)) {
        let interface = variant.kernel.interface(&variant.constants)?;
        let hash = variants::hash(variant.kernel);
        println!("{SIGN}variant\t{name}\t{}\t{hash:016x}\t{}", variant.used_by, interface.workgroup_bytes);
        let made = compiler.compile(variant.kernel, &variant.constants).with_context(|| name.clone())?;
        let made = made.first().context("a pipeline has a program")?;
        flush();
        println!("{SIGN}subgroup\t{}", made.subgroup_size);
        for (statistic, value) in &made.statistics {
            println!("{SIGN}statistic\t{statistic}\t{value}");
        }
        if let Some(wanted) = gpu.dialect.names().code {
            let found = made.texts.iter().rfind(|(name, _)| name == wanted);
            let (_, text) = found.with_context(|| format!("{name}: no text is called {wanted}"))?;
            println!("{text}");
        }
    }
    println!("{SIGN}end");
    Ok(stdout().flush()?)
}

/// Drivers that print do it through C's streams, which keep what they have until they are full.
fn flush() {
    unsafe extern "C" {
        fn fflush(stream: *mut std::ffi::c_void) -> i32;
    }
    // SAFETY: null is every stream.
    unsafe { fflush(std::ptr::null_mut()) };
}

/// The driver's name and facts, and what it made, out of what a worker printed.
pub fn read(printed: &str) -> Result<(Vec<String>, Vec<Made>)> {
    let (mut heading, mut all, mut ended) = (Vec::new(), Vec::<Made>::new(), false);
    for line in printed.lines() {
        // What a driver prints may not end its last line.
        let (before, frame) = line.split_once(SIGN).map_or((line, None), |(before, frame)| (before, Some(frame)));
        if let Some(made) = all.last_mut() {
            made.code.extend([before, "\n"]);
        }
        let Some(frame) = frame else { continue };
        match frame.split('\t').collect::<Vec<_>>()[..] {
            ["driver" | "caps", text] => heading.push(text.to_string()),
            ["variant", variant, used_by, hash, bytes] => all.push(Made {
                variant: variant.into(),
                used_by: used_by.into(),
                hash: u64::from_str_radix(hash, 16)?,
                workgroup_bytes: bytes.parse()?,
                ..Made::default()
            }),
            ["subgroup", lanes] => all.last_mut().context("a variant")?.subgroup = lanes.parse()?,
            ["statistic", name, value] => {
                all.last_mut().context("a variant")?.statistics.push((name.into(), value.parse()?));
            }
            ["end"] => ended = true,
            _ => anyhow::bail!("the worker printed {frame:?}"),
        }
    }
    anyhow::ensure!(ended, "the worker ended early");
    Ok((heading, all))
}
