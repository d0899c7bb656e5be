//! Times loading a checkpoint against reading and copying its files, and what it takes against its plan.
//!
//! ```text
//! cargo bench --bench load -- DIR [--weights f16|q8|q4] [--budget BYTES] [--offload] [--no-mmap] [--portable]
//!     [--new-tokens N] [--runs N] [--warm] [--csv FILE]
//! ```
//!
//! The raw rate is that of reading every tensor file by as many threads as there are cores and copying it into memory
//! that was never used before, as a loader that did nothing else would. Raw and load take turns. Cold runs empty the
//! system's file cache first, where it lets us (Linux, as root); with `--warm` files are read once beforehand, for
//! checkpoints that fit into memory beside themselves.
//!
//! The model must answer the same from every run before a figure is printed.

mod support;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use instructblip::lab::clock::{median, milliseconds};
use instructblip::model::LoadOptions;
use instructblip::runtime::WeightFormat;
use instructblip::weights::Formats;
use instructblip::{Checkpoint, Device, DeviceOptions, GenerateOptions, Image, InstructBlip};
use support::{Arguments, append_csv};

const HEADER: &str = "version,device,checkpoint,weights,mode,cache,files_gb,raw_gb_per_s,load_gb_per_s,percent_of_raw,\
                      planned_mib,peak_mib,host_peak_mib,vision_ms,prefill_ms,decode_tokens_per_s";
/// Bytes read at a time.
const PIECE: usize = 8 << 20;
/// Bytes that are copied before their memory is given back.
const KEPT: usize = 256 << 20;

struct Run {
    load_gb_per_s: f64,
    planned: u64,
    peak: u64,
    vision_ms: f64,
    prefill_ms: f64,
    decode_tokens_per_s: f64,
    answer: Vec<u32>,
}

fn main() -> Result<()> {
    let mut arguments = Arguments::new();
    let csv = arguments.value("--csv")?;
    let weights = arguments.value("--weights")?;
    let budget_bytes = arguments.value("--budget")?.map(|bytes| bytes.parse()).transpose()?;
    let (offload, no_mmap) = (arguments.flag("--offload"), arguments.flag("--no-mmap"));
    let (portable, warm) = (arguments.flag("--portable"), arguments.flag("--warm"));
    let new_tokens = arguments.number("--new-tokens")?.unwrap_or(4);
    let runs = arguments.number("--runs")?.unwrap_or(3).max(1);
    let [folder] = arguments.finish()?.try_into().ok().context("give one checkpoint directory")?;
    let format = weights.as_deref().map(|name| WeightFormat::named(name).context("no such format")).transpose()?;
    let mut options = LoadOptions {
        formats: format.map(Formats::usual).unwrap_or_default(),
        mmap: !no_mmap,
        budget_bytes,
        offload,
        ..LoadOptions::default()
    };
    options.workload.new_tokens = new_tokens;
    let device = DeviceOptions { portable, ..DeviceOptions::default() };
    let files = tensor_files(Path::new(&folder))?;
    let bytes = files.iter().map(|file| Ok(file.metadata()?.len())).sum::<Result<u64>>()?;
    let name = Device::open(&device)?.name().to_string();
    println!("{name}\n{folder}: {:.2} GB in {} files", bytes as f64 / 1e9, files.len());
    let cache = match (warm, empty_cache()) {
        (true, _) => "warm",
        (false, true) => "cold",
        (false, false) => "as it is",
    };
    if warm {
        raw(&files)?;
    }
    let (mut raws, mut loads) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        if !warm {
            empty_cache();
        }
        let ((), ms) = milliseconds(|| raw(&files))?;
        raws.push(bytes as f64 / ms / 1e6);
        if !warm {
            empty_cache();
        }
        loads.push(run(&folder, &device, &options)?);
        println!("raw {:.2} GB/s, load {:.2} GB/s", raws[raws.len() - 1], loads[loads.len() - 1].load_gb_per_s);
    }
    ensure!(loads.iter().all(|load| load.answer == loads[0].answer), "answers differ from load to load");
    let raw_rate = median(raws);
    let of = |figure: fn(&Run) -> f64| median(loads.iter().map(figure));
    let load_rate = of(|load| load.load_gb_per_s);
    let (planned, peak) = (loads[0].planned >> 20, loads.iter().map(|load| load.peak).max().unwrap_or(0) >> 20);
    let (vision, prefill, decode) =
        (of(|load| load.vision_ms), of(|load| load.prefill_ms), of(|load| load.decode_tokens_per_s));
    let percent = 100.0 * load_rate / raw_rate;
    let host = host_peak_mib().map_or("NaN".into(), |mib| mib.to_string());
    println!(
        "{cache}: raw {raw_rate:.2} GB/s, load {load_rate:.2} GB/s, {percent:.0} %\n\
         planned {planned} MiB, at most {peak} MiB on the device, {host} MiB in the process\n\
         vision {vision:.0} ms, prefill {prefill:.0} ms, decode {decode:.2} tokens/s"
    );
    let mode = match (offload, no_mmap, portable) {
        (true, ..) => "offload",
        (_, true, _) => "read",
        (_, _, true) => "staged",
        _ => "usual",
    };
    let row = format!(
        "{},\"{name}\",{},{},{mode},{cache},{:.2},{raw_rate:.3},{load_rate:.3},{percent:.1},{planned},{peak},{host},\
         {vision:.1},{prefill:.1},{decode:.3}",
        env!("CARGO_PKG_VERSION"),
        Path::new(&folder).file_name().map_or(folder.clone(), |name| name.to_string_lossy().into_owned()),
        weights.as_deref().unwrap_or("stored"),
        bytes as f64 / 1e9,
    );
    csv.map_or(Ok(()), |path| append_csv(&path, HEADER, &[row]))
}

