//! The roofline: arithmetic in a second against arithmetic a byte, under what the adapter was measured to reach.
//! S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009.

use super::family::Family;
use super::numbers::{byte_rate, decade, flop_rate, number, percent, shorten, spread, time};
use super::place::{Rect, place, text_width};
use super::svg::{Anchor, Size, Svg};
use instructblip::lab::results::{Ceilings, KernelRow, Results};

/// A logarithmic axis.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    /// An axis from the power of ten of the least value to that of the greatest. Values further than ten decades below the
    /// greatest stick to the edge: they are mistakes of a clock.
    fn new(least: f64, greatest: f64) -> Axis {
        let high = greatest.log10();
        Axis { low: least.log10().max(high - 10.0), high }
    }

    /// The place of a value, from 0 to 1.
    pub fn at(&self, value: f64) -> f64 {
        ((value.log10() - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// The value at `part` from 0 to 1.
    pub fn value(&self, part: f64) -> f64 {
        10f64.powf(self.low + part * (self.high - self.low))
    }

    pub fn least(&self) -> f64 {
        self.value(0.0)
    }

    pub fn greatest(&self) -> f64 {
        self.value(1.0)
    }

    /// Exponents of the powers of ten on it.
    pub fn decades(&self) -> impl Iterator<Item = i32> + use<> {
        self.low.ceil() as i32..=self.high.floor() as i32
    }
}

/// A kernel that has a place under the roof.
pub struct Dot<'a> {
    pub row: &'a KernelRow,
    /// FLOP a byte.
    pub intensity: f64,
    pub family: Family,
}

impl Dot<'_> {
    pub fn is_custom(&self) -> bool {
        self.row.variant == "custom"
    }
}

/// Everything that is drawn, in the axes' units.
pub struct Roof<'a> {
    pub x: Axis,
    pub y: Axis,
    /// GB/s, the greater of copying and reading.
    pub memory: Option<f64>,
    /// Names and GFLOP/s, greatest first.
    pub flats: Vec<(&'static str, f64)>,
    pub dots: Vec<Dot<'a>>,
    /// Rows that do no arithmetic, or have no time.
    pub left_out: usize,
}

fn positive(value: f64) -> Option<f64> {
    Some(value).filter(|v| v.is_finite() && *v > 0.0)
}

