//! A line a run, in a file that grows: how a machine's figures move from version to version.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use instructblip::Error;
use instructblip::lab::results::{KernelRow, Results};

use super::report::csv_cell;
use crate::files::{check_target, unwritable};

/// Columns, whose meaning never changes; new ones come last.
const HEAD: [&str; 18] = [
    "date",
    "version",
    "commit",
    "adapter",
    "driver",
    "command",
    "copy_gb_s",
    "read_gb_s",
    "f32_gflop_s",
    "f16_gflop_s",
    "matrix_gflop_s",
    "memory_bound_share",
    "arithmetic_bound_share",
    "model",
    "weights",
    "vision_ms",
    "prefill_tokens_per_s",
    "decode_tokens_per_s",
];

/// Refuses, before anything is measured, a file that lines could not be added to after it.
///
/// # Errors
/// [`Error::Io`], or [`Error::Request`] for a file with other columns.
pub fn check(path: &Path) -> Result<()> {
    check_target(path)?;
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::Io { path: path.into(), source }.into()),
    };
    match text.lines().next() {
        Some(first) if first != HEAD.join(",") => {
            let problem = format!("{}: has other columns than --append writes; name another file", path.display());
            Err(Error::Request { problem }.into())
        }
        _ => Ok(()),
    }
}

/// Adds the line of a run, and the header where there is none.
///
/// # Errors
/// [`Error::Io`].
pub fn append(path: &Path, results: &Results) -> Result<()> {
    let mut text = String::new();
    if path.metadata().map_or(true, |m| m.len() == 0) {
        text = HEAD.join(",") + "\n";
    }
    text += &line(results);
    // In one write, so that runs side by side leave whole lines.
    let written =
        OpenOptions::new().create(true).append(true).open(path).and_then(|mut f| f.write_all(text.as_bytes()));
    written.map_err(|e| unwritable(path, e))
}

fn line(results: &Results) -> String {
    let number = |value: f64| if value > 0.0 { format!("{value:.4}") } else { String::new() };
    let ceiling = |value: Option<f64>| value.map_or(String::new(), number);
    let c = &results.ceilings;
    let model = results.model.as_ref();
    let vision = model.and_then(|m| m.stages.iter().find(|stage| stage.name == "vision"));
    let prefill = model.and_then(|m| m.prefill.iter().max_by_key(|row| row.tokens));
    let decode = model.and_then(|m| m.decode.iter().filter(|row| row.rows == 1).max_by_key(|row| row.keys));
    let cells = [
        results.date.clone(),
        results.version.clone(),
        results.commit.clone().unwrap_or_default(),
        results.adapter.name.clone(),
        results.adapter.driver.clone(),
        results.command.clone(),
        number(c.copy_gb_s),
        number(c.read_gb_s),
        number(c.f32_gflop_s),
        ceiling(c.f16_gflop_s),
        ceiling(c.matrix_gflop_s),
        ceiling(share(&results.kernels, "memory")),
        ceiling(share(&results.kernels, "arithmetic")),
        model.map_or(String::new(), |m| m.name.clone()),
        model.map_or(String::new(), |m| m.weights.clone()),
        ceiling(vision.map(|stage| stage.ms)),
        ceiling(prefill.map(|row| row.tokens_per_s)),
        ceiling(decode.map(|row| row.tokens_per_s)),
    ];
    cells.iter().map(|cell| csv_cell(cell)).collect::<Vec<_>>().join(",") + "\n"
}

/// The geometric mean of the shares of their ceilings that the kernels have which run by default and are bound by this.
fn share(rows: &[KernelRow], bound: &str) -> Option<f64> {
    let of = rows.iter().filter(|row| row.bound == bound && row.variant == "auto" && row.share > 0.0);
    let logs: Vec<f64> = of.map(|row| row.share.ln()).collect();
    (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_geometric_means_of_what_runs_by_default() {
        let row = |share: f64, bound: &str, variant: &str| -> KernelRow {
            serde_json::from_value(serde_json::json!({
                "op": "linear", "shape": "1x64x64", "kernel": "linear_vec", "variant": variant, "error": 0.0,
                "cold_us": 1.0, "hot_us": 1.0, "wall_us": 1.0, "spread_percent": 0.0, "bytes": 1, "flops": 1,
                "gb_per_s": 1.0, "gflop_per_s": 1.0, "share": share, "bound": bound,
            }))
            .expect("a row")
        };
        let rows = [
            row(0.9, "memory", "auto"),
            row(0.4, "memory", "auto"),
            row(0.1, "memory", "custom"),
            row(0.5, "x", "auto"),
        ];
        assert!(share(&rows, "memory").is_some_and(|share| (share - 0.6).abs() < 1e-9));
        assert_eq!(share(&rows, "arithmetic"), None);
    }

    #[test]
    fn files_with_other_columns_are_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("runs.csv");
        assert!(check(&path).is_ok());
        std::fs::write(&path, "date,price\n").expect("written");
        assert!(check(&path).expect_err("other columns").to_string().contains("runs.csv"));
    }
}
