//! The grid of pictures: only rows that are seen are drawn, and only their pictures are kept.

use eframe::egui::{self, Align2, FontId, Rect, Response, Role, Sense, TextStyle, Ui, WidgetInfo, pos2, vec2};

use super::fitted;
use crate::app::{App, filter_id};
use crate::tasks::Wanted;

/// The space around a picture, and between pictures.
const GAP: f32 = 6.0;

pub fn show(app: &mut App, ui: &mut Ui) {
    if app.document.entries().is_empty() {
        return welcome(app, ui);
    }
    let before = app.shown();
    filter(app, ui);
    let shown = app.shown();
    if shown != before {
        app.scroll_to = app.selection.focus().filter(|focus| shown.contains(focus)).or(shown.first().copied());
    }
    if shown.is_empty() {
        ui.weak("No picture is like that.");
        return;
    }
    let line = ui.text_style_height(&TextStyle::Small) + 2.0;
    let side = app.settings.thumbnail.min(ui.available_width() - 3.0 * GAP - 12.0).max(48.0);
    let cell = vec2(side + 2.0 * GAP, side + 2.0 * line + 2.0 * GAP);
    let columns = ((ui.available_width() - 12.0) / (cell.x + GAP)).floor().max(1.0) as usize;
    app.columns = columns;
    let rows = shown.len().div_ceil(columns);
    let height = cell.y + GAP;
    egui::ScrollArea::vertical().auto_shrink(false).show_viewport(ui, |ui, viewport| {
        ui.set_height(rows as f32 * height);
        let origin = ui.min_rect().left_top();
        let place = |at: usize| {
            let (row, column) = (at / columns, at % columns);
            Rect::from_min_size(origin + vec2(column as f32 * (cell.x + GAP), row as f32 * height), cell)
        };
        if let Some(index) = app.scroll_to.take()
            && let Some(at) = shown.iter().position(|&other| other == index)
        {
            ui.scroll_to_rect(place(at), None);
        }
        let first = (viewport.min.y / height).floor().max(0.0) as usize;
        let last = ((viewport.max.y / height).ceil().max(0.0) as usize).min(rows);
        for at in first * columns..(last * columns).min(shown.len()) {
            picture(app, ui, shown[at], place(at), &shown);
        }
    });
}

fn welcome(app: &mut App, ui: &mut Ui) {
    ui.vertical_centered(|ui| {
        ui.add_space(ui.available_height() * 0.25);
        if app.is_opening {
            ui.spinner();
            ui.label("looking for pictures");
            return;
        }
        ui.heading("Drop pictures or a folder here");
        ui.add_space(GAP);
        ui.label("Captions are read from the .txt files beside the pictures, and written there.");
        ui.add_space(2.0 * GAP);
        if ui.button("Open a folder…").clicked() {
            app.pick(Wanted::Folder);
        }
        if ui.button("Open some pictures…").clicked() {
            app.pick(Wanted::Pictures);
        }
    });
}

fn filter(app: &mut App, ui: &mut Ui) {
    ui.horizontal_wrapped(|ui| {
        let hint = "Ctrl+F: filter, as in cat -dog name:holiday tag:grass";
        let edit = egui::TextEdit::singleline(&mut app.filter.text).id(filter_id()).hint_text(hint);
        let room = ui.available_width();
        let width = if room < 320.0 { room } else { room * 0.5 };
        ui.add(edit.desired_width(width)).on_hover_text(
            "Words that name or caption must have; -word: must not; \"two words\"; name:, caption: and tag: say where.",
        );
        ui.checkbox(&mut app.filter.uncaptioned, "uncaptioned").on_hover_text("only pictures without a caption");
        ui.checkbox(&mut app.filter.unsaved, "unsaved").on_hover_text("only captions that are not in their files");
        let (shown, all, chosen) = (app.shown().len(), app.document.entries().len(), app.selection.chosen().len());
        let of_all = if shown == all { format!("{all} pictures") } else { format!("{shown} of {all} pictures") };
        let numbers = egui::RichText::new(format!("{of_all}, {chosen} chosen")).weak();
        ui.add(egui::Label::new(numbers).extend());
    });
    ui.add_space(2.0);
}

