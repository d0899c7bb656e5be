//! The panel of models: the one that is loaded, those that are there, what each takes, and how others are fetched.

use eframe::egui::{self, Color32, Rect, Sense, Ui, vec2};
use instructblip::error::Bytes;

use super::{field, good, problem};
use crate::app::{App, ModelState};
use crate::tasks::Wanted;
use crate::work::pull::News;
use crate::work::store::{Way, published};
use crate::work::{Setup, Source};

pub fn show(app: &mut App, ui: &mut Ui) {
    loaded(app, ui);
    ui.separator();
    ui.strong("Models on this machine");
    list(app, ui);
    ui.separator();
    ways(app, ui);
    ui.separator();
    ui.strong("Fetch a model");
    pull(app, ui);
}

fn loaded(app: &mut App, ui: &mut Ui) {
    match &app.model {
        ModelState::Loading => {
            ui.horizontal(|ui| {
                ui.spinner();
                ui.label(format!("loading {}", app.settings.setup.source.name()));
            });
        }
        ModelState::None(why) => {
            problem(ui, why);
            if ui.button("Load again").clicked() {
                app.load_model();
            }
        }
        ModelState::Ready(facts) => {
            ui.strong(&facts.name);
            ui.label(format!("{}, on {}", facts.kind, facts.device));
            ui.label(format!("takes up to {}; ready after {:.1} s", Bytes(facts.bytes), facts.ms / 1e3));
            if app.settings.setup.source == Source::Embedded {
                ui.weak("It knows pictures of coloured shapes and nothing else: about photographs it is wrong.");
            }
        }
    }
}

fn list(app: &mut App, ui: &mut Ui) {
    let mut looked_at = None;
    let mut removed = None;
    let mut row = |app: &App, ui: &mut Ui, source: Source, about: &str| {
        let is_chosen = app.models.looked_at.as_ref() == Some(&source);
        let label = egui::Button::selectable(is_chosen, source.name()).truncate();
        if ui.add(label).on_hover_text(about).clicked() {
            looked_at = Some(source);
        }
        ui.weak(about);
    };
    row(app, ui, Source::Embedded, "in the program, 10 MB");
    if let Source::Folder(_) = &app.settings.setup.source {
        row(app, ui, app.settings.setup.source.clone(), "a folder");
    }
    match &app.models.cache {
        None => drop(ui.spinner()),
        Some(Err(told)) => problem(ui, told),
        Some(Ok(cache)) => {
            for model in &cache.models {
                let licence = model.licence.as_deref().unwrap_or("not stated");
                let state = if model.complete { "" } else { ", incomplete" };
                let about = format!("{}{state}, licence: {licence}", Bytes(model.bytes));
                row(app, ui, Source::Cached(model.repo.clone()), &about);
                let is_looked_at = app.models.looked_at == Some(Source::Cached(model.repo.clone()));
                if is_looked_at && ui.small_button("Remove from the disk…").clicked() {
                    removed = Some(model.repo.clone());
                }
            }
            ui.weak(format!("others are kept in {}", cache.folder));
        }
    }
    if let Some(source) = looked_at {
        app.look_at_model(source);
    }
    if removed.is_some() {
        app.models.removing = removed;
    }
    confirm_removal(app, ui);
    ui.horizontal_wrapped(|ui| {
        if ui.button("Choose a folder…").clicked() {
            app.pick(Wanted::Model);
        }
        if ui.button("Look again").clicked() {
            app.tasks.cache();
        }
    });
}

fn confirm_removal(app: &mut App, ui: &mut Ui) {
    let Some(repo) = app.models.removing.clone() else { return };
    ui.horizontal_wrapped(|ui| {
        ui.label(format!("Remove {repo} from the disk?"));
        if ui.button("Remove").clicked() {
            app.tasks.remove(repo.clone());
            app.models.removing = None;
        }
        if ui.button("Keep").clicked() {
            app.models.removing = None;
        }
    });
}

/// The ways to load the model that is looked at, with bars of what each takes.
fn ways(app: &mut App, ui: &mut Ui) {
    let Some(source) = app.models.looked_at.clone() else { return };
    ui.strong(source.name());
    let ways = match &app.models.ways {
        None => return drop(ui.spinner()),
        Some(Err(told)) => return problem(ui, told),
        Some(Ok(ways)) => ways.clone(),
    };
    let budget = app.gpus.survey.as_ref().and_then(crate::work::device::Survey::budget);
    match (budget, app.gpus.is_looking) {
        (Some(bytes), _) => drop(ui.label(format!("The GPU has {} for it.", Bytes(bytes)))),
        (None, true) => drop(ui.spinner()),
        (None, false) => drop(ui.label("The GPU's driver does not tell how much memory there is.")),
    }
    let most = ways.iter().map(|way| way.peak).max().unwrap_or(1).max(budget.unwrap_or(0).min(ways[0].peak * 2));
    let mut chosen = None;
    for way in &ways {
        ui.add_space(2.0);
        ui.horizontal_wrapped(|ui| {
            ui.label(format!("{}: {}", way.name, Bytes(way.peak)));
            match budget {
                Some(budget) if way.peak <= budget => drop(ui.colored_label(good(ui), "fits")),
                Some(_) => problem(ui, "does not fit"),
                None => {}
            }
            if ui.small_button("Load").on_hover_text(format!("load it as {}", way.name)).clicked() {
                chosen = Some(way.clone());
            }
        });
        bar(ui, way, most, budget);
    }
    ui.weak("From the left: vision tower, Q-Former, language model, and the memory of the work.");
    if let Some(way) = chosen {
        let (weights, offload) = (way.weights, way.offload);
        app.settings.setup = Setup { source, weights, offload, ..app.settings.setup.clone() };
        app.load_model();
    }
}

