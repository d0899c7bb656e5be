//! Numbers and names as people read them.

use instructblip::error::Bytes;
use serde_json::Value;

use instructblip::lab::results::{Ceilings, ModelResults, Results};

/// The sign for a value that was not measured.
pub const NONE: &str = "–";

/// Three digits that matter.
pub fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => NONE.into(),
        0.0 => "0".into(),
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        v if v >= 0.9995 => format!("{value:.2}"),
        v if v >= 0.01 => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    }
}

/// Spreads: a tenth of a per cent is already more than they tell.
pub fn spread(percent: f64) -> String {
    if percent.is_finite() { format!("{percent:.1}") } else { NONE.into() }
}

/// Errors: magnitudes are what matters.
pub fn error(value: f64) -> String {
    match value {
        _ if !value.is_finite() => NONE.into(),
        0.0 => "0".into(),
        _ => format!("{value:.1e}"),
    }
}

/// A part of a whole, in per cent without the sign.
pub fn percent(part: f64) -> String {
    if part.is_finite() { format!("{:.0}", part * 100.0) } else { NONE.into() }
}

/// A time given in milliseconds, in the unit that suits it.
pub fn time(ms: f64) -> String {
    match ms.abs() {
        v if v >= 1000.0 => format!("{} s", number(ms / 1000.0)),
        v if v >= 1.0 || v == 0.0 || !v.is_finite() => format!("{} ms", number(ms)),
        _ => format!("{} µs", number(ms * 1000.0)),
    }
}

/// GFLOP/s, or TFLOP/s from a thousand on.
pub fn flop_rate(gflop_per_s: f64) -> String {
    rate(gflop_per_s, "FLOP/s")
}

/// GB/s, or TB/s from a thousand on.
pub fn byte_rate(gb_per_s: f64) -> String {
    rate(gb_per_s, "B/s")
}

fn rate(giga: f64, unit: &str) -> String {
    if giga >= 1000.0 { format!("{} T{unit}", number(giga / 1000.0)) } else { format!("{} G{unit}", number(giga)) }
}

/// A power of ten on an axis.
pub fn decade(exponent: i32) -> String {
    match exponent {
        -3..0 => format!("{}", 10f64.powi(exponent)),
        0..3 => format!("{}", 10u32.pow(exponent as u32)),
        3..6 => format!("{}k", 10u32.pow(exponent as u32 - 3)),
        6..9 => format!("{}M", 10u32.pow(exponent as u32 - 6)),
        _ => format!("1e{exponent}"),
    }
}

/// Text as it may stand in XML and HTML and their attributes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // XML has no way to write the others, not even escaped.
            c if c < ' ' && !matches!(c, '\t' | '\n' | '\r') || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                escaped.push('\u{fffd}');
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// The first `most` characters, with an ellipsis in the place of the rest.
pub fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.into();
    }
    let kept: String = text.chars().take(most.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// Ceilings with their names, those that were measured.
pub fn ceilings(ceilings: &Ceilings) -> Vec<(&'static str, String)> {
    let Ceilings { copy_gb_s, read_gb_s, f32_gflop_s, f16_gflop_s, matrix_gflop_s, gap_us } = *ceilings;
    let measured = |value: &f64| value.is_finite() && *value > 0.0;
    let bytes = [("copy", copy_gb_s), ("read", read_gb_s)].map(|(name, v)| (name, Some(v), byte_rate as fn(f64) -> _));
    let flops = [("f32", Some(f32_gflop_s)), ("f16", f16_gflop_s), ("matrix", matrix_gflop_s)];
    let flops = flops.map(|(name, v)| (name, v, flop_rate as fn(f64) -> _));
    let gap = ("gap", gap_us, (|us| format!("{us:.2} µs a dispatch")) as fn(f64) -> _);
    let all = bytes.into_iter().chain(flops).chain([gap]);
    all.filter_map(|(name, value, show)| value.filter(measured).map(|value| (name, show(value)))).collect()
}

/// Processor, memory and system in one line.
pub fn machine(machine: &Value) -> String {
    let word = |key: &str| machine[key].as_str().filter(|text| !text.is_empty()).map(String::from);
    let threads = machine["threads"].as_u64().map(|n| if n == 1 { "1 thread".into() } else { format!("{n} threads") });
    let memory = machine["memory_bytes"].as_u64().map(|bytes| Bytes(bytes).to_string());
    let parts = [word("cpu"), threads, memory, word("os"), word("arch")];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Name, layers and weights of a model in one line.
pub fn model(model: &ModelResults) -> String {
    let [vision, qformer, language] = model.layers;
    let ModelResults { name, weights, peak_bytes, .. } = model;
    format!("{name}, {vision}+{qformer}+{language} layers, weights {weights}, peak {}", Bytes(*peak_bytes))
}

/// The subject of the results, in a few words.
pub fn subject(results: &Results) -> String {
    match &results.model {
        Some(model) => model.name.clone(),
        None => match results.kernels.len() {
            1 => "1 kernel".into(),
            n => format!("{n} kernels"),
        },
    }
}