fn tensor_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    let mut files: Vec<_> = paths.into_iter().filter(|p| p.extension().is_some_and(|e| e == "safetensors")).collect();
    files.sort();
    ensure!(!files.is_empty(), "{} has no tensor files", folder.display());
    Ok(files)
}

/// True if the system let us empty its file cache.
fn empty_cache() -> bool {
    std::fs::write("/proc/sys/vm/drop_caches", "1").is_ok()
}

/// Reads all files and copies them into new memory.
fn raw(files: &[PathBuf]) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let read = |thread: usize| -> Result<()> {
            let (mut piece, mut kept) = (vec![0; PIECE], Vec::with_capacity(KEPT));
            for path in files {
                // Every thread has a stretch of every file.
                let share = path.metadata()?.len().div_ceil(threads as u64);
                let mut file = File::open(path)?;
                std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(share * thread as u64))?;
                let mut left = file.take(share);
                loop {
                    let count = left.read(&mut piece)?;
                    if count == 0 {
                        break;
                    }
                    if kept.len() + count > KEPT {
                        kept = Vec::with_capacity(KEPT);
                    }
                    kept.extend_from_slice(&piece[..count]);
                }
            }
            std::hint::black_box(&kept);
            Ok(())
        };
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || read(thread))).collect();
        running.into_iter().try_for_each(|thread| thread.join().expect("no panic while reading"))
    })
}

/// Loads the model on a device of its own and asks it something.
fn run(folder: &str, device: &DeviceOptions, options: &LoadOptions) -> Result<Run> {
    let device = Device::open(device)?;
    let checkpoint = Checkpoint::directory(folder)?;
    let mut model = InstructBlip::load_with(&device, &checkpoint, options)?;
    let report = model.load_report();
    let load_gb_per_s = report.bytes as f64 / report.time.as_secs_f64() / 1e9;
    let image = Image::decode("11.png", include_bytes!("../tests/shapes/samples/11.png"))?;
    let generate = GenerateOptions { max_new_tokens: Some(options.workload.new_tokens), ..Default::default() };
    let reply = model.ask(&image, "Which is the smallest shape?", &generate)?;
    let steps = reply.token_ids.len().saturating_sub(1) as f64;
    Ok(Run {
        load_gb_per_s,
        planned: model.memory().peak,
        peak: device.counters().peak_bytes(),
        vision_ms: reply.timings.vision,
        prefill_ms: reply.timings.prefill,
        decode_tokens_per_s: steps * 1e3 / reply.timings.decode,
        answer: reply.token_ids,
    })
}

/// Most memory this process ever had, on Linux; that of a software adapter counts.
fn host_peak_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? >> 10)
}