/// A bar of what a way takes, part by part, beside what there is.
fn bar(ui: &mut Ui, way: &Way, most: u64, budget: Option<u64>) {
    const COLORS: [Color32; 4] = [
        Color32::from_rgb(86, 140, 210),
        Color32::from_rgb(226, 160, 70),
        Color32::from_rgb(120, 170, 100),
        Color32::from_rgb(150, 150, 150),
    ];
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), 12.0), Sense::hover());
    let width = |bytes: u64| rect.width() * bytes as f32 / most as f32;
    ui.painter().rect_filled(rect, 2.0, ui.visuals().extreme_bg_color);
    let mut left = rect.min.x;
    for (bytes, color) in way.parts.into_iter().zip(COLORS) {
        let part = Rect::from_min_size(egui::pos2(left, rect.min.y), vec2(width(bytes), rect.height()));
        ui.painter().rect_filled(part.intersect(rect), 0.0, color);
        left += width(bytes);
    }
    if let Some(budget) = budget.filter(|budget| *budget <= most) {
        let stroke = egui::Stroke::new(2.0, ui.visuals().strong_text_color());
        ui.painter().vline(rect.min.x + width(budget), rect.y_range(), stroke);
    }
    let names = ["vision tower", "Q-Former", "language model", "the rest"];
    let lines = names.iter().zip(way.parts).map(|(name, bytes)| format!("{name} {}", Bytes(bytes)));
    response.on_hover_text(lines.collect::<Vec<_>>().join("\n"));
}

fn pull(app: &mut App, ui: &mut Ui) {
    if app.models.cache.as_ref().is_some_and(|cache| cache.as_ref().is_ok_and(|cache| cache.offline)) {
        ui.label("HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set: nothing is fetched.");
    }
    let Some(repo) = app.models.pull.as_ref().map(|pull| pull.repo.clone()) else { return choose_pull(app, ui) };
    ui.label(&repo);
    if let Some((plan, waits)) = app.models.plan.clone() {
        let (bytes, there) = (Bytes(plan.bytes), Bytes(plan.present_bytes));
        ui.label(format!("{} files, {bytes}, {there} of them are there", plan.files));
        ui.label(format!("licence: {}", plan.licence.as_deref().unwrap_or("not stated")));
        ui.weak(format!("to {}", plan.folder.display()));
        if let Some(base) = &plan.base {
            ui.label(format!("This is an adapter for {base}, which is needed, too."));
        }
        if waits && ui.button("Agree and fetch").clicked() {
            if let Some(pull) = &app.models.pull {
                pull.agree();
            }
            app.models.plan = app.models.plan.take().map(|(plan, _)| (plan, false));
        }
    }
    match &app.models.news {
        None => drop(ui.spinner()),
        Some(News::Waiting) => {
            drop(ui.label("this model is being fetched already, here or by another program; waiting for that"))
        }
        Some(News::Retry(told)) => problem(ui, told),
        Some(News::Bytes(done, total)) => {
            let share = *done as f32 / (*total).max(1) as f32;
            ui.add(egui::ProgressBar::new(share).text(format!("{} of {}", Bytes(*done), Bytes(*total))));
        }
        Some(News::Plan(_) | News::Done | News::Failed(_)) => {}
    }
    if ui.button("Stop fetching").on_hover_text("it goes on where it was the next time").clicked() {
        app.end_pull();
    }
}

fn choose_pull(app: &mut App, ui: &mut Ui) {
    let hint = "owner/name on huggingface.co";
    field(ui, "Repository", &mut app.models.repo, hint);
    ui.horizontal_wrapped(|ui| {
        ui.menu_button("Published models", |ui| {
            for (name, repo) in published() {
                if ui.button(name).clicked() {
                    app.look_at_model(Source::Cached(repo.clone()));
                    app.models.repo = repo;
                }
            }
        });
        let is_named = app.models.repo.trim().contains('/');
        let fetch = ui.add_enabled(is_named, egui::Button::new("Fetch"));
        if fetch.on_hover_text("tells size and licence first").clicked() {
            app.begin_pull();
        }
    });
    if let Some(News::Failed(told)) = &app.models.news {
        problem(ui, told);
    }
}
