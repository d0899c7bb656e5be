//! The panel of attention: where the Q-Former looks, for two instructions side by side.

use eframe::egui::{self, RichText, Ui};

use super::{field, first, fitted, preview, problem};
use crate::app::{App, Seeing, Tab};
use crate::thumbnails::{Shown, Thumbnails};
use crate::work::Looked;

pub fn show(app: &mut App, ui: &mut Ui) {
    if app.seeing.seen.is_none() {
        preview(app, ui);
    }
    let edit = egui::TextEdit::singleline(&mut app.seeing.prompts[0]).hint_text("What colour is the cross?");
    first(ui, Tab::See, "First instruction", edit);
    field(ui, "Second instruction", &mut app.seeing.prompts[1], "what to compare with, or nothing");
    let can = app.can_look();
    ui.horizontal_wrapped(|ui| {
        if ui.add_enabled(can, egui::Button::new("Look")).on_hover_text("Ctrl+Enter").clicked() {
            app.look();
        }
        if app.seeing.is_waiting {
            ui.spinner();
        }
        if app.seeing.seen.is_some() && ui.button("Put away").clicked() {
            app.seeing.seen = None;
        }
    });
    if let Some(told) = &app.seeing.problem {
        problem(ui, told);
    }
    let App { seeing, thumbnails, .. } = app;
    let Some((image, looked)) = seeing.seen.clone() else { return };
    let Some(maps) = looked.first().map(|looked| looked.maps.clone()) else { return };
    ui.separator();
    choices(seeing, &maps.layers, maps.heads, maps.queries, ui);
    let drawing = Drawing { image: &image, looked: &looked };
    let (layer, head, query) = (seeing.layer, seeing.head, seeing.query);
    drawing.row(thumbnails, ui, seeing.look, (layer, head, query), true);
    ui.add_space(4.0);
    ui.weak("By layer:");
    for &layer in &maps.layers {
        ui.label(format!("layer {layer}"));
        drawing.row(thumbnails, ui, seeing.look, (Some(layer), head, query), false);
    }
    ui.weak("Colours stay where the model looks, the rest is faded. Other layers do not look at the picture.");
}

/// The layer, head and query that are shown.
fn choices(seeing: &mut Seeing, layers: &[usize], heads: usize, queries: usize, ui: &mut Ui) {
    ui.horizontal_wrapped(|ui| {
        choice(ui, "Layer", &mut seeing.layer, layers.iter().copied());
        choice(ui, "Head", &mut seeing.head, 0..heads);
        choice(ui, "Query", &mut seeing.query, 0..queries);
    });
}

fn choice(ui: &mut Ui, name: &str, chosen: &mut Option<usize>, all: impl Iterator<Item = usize>) {
    let label = ui.label(name);
    let shown = chosen.map_or("all".to_string(), |number| number.to_string());
    let combo = egui::ComboBox::from_id_salt(name).width(56.0).selected_text(shown).show_ui(ui, |ui| {
        ui.selectable_value(chosen, None, "all");
        for number in all {
            ui.selectable_value(chosen, Some(number), number.to_string());
        }
    });
    combo.response.labelled_by(label.id);
}

/// The picture and what was seen.
struct Drawing<'a> {
    image: &'a std::sync::Arc<instructblip::Image>,
    looked: &'a [Looked],
}

impl Drawing<'_> {
    /// Maps side by side, one for each instruction.
    fn row(
        &self,
        thumbnails: &mut Thumbnails,
        ui: &mut Ui,
        look: u64,
        (layer, head, query): (Option<usize>, Option<usize>, Option<usize>),
        has_names: bool,
    ) {
        let each = ui.available_width() / self.looked.len() as f32 - 4.0;
        let shape = self.image.height() as f32 / self.image.width() as f32;
        let height = (each * shape).min(if has_names { 320.0 } else { 120.0 });
        ui.horizontal_top(|ui| {
            for (number, looked) in self.looked.iter().enumerate() {
                ui.vertical(|ui| {
                    ui.set_width(each);
                    if has_names {
                        ui.add(egui::Label::new(RichText::new(&looked.prompt).strong()).wrap());
                    }
                    let shown = Shown::Map(look, number, layer, head, query);
                    let map = thumbnails.map(shown, || (self.image.clone(), looked.maps.clone()));
                    let (rect, response) = ui.allocate_exact_size(egui::vec2(each, height), egui::Sense::hover());
                    let label = format!("map of {}", looked.prompt);
                    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, true, &label));
                    match map {
                        Ok(Some(texture)) => {
                            let size = fitted(texture.size_vec2(), rect.size(), 4.0);
                            let place = egui::Rect::from_min_size(rect.min, size);
                            egui::Image::new(&texture).paint_at(ui, place);
                        }
                        Ok(None) => {}
                        Err(told) => problem(ui, &told),
                    }
                });
            }
        });
    }
}
