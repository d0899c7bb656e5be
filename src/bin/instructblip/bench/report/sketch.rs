//! Pictures of characters, for terminals.

use super::bars;
use super::numbers::{byte_rate, decade, flop_rate, percent, shorten, time};
use super::roofline::{Dot, Roof};
use instructblip::lab::results::{ModelResults, Results};

/// Labels of a stage that get a bar.
const MOST: usize = 8;

/// The roofline of kernels, or where a model's time goes, at most `width` columns wide.
pub fn sketch(results: &Results, width: usize) -> String {
    let width = width.clamp(40, 160);
    match (&results.model, Roof::of(results)) {
        (Some(model), _) => bars(model, width),
        (None, Some(roof)) => roofline(&roof, width),
        (None, None) => String::new(),
    }
}

/// Columns left of the axis, and right of the picture.
const MARGIN: usize = 7;
const NAMES: usize = 8;

fn roofline(roof: &Roof, width: usize) -> String {
    let (columns, lines) = (width - MARGIN - NAMES - 1, (width / 4).clamp(12, 24));
    let mut canvas = vec![vec![' '; columns]; lines];
    let mut names = vec![String::new(); lines];
    let column = |intensity: f64| (roof.x.at(intensity) * (columns - 1) as f64).round() as usize;
    let line = |rate: f64| lines - 1 - (roof.y.at(rate) * (lines - 1) as f64).round() as usize;

    for &(name, rate) in &roof.flats {
        canvas[line(rate)][column(roof.ridge(rate))..].fill('─');
        // Ceilings near each other share a line.
        let names = &mut names[line(rate)];
        *names = if names.is_empty() { format!(" {name}") } else { format!("{names}, {name}") };
    }
    if let (Some([(start, _), (end, _)]), Some(memory)) = (roof.slope(), roof.memory) {
        let (start, end) = (column(start), column(end));
        let height = |x: usize| line(roof.x.value(x as f64 / (columns - 1) as f64) * memory);
        (start..=end).for_each(|x| canvas[height(x)][x] = '╱');
        let x = (start + 2 * end) / 3;
        let y = height(x);
        write(&mut canvas[y], x.saturating_sub("memory".len() + 3), "memory");
    }
    let at = |dot: &Dot| (line(dot.row.gflop_per_s), column(dot.intensity));
    // A custom kernel first: it must not be the one that is hidden.
    let (custom, ours): (Vec<&Dot>, Vec<&Dot>) = roof.dots.iter().partition(|dot| dot.is_custom());
    let drawn: Vec<&Dot> = custom.into_iter().chain(ours).filter(|dot| set(&mut canvas, at(dot), mark(dot))).collect();

    let mut text = format!("{:>MARGIN$}\n", "GFLOP/s");
    let decades: Vec<i32> = roof.y.decades().collect();
    for (y, cells) in canvas.iter().enumerate() {
        let tick = decades.iter().find(|&&exponent| line(10f64.powi(exponent)) == y);
        let label = tick.map_or(String::new(), |&exponent| decade(exponent) + " ");
        let axis = if tick.is_some() { '┤' } else { '│' };
        let line = cells.iter().collect::<String>() + &names[y];
        text += &format!("{label:>MARGIN$}{axis}{}\n", line.trim_end());
    }
    let mut axis = vec!['─'; columns];
    let mut ticks = vec![' '; columns + NAMES];
    for exponent in roof.x.decades() {
        let (x, name) = (column(10f64.powi(exponent)), decade(exponent));
        axis[x] = '┬';
        write(&mut ticks, x.saturating_sub(name.len() / 2), &name);
    }
    text += &format!("{:>MARGIN$}└{} FLOP/B\n", "", axis.iter().collect::<String>());
    text += &format!("{:>MARGIN$} {}\n", "", ticks.iter().collect::<String>().trim_end());
    let families = roof.families().into_iter().filter(|family| drawn.iter().any(|dot| dot.family == *family));
    let families = families.map(|family| format!("{} {}", family.letter(), family.name()));
    let ceilings = roof.memory.map(|memory| format!("memory {}", byte_rate(memory))).into_iter();
    let ceilings = ceilings.chain(roof.flats.iter().map(|(name, rate)| format!("{name} {}", flop_rate(*rate))));
    let mut notes: Vec<String> = families.collect();
    if drawn.iter().any(|dot| dot.is_custom()) {
        notes.push("small letters: custom".into());
    }
    if drawn.len() < roof.dots.len() {
        notes.push(format!("{} hidden behind others", roof.dots.len() - drawn.len()));
    }
    if roof.left_out > 0 {
        notes.push(format!("{} without arithmetic not shown", roof.left_out));
    }
    text + &wrap(&notes, width) + &wrap(&ceilings.collect::<Vec<_>>(), width)
}

