//! `instructblip-desktop [FOLDER|PICTURE…] [--config FOLDER] [--frame-log FILE]`.

// On Windows a window alone, without a console behind it.
#![cfg_attr(not(debug_assertions), windows_subsystem = "windows")]

use std::path::PathBuf;
use std::process::ExitCode;

use eframe::egui;
use instructblip_desktop::app::{App, Start, Window};

const USAGE: &str = "\
Captions folders of pictures with InstructBLIP, and shows where it looks.

usage: instructblip-desktop [FOLDER|PICTURE…] [--config FOLDER] [--frame-log FILE]

  --config FOLDER     where settings and unfinished jobs are kept, if not in the user's folder
  --frame-log FILE    writes milliseconds of each frame, a line each, and the slowest at the end
  --version, --help   this, and the version
";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let mut start = Start::default();
    let wrong = |problem: String| {
        eprintln!("error: {problem}\n\n{USAGE}");
        ExitCode::from(2)
    };
    while let Some(argument) = arguments.next() {
        let text = argument.to_str().unwrap_or_default();
        let mut value = |name: &str| arguments.next().ok_or_else(|| format!("{name} needs a value behind it"));
        match text {
            "--help" | "-h" => {
                print!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            "--version" | "-V" => {
                println!("instructblip-desktop {}", env!("CARGO_PKG_VERSION"));
                return ExitCode::SUCCESS;
            }
            "--config" | "--frame-log" => match value(text) {
                Ok(path) if text == "--config" => start.config = Some(PathBuf::from(path)),
                Ok(path) => start.frame_log = Some(PathBuf::from(path)),
                Err(problem) => return wrong(problem),
            },
            _ if text.starts_with("--") => return wrong(format!("there is no option {text}")),
            _ => start.sources.push(std::path::absolute(&argument).unwrap_or_else(|_| argument.into())),
        }
    }
    run(start)
}

fn run(start: Start) -> ExitCode {
    let viewport = egui::ViewportBuilder::default()
        .with_title("InstructBLIP")
        .with_app_id("instructblip-desktop")
        .with_inner_size([1180.0, 780.0])
        .with_min_inner_size([360.0, 280.0])
        .with_drag_and_drop(true);
    let options = eframe::NativeOptions { viewport, ..eframe::NativeOptions::default() };
    let open =
        |cc: &eframe::CreationContext<'_>| -> Result<Box<dyn eframe::App>, Box<dyn std::error::Error + Send + Sync>> {
            let app = App::new(&cc.egui_ctx, start)?;
            Ok(Box::new(Window::new(app, cc.egui_ctx.clone())))
        };
    match eframe::run_native("instructblip-desktop", options, Box::new(open)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "error: no window could be opened ({error}); it needs a display and a driver for Vulkan, Metal, DX12 \
                 or OpenGL. Without a display, use the program instructblip"
            );
            ExitCode::FAILURE
        }
    }
}
