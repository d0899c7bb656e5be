//! The panel of captions: the one of the picture that is looked at, and how the model makes them.

use eframe::egui::{self, Ui};
use instructblip::GenerateOptions;

use super::{field, lines, preview};
use crate::app::{App, editor_id};
use crate::captions::prompt::{CaptionOptions, Existing, tasks};
use crate::captions::tags::tags;

/// Tags that are offered while one is typed.
const OFFERED: usize = 8;

pub fn show(app: &mut App, ui: &mut Ui) {
    preview(app, ui);
    editor(app, ui);
    ui.add_space(4.0);
    ui.separator();
    ui.strong("Captions by the model");
    ui.add_space(2.0);
    options(&mut app.settings.caption, ui);
    ui.add_space(4.0);
    buttons(app, ui);
}

fn editor(app: &mut App, ui: &mut Ui) {
    let Some((index, _)) = app.focused() else { return };
    let mut caption = app.document.entries()[index].caption.clone();
    let label = ui.label("Caption");
    let edit = egui::TextEdit::multiline(&mut caption).id(editor_id()).desired_rows(3);
    let hint = "F2: write a caption, or tags with commas between";
    let response = ui.add(edit.hint_text(hint).desired_width(f32::INFINITY)).labelled_by(label.id);
    if response.changed() {
        app.document.type_into(index, caption.clone());
    }
    if response.lost_focus() {
        app.document.end_typing();
    }
    ui.horizontal_wrapped(|ui| {
        let (words, letters) = (caption.split_whitespace().count(), caption.chars().count());
        ui.weak(format!("tags {}, words {words}, letters {letters}", tags(&caption).count()));
        if !app.document.entries()[index].is_saved() {
            ui.label("• not saved");
        }
    });
    offers(app, ui, index, &caption);
}

/// Tags of other captions that begin as the last one here does.
fn offers(app: &mut App, ui: &mut Ui, index: usize, caption: &str) {
    let (before, typed) = caption.rsplit_once(',').map_or(("", caption), |(before, typed)| (before, typed));
    let offered = app.document.counts().beginning_with(typed.trim(), OFFERED);
    let offered: Vec<String> = offered.into_iter().map(Into::into).collect();
    if offered.is_empty() {
        return;
    }
    ui.horizontal_wrapped(|ui| {
        for tag in offered {
            if ui.small_button(&tag).on_hover_text("put this tag here").clicked() {
                let whole = if before.is_empty() { tag } else { format!("{before}, {tag}") };
                app.document.type_into(index, whole);
            }
        }
    });
}

fn options(options: &mut CaptionOptions, ui: &mut Ui) {
    let own = "own words";
    ui.horizontal_wrapped(|ui| {
        let label = ui.label("Task");
        let shown = options.task().map_or(own, |_| options.task.as_str()).to_string();
        let combo = egui::ComboBox::from_id_salt("task").selected_text(shown).show_ui(ui, |ui| {
            for (name, _) in tasks() {
                ui.selectable_value(&mut options.task, name.into(), name);
            }
            ui.selectable_value(&mut options.task, "own".into(), own);
        });
        combo.response.labelled_by(label.id).on_hover_text("the wording that the model was taught with, or your own");
    });
    let takes_text = options.task().is_none_or(|task| task.takes_text());
    if takes_text {
        let name = if options.task().is_some() { "Question or statement" } else { "Prompt" };
        let hint = "{name}, {folder} and {tags} stand for the picture's own";
        lines(ui, name, &mut options.prompt, 2, hint);
    }
    field(ui, "Start captions with", &mut options.start_with, "a photo of");
    field(ui, "Forbidden words", &mut options.forbidden, "words or phrases, with commas between");
    ui.horizontal_wrapped(|ui| {
        let label = ui.label("If there is a caption");
        let shown = Existing::ALL.iter().find(|(rule, _)| *rule == options.existing).map_or("", |(_, name)| name);
        let combo = egui::ComboBox::from_id_salt("existing").selected_text(shown).show_ui(ui, |ui| {
            for (rule, name) in Existing::ALL {
                ui.selectable_value(&mut options.existing, rule, name);
            }
        });
        combo.response.labelled_by(label.id);
    });
    ui.horizontal_wrapped(|ui| {
        number(ui, "Beams", &mut options.generation.num_beams, 1..=16);
        let mut most = options.generation.max_new_tokens.unwrap_or(60);
        number(ui, "Most tokens", &mut most, 1..=1024);
        options.generation.max_new_tokens = Some(most);
        options.generation.min_new_tokens = options.generation.min_new_tokens.min(most);
    });
    ui.collapsing("More options", |ui| more(&mut options.generation, ui));
}

