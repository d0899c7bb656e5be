//! The time of a step of decoding over the keys in the cache, for each number of rows.

use super::numbers::{number, time};
use super::svg::{Anchor, Size, Svg};
use instructblip::lab::results::{DecodeRow, ModelResults};

/// Draws it; `None` where nothing was decoded.
pub fn draw(model: &ModelResults, size: Size) -> Option<Svg> {
    let measured = |row: &&DecodeRow| row.ms.is_finite() && row.ms > 0.0 && row.keys > 0;
    let rows: Vec<&DecodeRow> = model.decode.iter().filter(measured).collect();
    let (width, height) = (size.width(), if size == Size::Wide { 300.0 } else { 260.0 });
    let (left, top, right, bottom) = (52.0, 28.0, width - 82.0, height - 44.0);

    let mut keys: Vec<u32> = rows.iter().map(|row| row.keys).collect();
    keys.sort_unstable();
    keys.dedup();
    let (least, greatest) = (f64::from(*keys.first()?).ln(), f64::from(*keys.last()?).ln());
    // A single length stands in the middle.
    let x = |keys: u32| match greatest > least {
        true => left + 16.0 + (f64::from(keys).ln() - least) / (greatest - least) * (right - left - 32.0),
        false => (left + right) / 2.0,
    };
    let slowest = rows.iter().map(|row| row.ms).fold(0.0, f64::max);
    let step = nice_step(slowest / 5.0);
    let end = (slowest / step).ceil() * step;
    let y = |ms: f64| bottom - ms / end * (bottom - top);

    let mut svg = Svg::new(width, height, "Decoding: milliseconds a step against keys in the cache");
    for i in 0..=(end / step).round() as u32 {
        let ms = f64::from(i) * step;
        svg.line((left, y(ms)), (right, y(ms)), if i == 0 { "axis" } else { "grid" });
        svg.text((left - 8.0, y(ms) + 4.0), Anchor::End, "small muted", &tick(ms));
    }
    svg.text((10.0, 15.0), Anchor::Start, "small muted", "ms a step");
    svg.text((right, bottom + 34.0), Anchor::End, "small muted", "keys in the cache");
    let mut last = f64::NEG_INFINITY;
    for &count in &keys {
        svg.line((x(count), bottom), (x(count), bottom + 4.0), "axis");
        if x(count) - last >= 34.0 {
            svg.text((x(count), bottom + 17.0), Anchor::Middle, "small muted", &count.to_string());
            last = x(count);
        }
    }

    let mut names: Vec<(f64, usize, String)> = Vec::new();
    for (i, (count, line)) in by_rows(&rows).into_iter().enumerate() {
        let points: Vec<_> = line.iter().map(|row| (x(row.keys), y(row.ms))).collect();
        svg.polyline(&points, &format!("line s{}", i % 8));
        for (row, &point) in line.iter().zip(&points) {
            let tokens = number(row.tokens_per_s);
            let title = format!("{count} rows, {} keys\n{}\n{tokens} tokens/s", row.keys, time(row.ms));
            svg.circle(point, 4.0, &format!("dot f{}", i % 8), &title);
        }
        let name = if count == 1 { "1 row".to_string() } else { format!("{count} rows") };
        names.extend(points.last().map(|point| (point.1, i, name)));
    }
    // Lines that end close to each other still get names that can be read.
    names.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut below = bottom + 8.0;
    for (at, i, name) in names {
        let at = at.min(below - 14.0);
        below = at;
        svg.circle((right + 8.0, at), 4.0, &format!("dot f{}", i % 8), "");
        svg.text((right + 17.0, at + 4.0), Anchor::Start, "small", &name);
    }
    Some(svg)
}

/// A line for each number of rows, from left to right.
fn by_rows<'a>(rows: &[&'a DecodeRow]) -> Vec<(u32, Vec<&'a DecodeRow>)> {
    let mut lines: Vec<(u32, Vec<&DecodeRow>)> = Vec::new();
    for &row in rows {
        match lines.iter_mut().find(|(count, _)| *count == row.rows) {
            Some((_, line)) => line.push(row),
            None => lines.push((row.rows, vec![row])),
        }
    }
    lines.sort_by_key(|(count, _)| *count);
    for (_, line) in &mut lines {
        line.sort_by_key(|row| row.keys);
    }
    lines
}

/// A number without the zeros of sums of binary fractions.
fn tick(ms: f64) -> String {
    ((ms * 1e6).round() / 1e6).to_string()
}

/// The next of 1, 2, 5, 10, … times a power of ten.
fn nice_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|digit| digit * power).find(|step| *step >= least).unwrap_or(10.0 * power)
}
