//! The panel of find and replace, and of all tags.

use eframe::egui::{self, Ui};

use super::{field, first};
use crate::app::{App, Tab};
use crate::captions::tags::TagChange;

pub fn show(app: &mut App, ui: &mut Ui) {
    ui.strong("Find and replace");
    first(ui, Tab::Find, "Find", egui::TextEdit::singleline(&mut app.finding.replace.find));
    field(ui, "Replace with", &mut app.finding.replace.with, "nothing");
    ui.horizontal_wrapped(|ui| {
        ui.checkbox(&mut app.finding.replace.case, "match capitals");
        ui.checkbox(&mut app.finding.replace.words, "whole words");
    });
    ui.horizontal_wrapped(|ui| {
        let (shown, chosen) = (app.shown().len(), app.selection.chosen().len());
        ui.radio_value(&mut app.finding.chosen_only, false, format!("in all {shown} shown"));
        ui.radio_value(&mut app.finding.chosen_only, true, format!("in {chosen} chosen"));
    });
    let (places, captions) = app.found();
    ui.horizontal_wrapped(|ui| {
        let replace = egui::Button::new(format!("Replace {places}"));
        if ui.add_enabled(places > 0, replace).clicked() {
            app.replace();
        }
        if !app.finding.replace.find.is_empty() {
            ui.weak(format!("{places} places in {captions} captions"));
        }
    });
    ui.add_space(4.0);
    ui.separator();
    tags(app, ui);
}

fn tags(app: &mut App, ui: &mut Ui) {
    ui.strong("Tags");
    ui.weak("The parts of captions between commas. Changes are about the pictures chosen above.");
    field(ui, "Tag", &mut app.finding.tag, "");
    let tag = app.finding.tag.trim().to_string();
    let mut change = None;
    ui.horizontal_wrapped(|ui| {
        let can = !tag.is_empty();
        let mut button = |ui: &mut Ui, name: &str, can: bool, of: TagChange| {
            if ui.add_enabled(can, egui::Button::new(name)).clicked() {
                change = Some(of);
            }
        };
        button(ui, "Add", can, TagChange::Add(tag.clone()));
        button(ui, "Add first", can, TagChange::AddFirst(tag.clone()));
        button(ui, "Remove", can, TagChange::Remove(tag.clone()));
        button(ui, "Remove double ones", true, TagChange::Once);
        button(ui, "Sort", true, TagChange::Sort);
    });
    if let Some(change) = change.or_else(|| rename(app, ui)) {
        app.change_tags(&change);
    }
    list(app, ui);
}

/// The field for a chosen tag's other name.
fn rename(app: &mut App, ui: &mut Ui) -> Option<TagChange> {
    let (tag, name) = app.finding.renamed.as_mut()?;
    field(ui, &format!("Rename {tag} to"), name, "");
    let is_new = !name.trim().is_empty() && name.trim() != tag;
    let is_clicked = ui.add_enabled(is_new, egui::Button::new("Rename")).clicked();
    if !is_clicked {
        return None;
    }
    let (tag, name) = app.finding.renamed.take()?;
    Some(TagChange::Rename(tag, name.trim().into()))
}

fn list(app: &mut App, ui: &mut Ui) {
    let by_name = app.finding.by_name;
    if (app.finding.tags.0, app.finding.tags.1) != (app.document.version(), by_name) {
        app.finding.tags = (app.document.version(), by_name, app.document.counts().sorted(!by_name));
    }
    ui.horizontal_wrapped(|ui| {
        ui.weak(format!("{} different ones", app.finding.tags.2.len()));
        ui.checkbox(&mut app.finding.by_name, "by the alphabet");
    });
    let height = ui.text_style_height(&egui::TextStyle::Button) + 2.0 * ui.spacing().button_padding.y;
    let App { finding, filter, .. } = app;
    let count = finding.tags.2.len();
    let mut chosen = None;
    egui::ScrollArea::vertical().id_salt("tags").max_height(320.0).show_rows(ui, height, count, |ui, rows| {
        for (tag, count) in &finding.tags.2[rows] {
            ui.horizontal(|ui| {
                ui.add_sized([44.0, height], egui::Label::new(count.to_string()));
                let is_chosen = finding.renamed.as_ref().is_some_and(|(chosen, _)| chosen == tag);
                let label = egui::Button::selectable(is_chosen, tag).truncate();
                if ui.add(label).on_hover_text("choose it, to rename, add or remove it").clicked() {
                    chosen = Some(tag.clone());
                }
            });
        }
    });
    if let Some(tag) = chosen {
        finding.tag.clone_from(&tag);
        finding.renamed = Some((tag.clone(), tag));
    }
    if let Some((tag, _)) = &finding.renamed {
        ui.horizontal_wrapped(|ui| {
            if ui.button("Show its pictures").clicked() {
                filter.text = format!("\"tag:{tag}\"");
            }
            if ui.button("Show the others").clicked() {
                filter.text = format!("\"-tag:{tag}\"");
            }
        });
    }
}
