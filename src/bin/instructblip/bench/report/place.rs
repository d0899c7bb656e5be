//! Places for labels among what is drawn already.

use super::svg::Anchor;

/// Mean width of a character at 11 pixels. What it is depends on the reader's font; this is generous.
const CHARACTER: f64 = 6.1;
/// Pixels of a line above the base line, and below it.
const ASCENT: f64 = 9.0;
const DESCENT: f64 = 3.0;

/// A place that is taken.
#[derive(Clone, Copy, Debug)]
pub struct Rect {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

impl Rect {
    /// Around a dot.
    pub fn around((x, y): (f64, f64), radius: f64) -> Rect {
        Rect { left: x - radius, top: y - radius, right: x + radius, bottom: y + radius }
    }

    /// The rectangle of small text held at a point.
    pub fn of_text((x, y): (f64, f64), anchor: Anchor, text: &str) -> Rect {
        let width = text_width(text);
        let left = match anchor {
            Anchor::Start => x,
            Anchor::Middle => x - width / 2.0,
            Anchor::End => x - width,
        };
        Rect { left, top: y - ASCENT, right: left + width, bottom: y + DESCENT }
    }

    pub fn overlaps(&self, other: &Rect) -> bool {
        self.left < other.right && other.left < self.right && self.top < other.bottom && other.top < self.bottom
    }

    fn is_inside(&self, outer: &Rect) -> bool {
        self.left >= outer.left && self.right <= outer.right && self.top >= outer.top && self.bottom <= outer.bottom
    }
}

/// The width of small text in pixels.
pub fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * CHARACTER
}

/// Near places first: where they are all taken, a line leads from the dot to its label.
const OFFSETS: [(f64, f64, Anchor); 22] = [
    (8.0, 4.0, Anchor::Start),
    (-8.0, 4.0, Anchor::End),
    (0.0, -9.0, Anchor::Middle),
    (0.0, 17.0, Anchor::Middle),
    (6.0, -7.0, Anchor::Start),
    (6.0, 14.0, Anchor::Start),
    (-6.0, -7.0, Anchor::End),
    (-6.0, 14.0, Anchor::End),
    (22.0, -18.0, Anchor::Start),
    (22.0, 26.0, Anchor::Start),
    (-22.0, -18.0, Anchor::End),
    (-22.0, 26.0, Anchor::End),
    (0.0, 38.0, Anchor::Middle),
    (0.0, -30.0, Anchor::Middle),
    (36.0, 46.0, Anchor::Start),
    (-36.0, 46.0, Anchor::End),
    (36.0, -38.0, Anchor::Start),
    (-36.0, -38.0, Anchor::End),
    (48.0, 68.0, Anchor::Start),
    (-48.0, 68.0, Anchor::End),
    (30.0, 90.0, Anchor::Start),
    (-30.0, 90.0, Anchor::End),
];

/// Finds room for a label of a dot at `dot` inside `bounds`, and takes it.
pub fn place(dot: (f64, f64), text: &str, bounds: &Rect, taken: &mut Vec<Rect>) -> Option<((f64, f64), Anchor)> {
    for (dx, dy, anchor) in OFFSETS {
        let at = (dot.0 + dx, dot.1 + dy);
        let rect = Rect::of_text(at, anchor, text);
        if rect.is_inside(bounds) && !taken.iter().any(|other| other.overlaps(&rect)) {
            taken.push(rect);
            return Some((at, anchor));
        }
    }
    None
}