impl Roof<'_> {
    /// `None` where no kernel does arithmetic.
    pub fn of(results: &Results) -> Option<Roof<'_>> {
        let dot = |row| dot(row);
        let dots: Vec<Dot> = results.kernels.iter().filter_map(dot).collect();
        let Ceilings { copy_gb_s, read_gb_s, f32_gflop_s, f16_gflop_s, matrix_gflop_s, .. } = results.ceilings;
        let memory = [copy_gb_s, read_gb_s].into_iter().filter_map(positive).reduce(f64::max);
        let flats = [("f32", Some(f32_gflop_s)), ("f16", f16_gflop_s), ("matrix", matrix_gflop_s)];
        let mut flats: Vec<_> = flats.into_iter().filter_map(|(name, v)| Some((name, v.and_then(positive)?))).collect();
        flats.sort_by(|a, b| b.1.total_cmp(&a.1));

        let range = |values: &mut dyn Iterator<Item = f64>| {
            values.map(|v| (v, v)).reduce(|(a, b), (c, d)| (a.min(c), b.max(d)))
        };
        let (x0, x1) = range(&mut dots.iter().map(|dot| dot.intensity))?;
        let (y0, y1) = range(&mut dots.iter().map(|dot| dot.row.gflop_per_s))?;
        let top = flats.first().map_or(y1, |flat| flat.1.max(y1));
        // The ridges are shown even where all dots are on one side: they tell what the dots are up against.
        let ridge = |flat: Option<&(&str, f64)>| memory.and_then(|memory| Some(flat?.1 / memory));
        let (first, last) = (ridge(flats.last()).unwrap_or(x0), ridge(flats.first()).unwrap_or(x1));
        let low = flats.last().map_or(y0, |flat| flat.1 / 10.0);
        let left_out = results.kernels.len() - dots.len();
        let x = Axis::new(x0.min(first / 5.0) / 2.0, x1.max(last) * 4.0);
        let y = Axis::new(y0.min(low) / 3.0, top * 2.5);
        Some(Roof { x, y, memory, flats, dots, left_out })
    }

    /// The ends of the slope, as far as it is the roof.
    pub fn slope(&self) -> Option<[(f64, f64); 2]> {
        let memory = self.memory?;
        let start = self.x.least().max(self.y.least() / memory);
        let top = self.flats.first().map_or(self.y.greatest(), |flat| flat.1);
        let end = (top / memory).min(self.x.greatest());
        (start < end).then_some([(start, start * memory), (end, end * memory)])
    }

    /// The intensity at which a flat ceiling leaves the slope.
    pub fn ridge(&self, gflop_per_s: f64) -> f64 {
        self.memory.map_or(self.x.least(), |memory| gflop_per_s / memory)
    }

    /// Families that have dots.
    pub fn families(&self) -> Vec<Family> {
        Family::ALL.into_iter().filter(|family| self.dots.iter().any(|dot| dot.family == *family)).collect()
    }

    /// Best and worst share of each family, as indices of dots; the extremes of all come first.
    fn notable(&self) -> Vec<usize> {
        let mut notable = Vec::new();
        for family in self.families() {
            let of_family = (0..self.dots.len()).filter(|&i| self.dots[i].family == family);
            let share = |&i: &usize| self.dots[i].row.share;
            notable.extend(of_family.clone().max_by(|a, b| share(a).total_cmp(&share(b))));
            notable.extend(of_family.min_by(|a, b| share(a).total_cmp(&share(b))));
        }
        let extreme = |&i: &usize| -(self.dots[i].row.share - 0.5).abs();
        notable.sort_by(|a, b| extreme(a).total_cmp(&extreme(b)));
        let mut seen = Vec::new();
        notable.retain(|i| {
            !seen.contains(i) && {
                seen.push(*i);
                true
            }
        });
        notable
    }
}

fn dot(row: &KernelRow) -> Option<Dot<'_>> {
    let intensity = positive(row.flops as f64 / row.bytes as f64)?;
    positive(row.gflop_per_s)?;
    Some(Dot { row, intensity, family: Family::of(&row.op) })
}

/// The axes, in pixels.
struct Frame {
    rect: Rect,
    x: Axis,
    y: Axis,
}

impl Frame {
    fn at(&self, intensity: f64, gflop_per_s: f64) -> (f64, f64) {
        let Rect { left, top, right, bottom } = self.rect;
        (left + self.x.at(intensity) * (right - left), bottom - self.y.at(gflop_per_s) * (bottom - top))
    }
}

/// Draws it; `None` where no kernel does arithmetic.
pub fn draw(results: &Results, size: Size) -> Option<Svg> {
    let roof = Roof::of(results)?;
    let (width, height) = (size.width(), if size == Size::Wide { 540.0 } else { 380.0 });
    let rect = Rect { left: 52.0, top: 26.0, right: width - 14.0, bottom: height - 44.0 };
    let frame = Frame { rect, x: roof.x, y: roof.y };
    let mut svg = Svg::new(width, height, &format!("Roofline of {}", results.adapter.name));

    draw_axes(&mut svg, &frame);
    let points: Vec<_> = roof.dots.iter().map(|dot| frame.at(dot.intensity, dot.row.gflop_per_s)).collect();
    let marks: Vec<_> = points.iter().map(|&point| Rect::around(point, 6.0)).collect();
    let mut taken = draw_ceilings(&mut svg, &roof, &frame, &marks, size);
    taken.extend(marks);
    draw_labels(&mut svg, &roof, &points, &frame.rect, taken, size);
    // The large groups first, that the few are not hidden.
    let count = |family| roof.dots.iter().filter(|dot| dot.family == family).count();
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(count(roof.dots[i].family)));
    for i in order {
        let dot = &roof.dots[i];
        draw_mark(&mut svg, points[i], &dot.row.variant, dot.family, &tooltip(dot));
    }
    let bottom = draw_legend(&mut svg, &roof, height + 4.0, size);
    svg.set_height(bottom);
    Some(svg)
}

