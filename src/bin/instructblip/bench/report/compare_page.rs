//! A comparison as one page.

use super::compare::{Comparison, Pair, Run, Verdict};
use super::numbers::{NONE, escape, spread, time};
use super::page::{adapter, shell, tile};

/// The page.
pub fn html(comparison: &Comparison) -> String {
    let Comparison { before, after, warnings, pairs, only_before, only_after } = comparison;
    let mut body = String::from("<h1>Two runs compared</h1>\n<div class=\"runs\">");
    body += &(run("before", before) + &run("after", after) + "</div>\n");
    for warning in warnings {
        body += &format!("<p class=\"warning\" role=\"alert\"><b>Warning:</b> {}</p>\n", escape(warning));
    }
    let counted = [("faster", Verdict::Faster), ("slower", Verdict::Slower), ("within noise", Verdict::Noise)];
    let mut tiles: String =
        counted.iter().map(|(name, verdict)| tile(name, &comparison.count(*verdict).to_string())).collect();
    if let Some(mean) = comparison.mean_ratio() {
        tiles += &tile("geometric mean of after/before", &format!("{mean:.3}"));
    }
    body += &format!("<div class=\"tiles\">{tiles}</div>\n");

    let scale = scale(pairs);
    for (part, title) in [("kernel", "Kernels"), ("stage", "Stages"), ("prefill", "Prefill"), ("decode", "Decode")] {
        let rows: Vec<&Pair> = pairs.iter().filter(|pair| pair.part == part).collect();
        if !rows.is_empty() {
            body += &table(title, &rows, scale);
        }
    }
    for (title, names) in [("Only before", only_before), ("Only after", only_after)] {
        if !names.is_empty() {
            let items = names.iter().map(|name| format!("<li>{}</li>", escape(name))).collect::<String>();
            body += &format!("<h2>{title}</h2>\n<ul>{items}</ul>\n");
        }
    }
    shell("Two runs compared · instructblip bench", &body)
}

fn run(name: &str, run: &Run) -> String {
    let Run { version, commit, date, subject, .. } = run;
    let commit = commit.as_ref().map_or(String::new(), |commit| format!(", commit <code>{}</code>", escape(commit)));
    format!(
        "<div class=\"card\"><b>{name}</b><br>{}<br><span class=\"sub\">{}<br>{}, instructblip {}{commit}<br>{}</span></div>\n",
        escape(&run.adapter.name),
        adapter(&run.adapter),
        escape(date),
        escape(version),
        escape(subject),
    )
}

/// The binary logarithm of the ratio whose bar has full length: at least that of a quarter more, at most that of eight.
fn scale(pairs: &[Pair]) -> f64 {
    let most = pairs.iter().filter_map(Pair::ratio).map(|ratio| ratio.log2().abs()).fold(0.0, f64::max);
    most.clamp(1.25f64.log2(), 3.0)
}

fn table(title: &str, rows: &[&Pair], scale: f64) -> String {
    let edge = scale.exp2();
    let mut html = format!(
        "<h2>{title}</h2>\n<div class=\"sortable sticky\"><div class=\"scroll\"><table><thead><tr>\
         <th class=\"l\">name</th><th class=\"l\"><span class=\"ratio head\"><span>{:.2}× faster</span>\
         <span>slower {edge:.2}×</span></span></th><th>after/before</th><th>before</th><th>after</th>\
         <th>noise %</th><th class=\"l\">verdict</th></tr></thead>\n<tbody>\n",
        1.0 / edge,
    );
    for pair in rows {
        let note =
            pair.note.as_ref().map_or(String::new(), |note| format!("<br><span class=\"sub\">{}</span>", escape(note)));
        let verdict = pair.verdict().name();
        html += &format!(
            "<tr><td class=\"l\">{}{note}</td><td class=\"l\" data-value=\"{}\">{}</td><td>{}</td>{}{}<td>{}</td>\
             <td class=\"l {verdict}\">{verdict}</td></tr>\n",
            escape(&pair.name),
            pair.ratio().map_or(String::new(), |ratio| format!("{ratio:.6}")),
            bar(pair, scale),
            pair.ratio().map_or(NONE.into(), |ratio| format!("{ratio:.3}")),
            time_cell(pair.before_us),
            time_cell(pair.after_us),
            spread(pair.noise_percent),
        );
    }
    html + "</tbody></table></div></div>\n"
}

/// A time in the unit that suits it, sorted by its value in one unit.
fn time_cell(us: f64) -> String {
    let value = if us.is_finite() { us.to_string() } else { String::new() };
    format!("<td data-value=\"{value}\">{}</td>", time(us / 1e3))
}

/// A bar from the middle, where both are alike: to the left where it is faster now, to the right where it is slower.
fn bar(pair: &Pair, scale: f64) -> String {
    let Some(ratio) = pair.ratio() else { return "<span class=\"ratio\"></span>".into() };
    let half = (ratio.log2() / scale).clamp(-1.0, 1.0) * 50.0;
    // A bar of no length says that there is no difference; it should be seen to say so.
    let width = half.abs().max(0.75);
    let left = if half < 0.0 { 50.0 - width } else { 50.0 };
    let verdict = pair.verdict().name();
    format!("<span class=\"ratio\"><i class=\"{verdict}\" style=\"left:{left:.1}%;width:{width:.1}%\"></i></span>")
}
