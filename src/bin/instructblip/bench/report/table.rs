//! Results as tables: for terminals, for GitHub, for spreadsheets, for pages.

use super::bars;
use super::numbers::{self, NONE, error, escape, number, percent, spread};
use instructblip::lab::results::{DecodeRow, ModelResults, Results};

/// Columns with names, and rows of cells.
pub struct Table {
    /// Names; those of text, which stands on the left, come first.
    head: Vec<&'static str>,
    /// The number of columns that are text.
    texts: usize,
    /// The column that has a bar on pages: a share in per cent.
    bar: Option<usize>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&'static str], texts: usize) -> Table {
        Table { head: head.to_vec(), texts, bar: None, rows: Vec::new() }
    }

    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The last column may be text again.
    fn is_text(&self, column: usize) -> bool {
        column < self.texts || matches!(self.head[column], "bound" | "verdict" | "note")
    }

    /// Aligned, for a terminal.
    pub fn text(&self) -> String {
        let head: Vec<String> = self.head.iter().map(ToString::to_string).collect();
        let lines = || std::iter::once(&head).chain(&self.rows);
        let width = |column: usize| lines().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut text = String::new();
        for line in lines() {
            let cells = line.iter().enumerate().map(|(i, cell)| match self.is_text(i) {
                true => format!("{cell:<width$}", width = widths[i]),
                false => format!("{cell:>width$}", width = widths[i]),
            });
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    /// The table as GitHub reads it.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let head: Vec<String> = self.head.iter().map(ToString::to_string).collect();
        let rule = (0..self.head.len()).map(|i| if self.is_text(i) { "---".into() } else { "---:".into() });
        let mut text = line(&head) + &line(&rule.collect::<Vec<_>>());
        for row in &self.rows {
            text += &line(&row.iter().map(|cell| markdown_cell(cell)).collect::<Vec<_>>());
        }
        text
    }

    /// The table for a page; the column with bars comes right after the names, so that they are seen together.
    pub fn html(&self) -> String {
        let class = |i: usize| if self.is_text(i) { " class=\"l\"" } else { "" };
        let mut order: Vec<usize> = (0..self.head.len()).collect();
        if let Some(bar) = self.bar.filter(|_| self.texts > 0) {
            order[self.texts..=bar].rotate_right(1);
        }
        let head = order.iter().map(|&i| format!("<th scope=\"col\"{}>{}</th>", class(i), escape(self.head[i])));
        let head = head.collect::<String>();
        let mut html = format!("<div class=\"scroll\"><table><thead><tr>{head}</tr></thead>\n<tbody>\n");
        for row in &self.rows {
            let cells = order.iter().map(|&i| {
                let text = escape(&row[i]);
                match (self.bar == Some(i), row[i].parse::<f64>()) {
                    (true, Ok(share)) => {
                        let width = share.clamp(0.0, 100.0);
                        format!("<td><span class=\"bar\"><i style=\"width:{width:.0}%\"></i></span><span class=\"value\">{text}</span></td>")
                    }
                    _ => format!("<td{}>{text}</td>", class(i)),
                }
            });
            html += &format!("<tr>{}</tr>\n", cells.collect::<String>());
        }
        html + "</tbody></table></div>\n"
    }

    /// The table for spreadsheets.
    pub fn csv(&self) -> String {
        let line = |cells: &mut dyn Iterator<Item = &str>| cells.map(csv_cell).collect::<Vec<_>>().join(",") + "\n";
        let mut text = line(&mut self.head.iter().copied());
        for row in &self.rows {
            text += &line(&mut row.iter().map(String::as_str));
        }
        text
    }
}

/// Quoted where a comma, a quote or the end of a line would be taken for the file's own.
pub fn csv_cell(cell: &str) -> String {
    match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.into(),
    }
}

fn markdown_cell(cell: &str) -> String {
    let mut text = String::new();
    for c in cell.chars() {
        match c {
            '|' | '\\' | '`' | '*' | '[' => text.extend(['\\', c]),
            '<' => text.push_str("&lt;"),
            '&' => text.push_str("&amp;"),
            '\n' | '\r' => text.push(' '),
            c => text.push(c),
        }
    }
    text
}