fn draw_axes(svg: &mut Svg, frame: &Frame) {
    let Rect { left, top, right, bottom } = frame.rect;
    for exponent in frame.x.decades() {
        let x = frame.at(10f64.powi(exponent), 1.0).0;
        svg.line((x, top), (x, bottom), "grid");
        svg.text((x, bottom + 17.0), Anchor::Middle, "small muted", &decade(exponent));
    }
    for exponent in frame.y.decades() {
        let y = frame.at(1.0, 10f64.powi(exponent)).1;
        svg.line((left, y), (right, y), "grid");
        svg.text((left - 8.0, y + 4.0), Anchor::End, "small muted", &decade(exponent));
    }
    svg.line((left, bottom), (right, bottom), "axis");
    svg.line((left, top), (left, bottom), "axis");
    svg.text((10.0, 15.0), Anchor::Start, "small muted", "GFLOP/s");
    svg.text((right, bottom + 34.0), Anchor::End, "small muted", "arithmetic intensity in FLOP/byte");
}

/// Gives back what their labels take.
fn draw_ceilings(svg: &mut Svg, roof: &Roof, frame: &Frame, marks: &[Rect], size: Size) -> Vec<Rect> {
    let mut taken = Vec::new();
    let right = frame.rect.right;
    let mut above: Option<f64> = None;
    for (i, &(name, rate)) in roof.flats.iter().enumerate() {
        let start = frame.at(roof.ridge(rate), rate);
        svg.line(start, (right, start.1), if i == 0 { "roof" } else { "roof d1" });
        // Names of ceilings close to each other go below one another.
        let base = match above {
            Some(above) if start.1 - 5.0 < above + 13.0 => (start.1 + 14.0).max(above + 13.0),
            _ => start.1 - 5.0,
        };
        above = Some(base);
        // A phone has room for dots or for numbers.
        let text = if size == Size::Wide { format!("{name} {}", flop_rate(rate)) } else { name.to_string() };
        svg.text((right - 2.0, base), Anchor::End, "small strong halo", &text);
        taken.push(Rect::of_text((right - 2.0, base), Anchor::End, &text));
        taken.push(Rect { left: start.0, top: start.1 - 2.0, right, bottom: start.1 + 2.0 });
    }
    if let (Some([start, end]), Some(memory)) = (roof.slope(), roof.memory) {
        let (start, end) = (frame.at(start.0, start.1), frame.at(end.0, end.1));
        svg.line(start, end, "roof");
        let text = format!("memory {}", byte_rate(memory));
        taken.extend(draw_slope_name(svg, start, end, &text, marks));
        let along = |part: f64| (start.0 + part * (end.0 - start.0), start.1 + part * (end.1 - start.1));
        taken.extend((0..=100).map(|i| Rect::around(along(f64::from(i) / 100.0), 1.5)));
    }
    taken
}

/// Along the slope, at the first place where no mark is; gives back what it takes.
fn draw_slope_name(svg: &mut Svg, start: (f64, f64), end: (f64, f64), text: &str, marks: &[Rect]) -> Vec<Rect> {
    let (dx, dy) = (end.0 - start.0, start.1 - end.1);
    let degrees = dy.atan2(dx).to_degrees();
    let (sin, cos) = degrees.to_radians().sin_cos();
    let half = text_width(text) / 2.0;
    // A slanted box is a chain of small ones.
    let boxes = |(x, y): (f64, f64)| -> Vec<Rect> {
        let steps = (half / 5.0) as i32;
        let distances = (-steps..=steps).map(|i| f64::from(i) * 5.0);
        distances.map(|d| Rect::around((x + d * cos - 3.0 * sin, y - d * sin - 3.0 * cos), 6.0)).collect()
    };
    let middle = |part: f64| (start.0 + part * dx - 6.0 * sin, start.1 - part * dy - 6.0 * cos);
    let fits = |part: &f64| part.min(1.0 - part) * dx.hypot(dy) > half;
    let is_free = |part: &f64| !boxes(middle(*part)).iter().any(|one| marks.iter().any(|mark| mark.overlaps(one)));
    let part = [0.5, 0.6, 0.4, 0.7, 0.3, 0.8, 0.2].into_iter().filter(fits).find(is_free).unwrap_or(0.5);
    svg.turned_text(middle(part), degrees, "small strong halo", text);
    boxes(middle(part))
}

