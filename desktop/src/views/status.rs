//! The line at the bottom: the model, what it does, and what went wrong.

use eframe::egui::{self, Ui};

use crate::app::{App, ModelState, Running};

pub fn show(app: &mut App, ui: &mut Ui) {
    notice(app, ui);
    ui.horizontal_wrapped(|ui| {
        match &app.model {
            ModelState::Loading => {
                ui.spinner();
                ui.label("loading the model");
            }
            ModelState::Ready(facts) => {
                ui.label(&facts.name).on_hover_text(format!("{} on {}", facts.kind, facts.device));
            }
            ModelState::None(why) => {
                ui.colored_label(ui.visuals().error_fg_color, "no model").on_hover_text(why);
            }
        }
        ui.separator();
        match (&app.running, &app.doing) {
            (Some(running), _) => captions(running, ui),
            (None, Some((what, how_far))) => doing(what, *how_far, ui),
            (None, None) => drop(ui.weak("ready")),
        }
        if app.doing.is_some() && ui.button("Stop").on_hover_text("Escape").clicked() {
            app.work.stop();
        }
    });
}

fn captions(running: &Running, ui: &mut Ui) {
    let Running { done, total, .. } = *running;
    let left = running.left().filter(|_| done > 0).map_or(String::new(), |left| format!(", {} left", in_words(left)));
    let share = done as f32 / total.max(1) as f32;
    let text = format!("{done} of {total} captions{left}");
    ui.add(egui::ProgressBar::new(share).text(text).desired_width(280.0));
}

fn doing(what: &str, how_far: Option<(u64, u64)>, ui: &mut Ui) {
    match how_far.filter(|(_, total)| *total > 0) {
        Some((done, total)) => {
            let share = done as f32 / total as f32;
            let figures = if total < 10_000 { format!("{done} of {total}") } else { format!("{:.0} %", share * 100.0) };
            ui.add(egui::ProgressBar::new(share).text(format!("{what}: {figures}")).desired_width(280.0));
        }
        None => {
            ui.spinner();
            ui.label(what);
        }
    }
}

/// A time as people say it.
fn in_words(time: std::time::Duration) -> String {
    match time.as_secs() {
        seconds @ 0..90 => format!("{seconds} s"),
        seconds @ 90..5400 => format!("{} min", (seconds + 30) / 60),
        seconds => format!("{:.1} h", seconds as f64 / 3600.0),
    }
}

/// The last thing that was told, until it is put away.
fn notice(app: &mut App, ui: &mut Ui) {
    let Some(last) = app.notices.last().cloned() else { return };
    let more = app.notices.len() - 1;
    let before: Vec<String> = app.notices.iter().rev().skip(1).take(10).cloned().collect();
    ui.horizontal_wrapped(|ui| {
        if ui.button("×").on_hover_text("put away").clicked() {
            app.notices.clear();
        }
        ui.label(last);
        if more > 0 {
            ui.weak(format!("and {more} before")).on_hover_text(before.join("\n"));
        }
    });
    ui.separator();
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::in_words;

    #[test]
    fn times_are_said_as_people_do() {
        let said = [5, 89, 90, 600, 7200].map(|seconds| in_words(Duration::from_secs(seconds)));
        assert_eq!(said, ["5 s", "89 s", "2 min", "10 min", "2.0 h"]);
    }
}