fn number(ui: &mut Ui, name: &str, value: &mut u32, range: std::ops::RangeInclusive<u32>) {
    let label = ui.label(name);
    ui.add(egui::DragValue::new(value).range(range)).labelled_by(label.id);
}

fn share(ui: &mut Ui, name: &str, value: &mut f32, range: std::ops::RangeInclusive<f32>) {
    let label = ui.label(name);
    ui.add(egui::DragValue::new(value).range(range).speed(0.01)).labelled_by(label.id);
}

fn more(generation: &mut GenerateOptions, ui: &mut Ui) {
    egui::Grid::new("generation").num_columns(2).show(ui, |ui| {
        let most = generation.max_new_tokens.unwrap_or(60);
        number(ui, "Least tokens", &mut generation.min_new_tokens, 0..=most);
        ui.end_row();
        share(ui, "Length penalty", &mut generation.length_penalty, -5.0..=5.0);
        ui.end_row();
        share(ui, "Repetition penalty", &mut generation.repetition_penalty, 0.1..=5.0);
        ui.end_row();
        number(ui, "No phrase twice of", &mut generation.no_repeat_ngram_size, 0..=10);
        ui.end_row();
        let label = ui.label("Draw words by chance");
        ui.checkbox(&mut generation.do_sample, "").labelled_by(label.id);
        ui.end_row();
        if generation.do_sample {
            share(ui, "Temperature", &mut generation.temperature, 0.05..=5.0);
            ui.end_row();
            number(ui, "Top k", &mut generation.top_k, 0..=1000);
            ui.end_row();
            share(ui, "Top p", &mut generation.top_p, 0.01..=1.0);
            ui.end_row();
            let label = ui.label("Seed");
            ui.add(egui::DragValue::new(&mut generation.seed)).labelled_by(label.id);
            ui.end_row();
        }
    });
    if ui.button("Defaults").clicked() {
        *generation = CaptionOptions::default().generation;
    }
}

fn buttons(app: &mut App, ui: &mut Ui) {
    let can = app.can_caption();
    let shown = app.shown();
    let chosen: Vec<usize> = app.selection.chosen().collect();
    let why = if app.facts().is_none() { "there is no model yet" } else { "choose pictures" };
    ui.horizontal_wrapped(|ui| {
        let of_chosen = egui::Button::new(format!("Caption {} chosen", chosen.len()));
        let of_chosen = ui.add_enabled(can && !chosen.is_empty(), of_chosen);
        if of_chosen.on_hover_text("Ctrl+Enter").on_disabled_hover_text(why).clicked() {
            app.caption(&chosen);
        }
        let of_shown = ui.add_enabled(can, egui::Button::new(format!("Caption all {} shown", shown.len())));
        if of_shown.on_hover_text("Ctrl+Shift+Enter").on_disabled_hover_text(why).clicked() {
            app.caption(&shown);
        }
        if app.running.is_some() && ui.button("Stop captioning").on_hover_text("Escape").clicked() {
            app.work.stop();
        }
    });
    ui.weak("Captions are saved as they come. Undo takes all of a job back.");
}
