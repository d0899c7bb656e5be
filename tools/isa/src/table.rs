//! Tables: a line for each variant, tab-separated, under a heading that names the driver.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::code::{self, Loop};
use crate::gpus::Gpu;
use crate::worker::Made;

/// The numbers of a row. Those from `loop` on are of its hottest loop; one that a compiler does not tell is left out.
pub const COLUMNS: [&str; 20] = [
    "subgroup",
    "registers",
    "occupancy",
    "spills",
    "scratch_bytes",
    "workgroup_bytes",
    "instructions",
    "loop",
    "ld32",
    "ld64",
    "ld128",
    "in_flight",
    "rounds",
    "matrix",
    "macs_per_instruction",
    "math",
    "convert",
    "shared",
    "local",
    "barriers",
];

/// A variant on one GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub variant: String,
    pub used_by: String,
    pub hash: u64,
    numbers: [Option<u32>; COLUMNS.len()],
}

/// The rows of a GPU.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Lines about the driver.
    pub heading: Vec<String>,
    pub rows: Vec<Row>,
}

impl Row {
    pub fn new(made: &Made, gpu: &Gpu) -> Row {
        let names = gpu.dialect.names();
        let statistic = |name: &str| made.statistics.iter().find(|(of, _)| of == name).map(|(_, value)| *value as u32);
        let blocks = gpu.dialect.blocks(&made.code);
        let hot = code::hottest(&blocks);
        let of = |value: fn(&Loop) -> u32| hot.as_ref().map(value);
        let padding = names.padding.and_then(statistic).unwrap_or(0);
        let numbers = [
            Some(made.subgroup),
            statistic(names.registers),
            names.occupancy.map_or(Some(made.subgroup), statistic),
            names.spills.iter().map(|name| statistic(name)).sum(),
            names.scratch_bytes.and_then(statistic),
            Some(made.workgroup_bytes),
            statistic(names.instructions).map(|all| all - padding),
            of(|hot| hot.instructions),
            of(|hot| hot.loads[0]),
            of(|hot| hot.loads[1]),
            of(|hot| hot.loads[2]),
            of(|hot| hot.in_flight),
            of(|hot| hot.rounds),
            of(|hot| hot.matrix),
            of(|hot| hot.macs / hot.instructions.max(1)),
            of(|hot| hot.math),
            of(|hot| hot.convert),
            of(|hot| hot.shared),
            of(|hot| hot.local),
            of(|hot| hot.barriers),
        ];
        Row { variant: made.variant.clone(), used_by: made.used_by.clone(), hash: made.hash, numbers }
    }

    /// The number of a column; zero where there is none.
    pub fn get(&self, column: &str) -> u32 {
        let at = COLUMNS.iter().position(|name| *name == column).expect("a column");
        self.numbers[at].unwrap_or(0)
    }

    /// A row of these numbers.
    #[cfg(test)]
    pub fn with(variant: &str, given: &[(&str, u32)]) -> Row {
        let numbers = COLUMNS.map(|name| given.iter().find(|(of, _)| *of == name).map(|(_, number)| *number));
        Row { variant: variant.into(), used_by: String::new(), hash: 0, numbers }
    }

    fn line(&self) -> String {
        let numbers = self.numbers.map(|number| number.map_or(String::new(), |number| number.to_string()));
        format!("{}\t{}\t{:016x}\t{}", self.variant, numbers.join("\t"), self.hash, self.used_by)
    }

    fn parse(line: &str) -> Result<Row> {
        let words: Vec<&str> = line.split('\t').collect();
        let [variant, numbers @ .., hash, used_by] = &words[..] else { anyhow::bail!("a short line: {line}") };
        let numbers: Vec<Option<u32>> = numbers.iter().map(|number| number.parse().ok()).collect();
        let numbers = numbers.try_into().map_err(|_| anyhow::anyhow!("not as many columns as there are: {line}"))?;
        let hash = u64::from_str_radix(hash, 16)?;
        Ok(Row { variant: (*variant).into(), used_by: (*used_by).into(), hash, numbers })
    }
}

/// The file of a GPU's table.
pub fn path(gpu: &Gpu) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tables").join(format!("{}.tsv", gpu.name))
}

impl Table {
    /// The committed table of a GPU; an empty one where there is none.
    pub fn read(gpu: &Gpu) -> Result<Table> {
        let Ok(text) = std::fs::read_to_string(path(gpu)) else { return Ok(Table::default()) };
        let heading = text.lines().map_while(|line| line.strip_prefix("# ")).map(Into::into).collect();
        let lines = text.lines().filter(|line| !line.starts_with('#')).skip(1);
        let rows = lines.map(Row::parse).collect::<Result<_>>().with_context(|| gpu.name)?;
        Ok(Table { heading, rows })
    }

    pub fn write(&self, gpu: &Gpu) -> Result<()> {
        Ok(std::fs::write(path(gpu), self.text())?)
    }

    pub fn text(&self) -> String {
        let heading: String = self.heading.iter().map(|line| format!("# {line}\n")).collect();
        let rows: String = self.rows.iter().map(|row| row.line() + "\n").collect();
        let columns = format!("variant\t{}\thash\tused_by\n", COLUMNS.join("\t"));
        heading + &columns + &rows
    }

    pub fn row(&self, variant: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.variant == variant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let row = Row { hash: 0xfe, used_by: "vision".into(), ..Row::with("norm WG=64", &[("ld32", 2), ("loop", 9)]) };
        assert_eq!(Row::parse(&row.line()).expect("a row"), row);
        assert!(Row::parse("norm\t1\t2\tfe\tvision").is_err());
    }
}
