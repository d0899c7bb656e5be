//! The panel of given answers: how probable each is.

use eframe::egui::{self, Ui};

use super::{first, lines, preview, problem};
use crate::app::{App, Tab};

pub fn show(app: &mut App, ui: &mut Ui) {
    preview(app, ui);
    let edit = egui::TextEdit::singleline(&mut app.ranking.prompt).hint_text("What is in the picture?");
    first(ui, Tab::Rank, "Question", edit);
    lines(ui, "Answers, one a line", &mut app.ranking.choices, 4, "a cat\na dog");
    ui.horizontal_wrapped(|ui| {
        let can = app.can_rank();
        if ui.add_enabled(can, egui::Button::new("Rank answers")).on_hover_text("Ctrl+Enter").clicked() {
            app.rank();
        }
        if app.ranking.is_waiting {
            ui.spinner();
        }
    });
    ui.separator();
    match &app.ranking.ranked {
        None => drop(ui.weak("The answers come here, the most probable first.")),
        Some(Err(told)) => problem(ui, told),
        Some(Ok(ranked)) => {
            for answer in ranked {
                ui.label(&answer.choice);
                let text = format!("{:.1} %", 100.0 * answer.share);
                let hint = format!("log-probability per token {:.4}", answer.mean);
                let bar = egui::ProgressBar::new(answer.share as f32).text(text).corner_radius(2.0);
                ui.add(bar).on_hover_text(hint);
            }
        }
    }
}
