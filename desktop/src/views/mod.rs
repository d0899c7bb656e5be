//! The window's panels, one file each. They draw the state and call what buttons do; nothing is kept here.

mod ask;
mod bar;
mod caption;
mod dialogs;
mod find;
mod gpu;
mod grid;
mod models;
mod rank;
mod see;
mod settings;
mod status;

use eframe::egui::{self, Color32, RichText, TextStyle, Ui};

use crate::app::{App, Tab, first_field_id};

/// Draws everything.
pub fn show(app: &mut App, ui: &mut Ui) {
    egui::Panel::top("bar").show(ui, |ui| bar::show(app, ui));
    egui::Panel::bottom("status").show(ui, |ui| status::show(app, ui));
    let width = ui.available_width();
    egui::Panel::right("panel")
        .resizable(true)
        .default_size((width * 0.42).clamp(240.0, 480.0))
        .size_range(220.0..=(width * 0.7).max(221.0))
        .show(ui, |ui| side(app, ui));
    egui::CentralPanel::default().show(ui, |ui| grid::show(app, ui));
    dialogs::show(app, &ui.ctx().clone());
}

/// Letters that can be read: a little larger, and darker on light, than the toolkit has them.
pub fn style(ctx: &egui::Context) {
    ctx.all_styles_mut(|style| {
        for (kind, font) in &mut style.text_styles {
            font.size = match kind {
                TextStyle::Small => 11.5,
                TextStyle::Heading => 18.0,
                _ => 14.0,
            };
        }
        style.visuals.weak_text_alpha = 0.8;
    });
    ctx.style_mut_of(egui::Theme::Light, |style| {
        style.visuals.widgets.noninteractive.fg_stroke.color = Color32::from_gray(20);
        style.visuals.widgets.inactive.fg_stroke.color = Color32::from_gray(20);
    });
    ctx.style_mut_of(egui::Theme::Dark, |style| {
        style.visuals.widgets.noninteractive.fg_stroke.color = Color32::from_gray(215);
        style.visuals.widgets.inactive.fg_stroke.color = Color32::from_gray(215);
    });
}

/// The panel beside the grid.
fn side(app: &mut App, ui: &mut Ui) {
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing.x = 2.0;
        for (tab, name) in Tab::ALL {
            if ui.selectable_label(app.tab == tab, name).clicked() {
                app.turn_to(tab);
            }
        }
    });
    ui.separator();
    egui::ScrollArea::vertical().id_salt(app.tab as usize).auto_shrink(false).show(ui, |ui| match app.tab {
        Tab::Caption => caption::show(app, ui),
        Tab::Ask => ask::show(app, ui),
        Tab::See => see::show(app, ui),
        Tab::Rank => rank::show(app, ui),
        Tab::Find => find::show(app, ui),
        Tab::Models => models::show(app, ui),
        Tab::Gpu => gpu::show(app, ui),
        Tab::Settings => settings::show(app, ui),
    });
}

/// The picture that is looked at, as large as the panel, and its name.
fn preview(app: &mut App, ui: &mut Ui) {
    let Some((index, picture)) = app.focused() else {
        ui.weak("Open a folder and choose a picture.");
        return;
    };
    let height = (ui.ctx().content_rect().height() * 0.34).max(90.0);
    let (rect, _) = ui.allocate_exact_size(egui::vec2(ui.available_width(), height), egui::Sense::hover());
    match app.thumbnails.file(&picture, 1024) {
        Ok(Some(texture)) => {
            let size = fitted(texture.size_vec2(), rect.size(), 4.0);
            egui::Image::new(&texture).paint_at(ui, egui::Rect::from_center_size(rect.center(), size));
        }
        Ok(None) => {
            ui.painter().rect_filled(rect, 4.0, ui.visuals().faint_bg_color);
        }
        Err(problem) => {
            let told = egui::Label::new(RichText::new(problem).color(ui.visuals().error_fg_color)).wrap();
            ui.put(rect, told);
        }
    }
    ui.add(egui::Label::new(RichText::new(&app.document.entries()[index].name).weak()).truncate());
}

/// A size in the same shape that fits into another, at most so many times as large.
fn fitted(size: egui::Vec2, room: egui::Vec2, most: f32) -> egui::Vec2 {
    size * (room.x / size.x).min(room.y / size.y).min(most)
}

/// A line for typing, as wide as the panel, with a name above it.
fn field(ui: &mut Ui, name: &str, text: &mut String, hint: &str) -> egui::Response {
    under_name(ui, name, egui::TextEdit::singleline(text).hint_text(hint))
}

/// Several lines for typing, as wide as the panel, with a name above them.
fn lines(ui: &mut Ui, name: &str, text: &mut String, rows: usize, hint: &str) -> egui::Response {
    under_name(ui, name, egui::TextEdit::multiline(text).hint_text(hint).desired_rows(rows))
}

/// The first field of a panel: the key that turns to the panel goes to it.
fn first(ui: &mut Ui, tab: Tab, name: &str, edit: egui::TextEdit<'_>) -> egui::Response {
    under_name(ui, name, edit.id(first_field_id(tab)))
}

fn under_name(ui: &mut Ui, name: &str, edit: egui::TextEdit<'_>) -> egui::Response {
    let label = ui.label(name);
    ui.add(edit.desired_width(f32::INFINITY)).labelled_by(label.id)
}

/// A text about something that went wrong.
fn problem(ui: &mut Ui, text: &str) {
    ui.colored_label(ui.visuals().error_fg_color, text);
}

/// The colour of things that fit, or are right.
fn good(ui: &Ui) -> Color32 {
    if ui.visuals().dark_mode { Color32::from_rgb(110, 200, 120) } else { Color32::from_rgb(20, 120, 40) }
}
