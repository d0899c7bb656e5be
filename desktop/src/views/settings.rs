//! The panel of settings.

use eframe::egui::{self, Ui};

use crate::app::App;
use crate::settings::{Look, ZOOM};

pub fn show(app: &mut App, ui: &mut Ui) {
    ui.strong("Window");
    ui.horizontal_wrapped(|ui| {
        ui.label("Colours");
        for (look, name) in [(Look::System, "as the system"), (Look::Light, "light"), (Look::Dark, "dark")] {
            ui.radio_value(&mut app.settings.look, look, name);
        }
    });
    size(app, ui);
    ui.horizontal_wrapped(|ui| {
        let label = ui.label("Pictures in the grid");
        let slider = egui::Slider::new(&mut app.settings.thumbnail, 64.0..=320.0).fixed_decimals(0);
        ui.add(slider).labelled_by(label.id);
    });
    ui.separator();
    ui.strong("Pictures");
    let hint = "Cameras note how they were held. The reference does not look at it; people do.";
    ui.checkbox(&mut app.settings.setup.upright, "turn them upright as their files say").on_hover_text(hint);
    ui.separator();
    ui.strong("Captioning");
    ui.horizontal_wrapped(|ui| {
        let label = ui.label("Pictures at once");
        ui.add(egui::DragValue::new(&mut app.settings.setup.slots).range(1..=64)).labelled_by(label.id);
    });
    ui.weak("More are faster and take more memory. The next model that is loaded is planned with it.");
    ui.horizontal_wrapped(|ui| {
        if ui.button("Load the model again").clicked() {
            app.load_model();
        }
    });
    ui.separator();
    if let Some(folder) = &app.folder {
        ui.weak(format!("Settings and unfinished jobs are kept in {}", folder.display()));
    }
}

/// The size of letters: buttons, as a slider would move under the pointer.
fn size(app: &mut App, ui: &mut Ui) {
    ui.horizontal_wrapped(|ui| {
        ui.label(format!("Size {:.0} %", app.settings.zoom * 100.0));
        for percent in [80, 100, 125, 150, 200] {
            if ui.button(format!("{percent} %")).clicked() {
                let zoom = (percent as f32 / 100.0).clamp(*ZOOM.start(), *ZOOM.end());
                ui.ctx().set_zoom_factor(zoom);
            }
        }
    });
}
