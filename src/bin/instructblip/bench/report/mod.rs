//! Results as pages, pictures, tables and comparisons. All of it is text built here: no font, script or picture is
//! fetched when a page is opened.

mod bars;
mod compare;
pub mod compare_page;
mod decode;
mod family;
mod numbers;
mod page;
mod place;
mod roofline;
mod sketch;
mod svg;
mod table;
#[cfg(test)]
mod tests;

use std::path::Path;

use anyhow::Result;
use instructblip::lab::Results;
use instructblip::lab::results::{FILE, UNFINISHED};

use crate::files;

pub use compare::compare;
pub use page::html;
pub use sketch::sketch;
pub use table::{csv, csv_cell, markdown, table};

use svg::Size;

/// Pictures as files of their own, with their names.
pub fn svgs(results: &Results) -> Vec<(String, String)> {
    let mut pictures = Vec::new();
    if let Some(roofline) = roofline::draw(results, Size::Wide) {
        pictures.push(("roofline.svg".to_string(), roofline.file()));
    }
    let Some(model) = &results.model else { return pictures };
    for stage in bars::stages(model) {
        pictures.push((format!("labels-{}.svg", file_name(stage)), bars::draw(model, stage, Size::Wide).file()));
    }
    if let Some(chart) = decode::draw(model, Size::Wide) {
        pictures.push(("decode.svg".to_string(), chart.file()));
    }
    pictures
}

/// Writes everything into `folder`, which is made where it is not there.
///
/// # Errors
/// `Error::Io`, with the path.
pub fn write_all(folder: &Path, results: &Results) -> Result<()> {
    write_results(folder, FILE, results)?;
    // What was there of a run before may be of other results.
    let stale = |name: &str| name == UNFINISHED || name.ends_with(".svg");
    for entry in std::fs::read_dir(folder).map_err(|e| files::unwritable(folder, e))?.flatten() {
        if stale(&entry.file_name().to_string_lossy()) {
            std::fs::remove_file(entry.path()).map_err(|e| files::unwritable(&entry.path(), e))?;
        }
    }
    let texts = [("results.csv", csv(results)), ("results.md", markdown(results)), ("report.html", html(results))];
    for (name, text) in texts {
        files::write_bytes(&folder.join(name), text.as_bytes())?;
    }
    for (name, text) in svgs(results) {
        files::write_bytes(&folder.join(name), text.as_bytes())?;
    }
    Ok(())
}

/// Writes the results of a run that goes on into `folder`; what a run before left there stays until all have come.
///
/// # Errors
/// `Error::Io`, with the path.
pub fn write_unfinished(folder: &Path, results: &Results) -> Result<()> {
    write_results(folder, UNFINISHED, &Results { unfinished: true, ..results.clone() })
}

fn write_results(folder: &Path, name: &str, results: &Results) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| files::unwritable(folder, e))?;
    files::write_bytes(&folder.join(name), format!("{}\n", serde_json::to_string_pretty(results)?).as_bytes())
}

/// Results may come from elsewhere: what names a stage does not name a folder.
fn file_name(stage: &str) -> String {
    stage.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' }).collect()
}