/// Writes a letter into the nearest cell that no other letter touches, a column or two aside; false where there is none.
fn set(canvas: &mut [Vec<char>], (y, x): (usize, usize), letter: char) -> bool {
    let row = &mut canvas[y];
    let is_free = |row: &[char], x: usize| {
        !row[x.saturating_sub(1)..(x + 2).min(row.len())].iter().any(char::is_ascii_alphabetic)
    };
    let places = [Some(x), x.checked_sub(1), Some(x + 1), x.checked_sub(2), Some(x + 2)];
    let free = places.into_iter().flatten().find(|&x| x < row.len() && is_free(row, x));
    free.map(|x| row[x] = letter).is_some()
}

fn mark(dot: &Dot) -> char {
    let letter = dot.family.letter();
    if dot.is_custom() { letter.to_ascii_lowercase() } else { letter }
}

/// Writes a text as far as it fits.
fn write(cells: &mut [char], start: usize, text: &str) {
    for (cell, c) in cells.iter_mut().skip(start).zip(text.chars()) {
        *cell = c;
    }
}

fn wrap(notes: &[String], width: usize) -> String {
    let mut lines = vec![String::new()];
    for note in notes {
        let last = lines.last_mut().filter(|line| line.is_empty() || line.chars().count() + 3 + note.len() <= width);
        match last {
            Some(line) if line.is_empty() => line.push_str(note),
            Some(line) => *line += &format!(" · {note}"),
            None => lines.push(note.clone()),
        }
    }
    lines.join("\n") + "\n"
}

fn bars(model: &ModelResults, width: usize) -> String {
    let mut text = String::new();
    // Name, bar, time, share.
    let name = (width / 3).min(32);
    let bar = width - name - 20;
    for stage in bars::stages(model) {
        let (rows, total) = (bars::of_stage(model, stage), bars::total(model, stage));
        text += &format!("{stage} {}\n", time(total / 1e3));
        let shown = if rows.len() <= MOST + 1 { rows.len() } else { MOST };
        let rest: f64 = rows[shown..].iter().map(|row| row.us).sum();
        let mut lines: Vec<(String, f64)> = rows[..shown].iter().map(|row| (row.label.clone(), row.us)).collect();
        if shown < rows.len() {
            lines.push((format!("{} others", rows.len() - shown), rest));
        }
        let scale = lines.iter().map(|line| line.1).fold(0.0, f64::max);
        for (label, us) in lines {
            let part = |whole: f64| if whole > 0.0 { us / whole } else { 0.0 };
            let (drawn, share, label) = (blocks(part(scale), bar), percent(part(total)), shorten(&label, name - 2));
            text += &format!("  {label:<pad$}{drawn:<bar$} {:>11} {share:>3} %\n", time(us / 1e3), pad = name - 1);
        }
    }
    text
}

/// A bar of `part` of `width`, to an eighth of a column.
fn blocks(part: f64, width: usize) -> String {
    let eighths = (part.clamp(0.0, 1.0) * width as f64 * 8.0).round() as usize;
    let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
    format!("{}{rest}", "█".repeat(eighths / 8))
}