/// The table of kernels, in the order of the run.
pub fn kernels(results: &Results) -> Table {
    let head = [
        "op", "shape", "kernel", "variant", "error", "cold µs", "hot µs", "wall µs", "spread %", "GB/s", "GFLOP/s",
        "share %", "bound",
    ];
    let mut table = Table::new(&head, 4);
    table.bar = Some(11);
    for row in &results.kernels {
        let texts = [&row.op, &row.shape, &row.kernel, &row.variant].map(String::clone);
        let times = [row.cold_us, row.hot_us, row.wall_us].map(number);
        let rates = [row.gb_per_s, row.gflop_per_s].map(number);
        let mut cells = texts.to_vec();
        cells.push(error(row.error));
        cells.extend(times);
        cells.push(spread(row.spread_percent));
        cells.extend(rates);
        cells.extend([percent(row.share), row.bound.clone()]);
        table.push(cells);
    }
    table
}

/// The table of what the driver's compiler made of kernels, each once: different shapes run the same programs.
pub fn programs(results: &Results) -> Table {
    let mut table = Table::new(&["kernel", "variant", "subgroup", "note"], 2);
    let mut seen = Vec::new();
    for row in &results.kernels {
        for program in &row.programs {
            if !seen.contains(&program) {
                seen.push(program);
                let told = program.statistics.iter().filter(|(name, _)| tells(name));
                let told: Vec<String> = told.map(|(name, value)| format!("{name} {value}")).collect();
                let texts = [program.kernel.clone(), row.variant.clone(), program.subgroup_size.to_string()];
                table.push([texts.to_vec(), vec![told.join(", ")]].concat());
            }
        }
    }
    table
}

/// Says whether a driver's number, by its name, is of those that a kernel is judged by. The file has all of them.
fn tells(name: &str) -> bool {
    let name = name.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    // Those of one kind of instruction, and of what was so before the last step.
    !has(&["pre", "cat", "with", "interpolation", "push", "non ssa", "half"])
        && has(&["regist", "gpr", "spill", "fill", "scratch", "slm", "local", "stack", "instruction"])
        || has(&["warps", "waves", "threads", "subgroups per"])
}

/// The table of prompts.
pub fn prefill(model: &ModelResults) -> Table {
    let mut table = Table::new(&["tokens", "ms", "tokens/s", "GFLOP/s"], 0);
    for row in &model.prefill {
        let numbers = [row.ms, row.tokens_per_s, row.gflop_per_s].map(number);
        table.push([vec![row.tokens.to_string()], numbers.to_vec()].concat());
    }
    table
}

/// The table of steps of decoding.
pub fn decode(model: &ModelResults) -> Table {
    let head = ["rows", "keys", "ms", "tokens/s", "encode µs", "launches", "MB", "bandwidth %"];
    let mut table = Table::new(&head, 0);
    table.bar = Some(7);
    for row in &model.decode {
        let mut cells = vec![row.rows.to_string(), row.keys.to_string()];
        cells.extend([row.ms, row.tokens_per_s, row.encode_us].map(number));
        cells.extend([row.dispatches.to_string(), number(row.bytes as f64 / 1e6), percent(row.bandwidth_share)]);
        table.push(cells);
    }
    table
}

fn stages(model: &ModelResults) -> Table {
    let mut table = Table::new(&["stage", "ms"], 1);
    for stage in &model.stages {
        table.push(vec![stage.name.clone(), number(stage.ms)]);
    }
    table
}

/// The table of labels, stage by stage.
pub fn labels(model: &ModelResults) -> Table {
    let mut table = Table::new(&["stage", "label", "kernel", "launches", "µs", "share %"], 3);
    table.bar = Some(5);
    for stage in bars::stages(model) {
        let total = bars::total(model, stage);
        for row in bars::of_stage(model, stage) {
            let texts = [&row.stage, &row.label, &row.kernel].map(String::clone);
            let share = if total > 0.0 { row.us / total } else { 0.0 };
            table.push([texts.to_vec(), vec![row.count.to_string(), number(row.us), percent(share)]].concat());
        }
    }
    table
}

fn ceilings(results: &Results) -> String {
    let all = numbers::ceilings(&results.ceilings);
    let all: Vec<_> = all.into_iter().map(|(name, value)| format!("{name} {value}")).collect();
    if all.is_empty() { format!("ceilings: {NONE}") } else { format!("ceilings: {}", all.join(", ")) }
}

/// Titles and tables that are not empty.
fn tables(results: &Results) -> Vec<(&'static str, Table)> {
    let mut tables = vec![("kernels", kernels(results)), ("machine code", programs(results))];
    if let Some(model) = &results.model {
        tables.extend([("stages", stages(model)), ("prefill", prefill(model))]);
        tables.extend([("decode", decode(model)), ("labels", labels(model))]);
    }
    tables.retain(|(_, table)| !table.is_empty());
    tables
}

