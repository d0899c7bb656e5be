//! Bars of the time of a stage, label by label.

use super::family::Family;
use super::numbers::{percent, shorten, time};
use super::svg::{Anchor, Size, Svg};
use instructblip::lab::results::{LabelRow, ModelResults};

/// Labels that get a bar of their own; what is left shares one.
const MOST: usize = 14;

/// Stages that have labels, in the order in which they come.
pub fn stages(model: &ModelResults) -> Vec<&str> {
    let mut stages: Vec<&str> = Vec::new();
    for row in &model.labels {
        if !stages.contains(&row.stage.as_str()) {
            stages.push(&row.stage);
        }
    }
    // Files have labels by time; people think of stages in the order of the work.
    let known = ["vision", "qformer", "prefill", "decode"];
    stages.sort_by_key(|stage| known.iter().position(|name| name == stage).unwrap_or(known.len()));
    stages
}

/// Time of all labels of a stage in microseconds.
pub fn total(model: &ModelResults, stage: &str) -> f64 {
    of_stage(model, stage).iter().map(|row| row.us).sum()
}

/// Rows of a stage, largest first, without those that were not measured.
pub fn of_stage<'a>(model: &'a ModelResults, stage: &str) -> Vec<&'a LabelRow> {
    let mut rows: Vec<_> = model.labels.iter().filter(|row| row.stage == stage && row.us.is_finite()).collect();
    rows.sort_by(|a, b| b.us.total_cmp(&a.us));
    rows
}

/// Draws a stage's labels.
pub fn draw(model: &ModelResults, stage: &str, size: Size) -> Svg {
    let (rows, total) = (of_stage(model, stage), total(model, stage));
    // One more is as high as the line that would tell about it.
    let shown = if rows.len() <= MOST + 1 { rows.len() } else { MOST };
    let most = rows.first().map_or(0.0, |row| row.us);
    let rest: f64 = rows[shown..].iter().map(|row| row.us).sum();
    let scale = most.max(rest);

    let width = size.width();
    let mut svg = Svg::new(width, 0.0, &format!("Time of {stage} by label"));
    let layout = Layout::of(size);
    let head = format!("{stage} {}", time(total / 1e3));
    svg.text((0.0, 16.0), Anchor::Start, "strong", &head);
    svg.text((width, 16.0), Anchor::End, "small muted", layout.columns());
    let mut y = 30.0;
    for row in &rows[..shown] {
        let family = format!("f{}", Family::of(&row.kernel).index());
        layout.draw(&mut svg, y, &Bar { row: Some(row), name: &row.label, us: row.us, class: &family }, scale, total);
        y += layout.step;
    }
    if shown < rows.len() {
        let name = format!("{} others", rows.len() - shown);
        layout.draw(&mut svg, y, &Bar { row: None, name: &name, us: rest, class: "f7" }, scale, total);
        y += layout.step;
    }
    svg.set_height(y + 2.0);
    svg
}

struct Bar<'a> {
    row: Option<&'a LabelRow>,
    name: &'a str,
    us: f64,
    class: &'a str,
}

struct Layout {
    size: Size,
    /// The distance from one row to the next.
    step: f64,
    left: f64,
    right: f64,
}

impl Layout {
    fn of(size: Size) -> Layout {
        match size {
            Size::Wide => Layout { size, step: 24.0, left: 330.0, right: size.width() - 178.0 },
            Size::Narrow => Layout { size, step: 38.0, left: 0.0, right: size.width() },
        }
    }

    /// The text on the right.
    fn columns(&self) -> &'static str {
        match self.size {
            Size::Wide => "time, share, launches",
            Size::Narrow => "time, share",
        }
    }

    fn draw(&self, svg: &mut Svg, y: f64, bar: &Bar, scale: f64, total: f64) {
        let kernel = bar.row.map_or("", |row| row.kernel.as_str());
        let count = bar.row.map_or(String::new(), |row| format!("  ×{}", row.count));
        let share = percent(if total > 0.0 { bar.us / total } else { 0.0 });
        let measured = format!("{} · {share} %", time(bar.us / 1e3));
        let part = if scale > 0.0 { bar.us / scale } else { 0.0 };
        let title = format!("{}\n{kernel}{count}\n{measured}", bar.name);
        let extent = part * (self.right - self.left);
        match self.size {
            Size::Wide => {
                svg.text((0.0, y + 13.0), Anchor::Start, "", &shorten(bar.name, 27));
                svg.text((self.left - 10.0, y + 13.0), Anchor::End, "small muted", &shorten(kernel, 22));
                svg.bar((self.left, y + 2.0), (self.right - self.left, 14.0), "track", "");
                svg.bar((self.left, y + 2.0), (extent, 14.0), bar.class, &title);
                let width = self.size.width();
                svg.text((width - 104.0, y + 13.0), Anchor::End, "", &time(bar.us / 1e3));
                svg.text((width - 58.0, y + 13.0), Anchor::End, "muted", &format!("{share} %"));
                svg.text((width, y + 13.0), Anchor::End, "small muted", count.trim_start());
            }
            Size::Narrow => {
                svg.text((0.0, y + 12.0), Anchor::Start, "", &shorten(bar.name, 30));
                svg.text((self.right, y + 12.0), Anchor::End, "", &measured);
                svg.bar((self.left, y + 18.0), (self.right - self.left, 8.0), "track", "");
                svg.bar((self.left, y + 18.0), (extent, 8.0), bar.class, &title);
            }
        }
    }
}