fn draw_labels(svg: &mut Svg, roof: &Roof, points: &[(f64, f64)], bounds: &Rect, mut taken: Vec<Rect>, size: Size) {
    let most = if size == Size::Wide { 16 } else { 6 };
    for i in roof.notable().into_iter().take(most) {
        let row = roof.dots[i].row;
        let text = match size {
            Size::Wide => shorten(&format!("{} {}", row.op, row.shape), 34),
            Size::Narrow => shorten(&row.op, 16),
        };
        let text = format!("{text} · {} %", percent(row.share));
        let Some((at, anchor)) = place(points[i], &text, bounds, &mut taken) else { continue };
        if (at.1 - points[i].1).abs() > 17.5 {
            let end = (at.0, if at.1 > points[i].1 { at.1 - 9.0 } else { at.1 + 3.0 });
            svg.line(points[i], end, "lead");
        }
        svg.text(at, anchor, "small halo", &text);
    }
}

/// Filled as a rule, hollow for a custom kernel, a diamond for the portable form.
fn draw_mark(svg: &mut Svg, at: (f64, f64), variant: &str, family: Family, title: &str) {
    let family = family.index();
    match variant {
        "custom" => svg.circle(at, 4.5, &format!("hollow s{family}"), title),
        "portable" => svg.diamond(at, 5.5, &format!("dot f{family}"), title),
        _ => svg.circle(at, 5.0, &format!("dot f{family}"), title),
    }
}

fn tooltip(dot: &Dot) -> String {
    let KernelRow { op, shape, kernel, variant, cold_us, spread_percent, gb_per_s, gflop_per_s, share, bound, .. } =
        dot.row;
    format!(
        "{op} {shape}\n{kernel}, {variant}\n{} ± {} %\n{}, {}\n{} FLOP/byte, {} % of the {bound} ceiling",
        time(cold_us / 1e3),
        spread(*spread_percent),
        flop_rate(*gflop_per_s),
        byte_rate(*gb_per_s),
        number(dot.intensity),
        percent(*share),
    )
}

/// Gives back where it ends.
fn draw_legend(svg: &mut Svg, roof: &Roof, top: f64, size: Size) -> f64 {
    let mut entries: Vec<(String, Option<(&str, Family)>)> = Vec::new();
    for family in roof.families() {
        let count = roof.dots.iter().filter(|dot| dot.family == family).count();
        entries.push((format!("{} ({count})", family.name()), Some(("auto", family))));
    }
    for (variant, text) in [("portable", "portable form"), ("custom", "custom kernel")] {
        if roof.dots.iter().any(|dot| dot.row.variant == variant) {
            entries.push((text.into(), Some((variant, Family::Other))));
        }
    }
    match roof.left_out {
        0 => {}
        1 => entries.push(("1 row without arithmetic is in the table only".into(), None)),
        n => entries.push((format!("{n} rows without arithmetic are in the table only"), None)),
    }
    let (mut x, mut y) = (16.0, top + 8.0);
    for (text, mark) in entries {
        let wanted = text_width(&text) + if mark.is_some() { 34.0 } else { 8.0 };
        if x + wanted > size.width() && x > 16.0 {
            (x, y) = (16.0, y + 20.0);
        }
        if let Some((variant, family)) = mark {
            draw_mark(svg, (x, y), variant, family, "");
        }
        let class = if mark.is_some() { "small" } else { "small muted" };
        svg.text((x + if mark.is_some() { 10.0 } else { -5.0 }, y + 4.0), Anchor::Start, class, &text);
        x += wanted;
    }
    y + 18.0
}
