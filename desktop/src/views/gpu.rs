//! The panel of adapters: which there are, which one is used, whether it computes right, and how it is fastest.

use eframe::egui::{self, Ui};
use instructblip::error::Bytes;
use instructblip::runtime::{AdapterKind, AdapterSummary, kernel_cache};

use super::{good, problem};
use crate::app::App;

pub fn show(app: &mut App, ui: &mut Ui) {
    adapters(app, ui);
    ui.separator();
    tests(app, ui);
    ui.separator();
    tuning(app, ui);
    ui.separator();
    surroundings(app, ui);
}

fn adapters(app: &mut App, ui: &mut Ui) {
    ui.horizontal_wrapped(|ui| {
        ui.strong("GPUs");
        if app.gpus.is_looking {
            ui.spinner();
        } else if ui.button("Look again").clicked() {
            app.look_at_gpus();
        }
    });
    let Some(survey) = app.gpus.survey.clone() else { return };
    if survey.adapters.is_empty() {
        problem(
            ui,
            "None was found: install a driver for Vulkan, Metal or DX12. On Linux without a GPU, Mesa's software \
             driver will do (package mesa-vulkan-drivers).",
        );
    }
    let mut wanted = None;
    for adapter in &survey.adapters {
        ui.add_space(4.0);
        let can = adapter.problem.is_none();
        let name = format!("{} ({})", adapter.name, adapter.backend);
        let choice = ui.add_enabled(can, egui::RadioButton::new(adapter.chosen, name));
        if choice.on_hover_text("use this one").clicked() && !adapter.chosen {
            wanted = Some(adapter.name.clone());
        }
        about(adapter, ui);
    }
    let is_named = app.settings.setup.adapter.is_some();
    if is_named && ui.button("Choose the best by itself").clicked() {
        app.settings.setup.adapter = None;
        app.look_at_gpus();
        app.load_model();
    }
    if let Some(name) = wanted {
        app.settings.setup.adapter = Some(name);
        app.look_at_gpus();
        app.load_model();
    }
}

/// An adapter in a few lines.
fn about(adapter: &AdapterSummary, ui: &mut Ui) {
    if let Some(told) = &adapter.problem {
        problem(ui, &format!("cannot be used: {told}"));
    }
    let kind = match adapter.kind {
        AdapterKind::DiscreteGpu => "a card of its own",
        AdapterKind::IntegratedGpu => "in the processor, whose memory it shares",
        AdapterKind::VirtualGpu => "of a virtual machine",
        AdapterKind::Cpu => "no GPU: a program on the processor, which is slow",
        AdapterKind::Other => "of another kind",
    };
    ui.label(format!("{kind}; driver {}", adapter.driver));
    let memory = adapter.memory_bytes.map_or(String::new(), |bytes| format!("{} of memory; ", Bytes(bytes)));
    let yes = |has: bool| if has { "yes" } else { "no" };
    let subgroups = match adapter.subgroup_sizes {
        None => "no".to_string(),
        Some((low, high)) if low == high => low.to_string(),
        Some((low, high)) => format!("{low} to {high}"),
    };
    ui.weak(format!(
        "{memory}bindings to {} MiB, buffers to {} MiB, {} KiB of workgroup memory; matrices {}, 16-bit floats {}, \
         subgroups {subgroups}, timestamps {}",
        adapter.max_binding_bytes >> 20,
        adapter.max_buffer_bytes >> 20,
        adapter.max_workgroup_bytes >> 10,
        adapter.matrix.map_or("no".into(), |size| format!("{0} x {0}", size.edge())),
        yes(adapter.shader_f16),
        yes(adapter.timestamps),
    ));
}

fn tests(app: &mut App, ui: &mut Ui) {
    ui.strong("Does it compute right?");
    ui.label("Every kernel against a 64-bit reference. Drivers do compute wrong results.");
    let can = !app.gpus.is_busy && app.running.is_none();
    if ui.add_enabled(can, egui::Button::new("Test kernels")).clicked() {
        app.test();
    }
    match &app.gpus.verdict {
        None => {}
        Some(Err(told)) => problem(ui, told),
        Some(Ok(verdict)) => {
            let stopped = if verdict.stopped { ", stopped before the end" } else { "" };
            match verdict.wrong.len() {
                0 => drop(ui.colored_label(good(ui), format!("{} cases, all right{stopped}", verdict.right))),
                wrong => {
                    let advice = "install a newer driver, or choose another GPU";
                    problem(ui, &format!("{wrong} of {} cases are wrong: {advice}", wrong + verdict.right));
                    let all = verdict.wrong.join("\n");
                    if ui.button("Copy them for a report").clicked() {
                        ui.ctx().copy_text(all);
                    }
                    verdict.wrong.iter().take(20).for_each(|line| problem(ui, line));
                }
            }
            for line in &verdict.not_run {
                ui.weak(format!("not run: {line}"));
            }
        }
    }
}

fn tuning(app: &mut App, ui: &mut Ui) {
    ui.strong("How is it fastest?");
    ui.label("Tries sizes of kernels, for half a minute; models loaded later use what is found.");
    let can = !app.gpus.is_busy && app.running.is_none();
    if ui.add_enabled(can, egui::Button::new("Tune")).clicked() {
        app.tune();
    }
    match &app.gpus.tuned {
        None => {
            let key = app.gpus.survey.as_ref().and_then(|survey| survey.key.as_ref());
            if key.is_some_and(|key| app.settings.tunings.contains_key(key)) {
                ui.weak("This GPU was tuned.");
            }
        }
        Some(Err(told)) => drop(ui.label(told)),
        Some(Ok(lines)) => lines.iter().for_each(|line| drop(ui.weak(line))),
    }
}

/// Facts for whoever looks for what is wrong.
fn surroundings(app: &App, ui: &mut Ui) {
    ui.strong("This machine");
    ui.label(format!(
        "instructblip {}, {} {}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    ));
    match kernel_cache() {
        Some(folder) => drop(ui.label(format!("compiled kernels are kept in {}", folder.display()))),
        None => drop(ui.label("compiled kernels are not kept: INSTRUCTBLIP_CACHE is off, or there is no home")),
    }
    let Some(survey) = &app.gpus.survey else { return };
    if let Some(bytes) = survey.available_bytes {
        ui.label(format!("{} of memory are free for programs", Bytes(bytes)));
    }
    for (name, value) in &survey.environment {
        ui.weak(format!("{name}={value}"));
    }
}
