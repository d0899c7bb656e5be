//! The bar at the top: files, undo, and the page of help.

use eframe::egui::{self, Ui};

use crate::app::{App, Dialog};
use crate::captions::export::Format;
use crate::tasks::Wanted;

pub fn show(app: &mut App, ui: &mut Ui) {
    ui.horizontal_wrapped(|ui| {
        if ui.button("Open folder…").on_hover_text("Ctrl+O").clicked() {
            app.pick(Wanted::Folder);
        }
        if ui.button("Open pictures…").on_hover_text("Ctrl+Shift+O").clicked() {
            app.pick(Wanted::Pictures);
        }
        ui.separator();
        let unsaved = app.unsaved();
        let save = if unsaved == 0 { "Save".to_string() } else { format!("Save {unsaved}") };
        let hint = "Ctrl+S: writes captions into the .txt files beside their pictures";
        if ui.add_enabled(unsaved > 0, egui::Button::new(save)).on_hover_text(hint).clicked() {
            app.save();
        }
        export(app, ui);
        ui.separator();
        let undo = app.document.undo_name().map(|name| format!("Ctrl+Z: undo {name}"));
        if ui.add_enabled(undo.is_some(), egui::Button::new("Undo")).on_hover_text(undo.unwrap_or_default()).clicked() {
            app.document.undo();
        }
        let redo = app.document.redo_name().map(|name| format!("Ctrl+Y: redo {name}"));
        if ui.add_enabled(redo.is_some(), egui::Button::new("Redo")).on_hover_text(redo.unwrap_or_default()).clicked() {
            app.document.redo();
        }
        ui.separator();
        if ui.button("Keys").on_hover_text("F1").clicked() {
            app.dialog = Some(Dialog::Help);
        }
    });
    interrupted(app, ui);
}

fn export(app: &mut App, ui: &mut Ui) {
    let has_pictures = !app.document.entries().is_empty();
    ui.add_enabled_ui(has_pictures, |ui| {
        ui.menu_button("Export", |ui| {
            for (name, format) in [("JSON lines…", Format::JsonLines), ("CSV…", Format::Csv)] {
                if ui.button(name).clicked() {
                    app.pick(Wanted::Export(format));
                }
            }
        });
    });
}

/// The offer to go on with a job.
fn interrupted(app: &mut App, ui: &mut Ui) {
    let Some(interrupted) = app.interrupted.as_ref().filter(|_| app.running.is_none()) else { return };
    let (done, all) = (interrupted.done(), interrupted.job.pictures.len());
    let sources = interrupted.job.sources.first().map(|path| path.display().to_string()).unwrap_or_default();
    ui.separator();
    ui.horizontal_wrapped(|ui| {
        let go_on = ui.add_enabled(!app.is_opening, egui::Button::new("Go on"));
        if go_on.on_hover_text("with the pictures that are left, once there is a model").clicked() {
            app.go_on();
        }
        if ui.button("Forget it").on_hover_text("the captions that were made stay").clicked() {
            app.forget();
        }
        ui.label(format!("Captioning of {sources} was interrupted: {done} of {all} pictures are done."));
    });
}
