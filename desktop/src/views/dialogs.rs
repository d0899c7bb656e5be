//! Questions that stand over the window, and the page of keys.

use eframe::egui::{self, Context, Id, Modal, Ui};

use crate::app::{App, Dialog, SHORTCUTS, Then};

pub fn show(app: &mut App, ctx: &Context) {
    let Some(dialog) = app.dialog.take() else { return };
    let modal = Modal::new(Id::unique("dialog"));
    let room = ctx.content_rect().size() - egui::vec2(48.0, 48.0);
    let answer = modal.show(ctx, |ui| {
        ui.set_max_width(room.x.min(560.0));
        match &dialog {
            Dialog::Help => help(ui, room.y),
            Dialog::Unsaved(then) => unsaved(app, ui, then),
            Dialog::Foreign(foreign) => foreign_texts(app, ui, foreign),
        }
    });
    let is_left = answer.should_close() && !matches!(dialog, Dialog::Foreign(_));
    // What an answer opened stays.
    if answer.inner == Answer::Stays && !is_left && app.dialog.is_none() {
        app.dialog = Some(dialog);
    }
}

/// True while a dialog waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Stays,
    Given,
}

fn help(ui: &mut Ui, height: f32) -> Answer {
    ui.heading("Keys");
    egui::ScrollArea::vertical().max_height((height - 80.0).max(100.0)).show(ui, |ui| {
        for (keys, what) in SHORTCUTS {
            ui.horizontal_wrapped(|ui| {
                ui.strong(keys);
                ui.label(what);
            });
        }
        ui.add_space(4.0);
        ui.label("Shift and Ctrl with a click choose several pictures. On macOS, Ctrl is the Command key.");
    });
    if ui.button("Close").clicked() { Answer::Given } else { Answer::Stays }
}

fn unsaved(app: &mut App, ui: &mut Ui, then: &Then) -> Answer {
    let count = app.unsaved();
    let are = if count == 1 { "1 caption is".to_string() } else { format!("{count} captions are") };
    ui.heading(format!("{are} not saved"));
    ui.add_space(6.0);
    let mut answer = Answer::Stays;
    ui.horizontal_wrapped(|ui| {
        if ui.button("Save and go on").clicked() {
            // Once everything is saved, what was wanted is done.
            app.save();
        }
        if ui.button("Go on without saving").clicked() {
            app.give_up();
            app.do_then(then.clone());
            answer = Answer::Given;
        }
        if ui.button("Cancel").clicked() {
            answer = Answer::Given;
        }
    });
    answer
}

/// Captions whose files somebody else has written.
fn foreign_texts(app: &mut App, ui: &mut Ui, foreign: &[(usize, String)]) -> Answer {
    ui.heading("Other captions are in the files");
    ui.label("Another program wrote them since these pictures were opened. Nothing was written over.");
    egui::ScrollArea::vertical().max_height(200.0).show(ui, |ui| {
        for (index, text) in foreign.iter().take(50) {
            let Some(entry) = app.document.entries().get(*index) else { continue };
            ui.strong(&entry.name);
            ui.label(format!("in the file: {}", text.trim()));
            ui.label(format!("here: {}", entry.caption));
        }
        if foreign.len() > 50 {
            ui.weak(format!("and {} more", foreign.len() - 50));
        }
    });
    ui.add_space(6.0);
    let mut answer = Answer::Stays;
    let indices: Vec<usize> = foreign.iter().map(|(index, _)| *index).collect();
    ui.horizontal_wrapped(|ui| {
        if ui.button("Keep the files'").clicked() {
            app.take_foreign(foreign.to_vec());
            answer = Answer::Given;
        }
        if ui.button("Write mine over them").clicked() {
            app.save_these(&indices, true);
            answer = Answer::Given;
        }
        if ui.button("Decide later").clicked() {
            answer = Answer::Given;
        }
    });
    answer
}
