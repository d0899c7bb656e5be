//! Pictures as SVG: what is drawn into them, and the style sheet they share with the pages.

use std::fmt::Write;

use super::numbers::escape;

/// Names and values of colours: on light ground, on dark ground. `f0` to `f7` are the families'.
const COLORS: [(&str, &str, &str); 18] = [
    ("ground", "#ffffff", "#16181d"),
    ("page", "#f6f6f4", "#0f1115"),
    ("text", "#1c1f24", "#e6e8ec"),
    ("muted", "#646b76", "#979eaa"),
    ("grid", "#e7e8ea", "#272b33"),
    ("axis", "#b4b9c1", "#4a515d"),
    ("roof", "#3a414c", "#c3c9d3"),
    ("f0", "#2466d1", "#6ea6ff"),
    ("f1", "#0e8b95", "#4cc9d3"),
    ("f2", "#7a49cc", "#b794f6"),
    ("f3", "#d2690a", "#f5a14d"),
    ("f4", "#c42f5c", "#f57d9f"),
    ("f5", "#2c8a4b", "#62cd84"),
    ("f6", "#957400", "#dcc24c"),
    ("f7", "#6b7280", "#a5adba"),
    ("faster", "#2c8a4b", "#62cd84"),
    ("slower", "#c23a31", "#f2857b"),
    ("noise", "#a9afb8", "#5b6370"),
];

/// The styles of pictures, wherever they are.
const STYLE: &str = "\
text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;font-size:12px;\
fill:var(--text);font-variant-numeric:tabular-nums}\
.ground{fill:var(--ground)}.muted{fill:var(--muted)}.small{font-size:11px}.strong{font-weight:600}\
.halo{paint-order:stroke;stroke:var(--ground);stroke-width:3px;stroke-linejoin:round}\
.grid{stroke:var(--grid);stroke-width:1;fill:none}.axis{stroke:var(--axis);stroke-width:1;fill:none}\
.roof{stroke:var(--roof);stroke-width:1.75;fill:none}.lead{stroke:var(--axis);stroke-width:1;fill:none}\
.d1{stroke-dasharray:7 4}.d2{stroke-dasharray:2 4}.track{fill:var(--grid)}\
.dot{stroke:var(--ground);stroke-width:1}.hollow{stroke-width:2.25}\
.line{fill:none;stroke-width:2;stroke-linejoin:round}.dot:hover,.hollow:hover{stroke:var(--text)}";

/// The colours as variables, light or dark as the reader's system is.
pub fn variables() -> String {
    let values = |dark: bool| {
        let value = |&(name, light, dark_value): &(&str, &str, &str)| {
            format!("--{name}:{};", if dark { dark_value } else { light })
        };
        COLORS.iter().map(value).collect::<String>()
    };
    format!(
        ":root{{color-scheme:light dark;{}}}@media (prefers-color-scheme:dark){{:root{{{}}}}}",
        values(false),
        values(true)
    )
}

/// Rules for pictures; they need [`variables`].
pub fn rules() -> String {
    let mut rules = STYLE.to_string();
    for family in 0..8 {
        // Writing to a string cannot fail.
        let _ = write!(rules, ".f{family}{{fill:var(--f{family})}}");
        let _ = write!(rules, ".s{family}{{stroke:var(--f{family})}}.hollow.s{family}{{fill:var(--ground)}}");
    }
    rules
}

/// The styles with their values written out: many programs that show SVG know no variables.
fn standalone_rules() -> String {
    let resolved = |dark: bool| {
        COLORS.iter().fold(rules(), |rules, (name, light, dark_value)| {
            rules.replace(&format!("var(--{name})"), if dark { dark_value } else { light })
        })
    };
    format!("{}@media (prefers-color-scheme:dark){{{}}}", resolved(false), resolved(true))
}

/// The room that a picture is laid out for: text keeps its size, so a phone gets another picture, not a smaller one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Wide,
    Narrow,
}