/// Results for a terminal: adapter and ceilings, then the tables.
pub fn table(results: &Results) -> String {
    let adapter = &results.adapter;
    let mut text = format!("{} ({}, {})\n{}\n", adapter.name, adapter.backend, adapter.driver, ceilings(results));
    if let Some(model) = &results.model {
        text += &format!("{}\n", numbers::model(model));
    }
    let tables = tables(results);
    if tables.is_empty() {
        text += "\nnothing was measured\n";
    }
    for (title, table) in &tables {
        let title = if tables.len() == 1 { String::new() } else { format!("{title}\n") };
        text += &format!("\n{title}{}", table.text());
    }
    text
}

/// Results for GitHub.
pub fn markdown(results: &Results) -> String {
    let Results { adapter, version, commit, date, .. } = results;
    let commit = commit.as_ref().map_or(String::new(), |commit| format!(" at {commit}"));
    let mut text = format!(
        "**{}** ({}, {}), {}, instructblip {version}{commit}\n\n{}\n",
        markdown_cell(&adapter.name),
        adapter.backend,
        markdown_cell(&adapter.driver),
        date,
        ceilings(results),
    );
    if let Some(model) = &results.model {
        text += &format!("\n{}\n", markdown_cell(&numbers::model(model)));
    }
    for (title, table) in tables(results) {
        text += &format!("\n### {title}\n\n{}", table.markdown());
    }
    text
}

/// A number for programs: all digits that were measured, nothing where there is no number.
fn exact(value: f64) -> String {
    match value {
        _ if !value.is_finite() => String::new(),
        0.0 => "0".into(),
        v if v.abs() < 0.01 => format!("{v:.3e}"),
        v => format!("{v:.3}"),
    }
}

/// Results for spreadsheets: a line for each kernel, or for everything measured of a model.
pub fn csv(results: &Results) -> String {
    match &results.model {
        Some(model) if results.kernels.is_empty() => model_csv(model).csv(),
        // One file has one header: both together are not written by any benchmark.
        _ => kernels_csv(results).csv(),
    }
}

fn kernels_csv(results: &Results) -> Table {
    let head = [
        "op",
        "shape",
        "kernel",
        "variant",
        "error",
        "cold_us",
        "hot_us",
        "wall_us",
        "spread_percent",
        "gb_per_s",
        "gflop_per_s",
        "share_percent",
        "bound",
    ];
    let mut table = Table::new(&head, 4);
    for row in &results.kernels {
        let mut cells = [&row.op, &row.shape, &row.kernel, &row.variant].map(String::clone).to_vec();
        let times = [row.error, row.cold_us, row.hot_us, row.wall_us, row.spread_percent];
        cells.extend(times.map(exact));
        cells.extend([row.gb_per_s, row.gflop_per_s, row.share * 100.0].map(exact));
        cells.push(row.bound.clone());
        table.push(cells);
    }
    table
}

/// Stages, prompts, steps and labels have different columns; what one of them lacks is empty.
fn model_csv(model: &ModelResults) -> Table {
    let head = [
        "part",
        "name",
        "kernel",
        "rows",
        "length",
        "launches",
        "ms",
        "tokens_per_s",
        "gflop_per_s",
        "encode_us",
        "bytes",
        "bandwidth_percent",
    ];
    let mut table = Table::new(&head, 3);
    let mut push = |cells: &[(usize, String)]| {
        let mut row = vec![String::new(); head.len()];
        for (column, cell) in cells {
            row[*column].clone_from(cell);
        }
        table.push(row);
    };
    for stage in &model.stages {
        push(&[(0, "stage".into()), (1, stage.name.clone()), (6, exact(stage.ms))]);
    }
    for row in &model.prefill {
        let rates = [(7, exact(row.tokens_per_s)), (8, exact(row.gflop_per_s))];
        push(&[vec![(0, "prefill".into()), (4, row.tokens.to_string()), (6, exact(row.ms))], rates.to_vec()].concat());
    }
    for row in &model.decode {
        let DecodeRow { rows, keys, ms, tokens_per_s, encode_us, dispatches, bytes, bandwidth_share } = row;
        push(&[
            (0, "decode".into()),
            (3, rows.to_string()),
            (4, keys.to_string()),
            (5, dispatches.to_string()),
            (6, exact(*ms)),
            (7, exact(*tokens_per_s)),
            (9, exact(*encode_us)),
            (10, bytes.to_string()),
            (11, exact(bandwidth_share * 100.0)),
        ]);
    }
    for row in &model.labels {
        let name = [(0, row.stage.clone() + " label"), (1, row.label.clone()), (2, row.kernel.clone())];
        push(&[name.to_vec(), vec![(5, row.count.to_string()), (6, exact(row.us / 1e3))]].concat());
    }
    table
}