fn picture(app: &mut App, ui: &mut Ui, index: usize, rect: Rect, shown: &[usize]) {
    let entry = &app.document.entries()[index];
    let (path, name) = (entry.picture.clone(), entry.name.clone());
    let caption = entry.caption.replace('\n', " ");
    let is_saved = entry.is_saved();
    let response = ui.interact(rect, ui.scope_id().with(("picture", index)), Sense::click());
    let is_chosen = app.selection.has(index);
    let label = format!("picture {name}");
    response.widget_info(|| WidgetInfo::selected(Role::Button, true, is_chosen, &label));
    let visuals = ui.visuals();
    if is_chosen {
        ui.painter().rect_filled(rect, 4.0, visuals.selection.bg_fill);
    } else if response.hovered() {
        ui.painter().rect_filled(rect, 4.0, visuals.faint_bg_color);
    }
    if app.selection.focus() == Some(index) {
        let stroke = egui::Stroke::new(2.0, visuals.selection.stroke.color);
        ui.painter().rect_stroke(rect, 4.0, stroke, egui::StrokeKind::Inside);
    }
    let side = rect.width() - 2.0 * GAP;
    let room = Rect::from_min_size(rect.min + vec2(GAP, GAP), vec2(side, side));
    // A few sizes, so that a little zoom does not read every picture again.
    let pixels = (side * ui.ctx().pixels_per_point()).clamp(64.0, 1024.0) as u32;
    match app.thumbnails.file(&path, pixels.next_power_of_two()) {
        Ok(Some(texture)) => {
            let size = fitted(texture.size_vec2(), room.size(), f32::INFINITY);
            egui::Image::new(&texture).paint_at(ui, Rect::from_center_size(room.center(), size));
        }
        Ok(None) => {}
        Err(_) => {
            let color = ui.visuals().error_fg_color;
            ui.painter().text(room.center(), Align2::CENTER_CENTER, "no picture", FontId::proportional(13.0), color);
        }
    }
    let color = if is_chosen { ui.visuals().selection.stroke.color } else { ui.visuals().text_color() };
    let font = TextStyle::Small.resolve(ui.style());
    let line = font.size + 4.0;
    let mark = if is_saved { "" } else { "• " };
    let top = room.max.y + 2.0;
    text(ui, &format!("{mark}{caption}"), pos2(room.min.x, top), side, color);
    let weak = if is_chosen { color } else { ui.visuals().weak_text_color() };
    text(ui, &name, pos2(room.min.x, top + line), side, weak);
    let full = if caption.is_empty() { name } else { format!("{name}\n{caption}") };
    obey_click(app, ui, &response.on_hover_text(full), index, shown);
}

/// A line of small letters, cut where there is no room.
fn text(ui: &Ui, text: &str, at: egui::Pos2, width: f32, color: egui::Color32) {
    let font = TextStyle::Small.resolve(ui.style());
    let mut job = egui::text::LayoutJob::simple_singleline(text.into(), font, color);
    job.wrap = egui::text::TextWrapping::truncate_at_width(width);
    let galley = ui.fonts_mut(|fonts| fonts.layout_job(job));
    ui.painter().galley(at, galley, color);
}

fn obey_click(app: &mut App, ui: &Ui, response: &Response, index: usize, shown: &[usize]) {
    if !response.clicked() {
        return;
    }
    app.document.end_typing();
    let modifiers = ui.input(|input| input.modifiers);
    match () {
        () if modifiers.shift => app.selection.extend(index, shown),
        () if modifiers.command => app.selection.toggle(index),
        () => app.selection.choose(index),
    }
    // Keys are for the grid from now on.
    ui.memory_mut(|memory| memory.focused().into_iter().for_each(|field| memory.surrender_focus(field)));
}