impl Size {
    /// The width in pixels.
    pub fn width(self) -> f64 {
        match self {
            Size::Wide => 960.0,
            Size::Narrow => 380.0,
        }
    }
}

/// Around pictures that are files.
const MARGIN: f64 = 16.0;

/// The point of a text that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    fn name(self) -> &'static str {
        match self {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        }
    }
}

/// A picture being drawn; x to the right, y down, in pixels.
pub struct Svg {
    width: f64,
    height: f64,
    title: String,
    body: String,
}

impl Svg {
    /// An empty one; `title` is for those who cannot see it.
    pub fn new(width: f64, height: f64, title: &str) -> Svg {
        Svg { width, height, title: title.into(), body: String::new() }
    }

    /// Sets the height, which is only known when everything is drawn.
    pub fn set_height(&mut self, height: f64) {
        self.height = height;
    }

    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let (anchor, text) = (anchor.name(), escape(text));
        self.push(&format!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" class="{class}">{text}</text>"#));
    }

    /// Text along a line that rises by `degrees`.
    pub fn turned_text(&mut self, (x, y): (f64, f64), degrees: f64, class: &str, text: &str) {
        let (angle, text) = (-degrees, escape(text));
        self.push(&format!(
            r#"<text transform="translate({x:.1} {y:.1}) rotate({angle:.1})" text-anchor="middle" class="{class}">{text}</text>"#
        ));
    }

    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        self.push(&format!(r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" class="{class}"/>"#));
    }

    pub fn polyline(&mut self, points: &[(f64, f64)], class: &str) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.push(&format!(r#"<polyline points="{}" class="{class}"/>"#, points.join(" ")));
    }

    pub fn bar(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), class: &str, title: &str) {
        let (width, title) = (width.max(0.0), title_element(title));
        self.push(&format!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="2" class="{class}">{title}</rect>"#
        ));
    }

    pub fn circle(&mut self, (x, y): (f64, f64), radius: f64, class: &str, title: &str) {
        let title = title_element(title);
        self.push(&format!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="{radius:.1}" class="{class}">{title}</circle>"#));
    }

    pub fn diamond(&mut self, (x, y): (f64, f64), radius: f64, class: &str, title: &str) {
        let (title, r) = (title_element(title), radius);
        self.push(&format!(
            r#"<path d="M{x:.1} {y:.1}m0 {:.1}l{r:.1} {r:.1}l{:.1} {r:.1}l{:.1} {:.1}z" class="{class}">{title}</path>"#,
            -r, -r, -r, -r
        ));
    }

    fn push(&mut self, element: &str) {
        self.body.push_str(element);
        self.body.push('\n');
    }

    /// The picture as a part of a page that has [`variables`] and [`rules`].
    pub fn inline(&self) -> String {
        format!("<svg {} role=\"img\" aria-label=\"{}\">\n{}</svg>\n", self.frame(), escape(&self.title), self.body)
    }

    /// The picture as a file of its own, with a margin that a page would give it.
    pub fn file(&self) -> String {
        let Svg { title, body, .. } = self;
        let (width, height) = (self.width + 2.0 * MARGIN, self.height + 2.0 * MARGIN);
        let (title, rules) = (escape(title), standalone_rules());
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"-{MARGIN} -{MARGIN} {width:.0} {height:.0}\" role=\"img\">\n<title>{title}</title>\n\
             <style>{rules}</style>\n<rect x=\"-{MARGIN}\" y=\"-{MARGIN}\" width=\"{width:.0}\" height=\"{height:.0}\" \
             class=\"ground\"/>\n{body}</svg>\n"
        )
    }

    fn frame(&self) -> String {
        let Svg { width, height, .. } = self;
        format!(r#"width="{width:.0}" height="{height:.0}" viewBox="0 0 {width:.0} {height:.0}""#)
    }
}

/// The text that a pointer shows.
fn title_element(title: &str) -> String {
    if title.is_empty() { String::new() } else { format!("<title>{}</title>", escape(title)) }
}
