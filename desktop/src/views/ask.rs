//! The panel of questions: an answer comes piece by piece.

use eframe::egui::{self, Ui};

use super::{first, preview};
use crate::app::{App, Tab};

pub fn show(app: &mut App, ui: &mut Ui) {
    preview(app, ui);
    let edit = egui::TextEdit::multiline(&mut app.asking.prompt).desired_rows(2);
    first(ui, Tab::Ask, "Question", edit.hint_text("What is unusual about this picture?"));
    ui.horizontal_wrapped(|ui| {
        let can = app.can_ask();
        if ui.add_enabled(can, egui::Button::new("Ask the model")).on_hover_text("Ctrl+Enter").clicked() {
            app.ask();
        }
        let is_open = app.asking.said.first().is_some_and(|said| said.is_open);
        let can_stop = is_open && app.running.is_none();
        if ui.add_enabled(can_stop, egui::Button::new("Stop answer")).on_hover_text("Escape").clicked() {
            app.work.stop();
        }
        let label = ui.label("Beams");
        ui.add(egui::DragValue::new(&mut app.asking.beams).range(1..=16)).labelled_by(label.id);
        history(app, ui);
    });
    ui.separator();
    for said in &app.asking.said {
        ui.weak(&said.picture);
        ui.strong(&said.prompt);
        ui.label(&said.answer);
        match said.is_open {
            true => drop(ui.spinner()),
            false => drop(ui.weak(&said.note)),
        }
        ui.add_space(8.0);
    }
}

fn history(app: &mut App, ui: &mut Ui) {
    ui.menu_button("Earlier questions", |ui| {
        if app.settings.prompts.is_empty() {
            ui.weak("none yet");
        }
        for prompt in &app.settings.prompts {
            if ui.button(prompt).clicked() {
                app.asking.prompt.clone_from(prompt);
            }
        }
    });
}
