//! What a default variant must not do, with the floors and exceptions of limits.txt.

use anyhow::Result;

use crate::table::{Row, Table};

/// Floors and exceptions.
#[derive(Default)]
pub struct Limits {
    floors: Vec<Floor>,
    exceptions: Vec<Exception>,
}

/// Least multiply-adds of matrices for each instruction of a loop.
struct Floor {
    gpus: String,
    macs: u32,
    variants: String,
}

/// Faults that are known.
#[derive(Debug)]
pub struct Exception {
    gpus: String,
    rules: String,
    variants: String,
}

/// A rule that a variant breaks, and how.
pub struct Fault {
    pub rule: &'static str,
    pub variant: String,
    pub how: String,
}

impl Limits {
    /// `floor GPUS MACS VARIANTS` and `allow GPUS RULES VARIANTS`, a line each; see limits.txt.
    pub fn parse(text: &str) -> Result<Limits> {
        let mut limits = Limits::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let words: Vec<String> = line.splitn(4, ' ').map(Into::into).collect();
            let [what, gpus, number, variants] = <[String; 4]>::try_from(words).map_err(|_| refused(line))?;
            match what.as_str() {
                "floor" => {
                    let macs = number.parse().map_err(|_| refused(line))?;
                    limits.floors.push(Floor { gpus, macs, variants });
                }
                "allow" => limits.exceptions.push(Exception { gpus, rules: number, variants }),
                _ => return Err(refused(line)),
            }
        }
        Ok(limits)
    }

    fn floor(&self, gpu: &str, variant: &str) -> u32 {
        let floors = self.floors.iter().filter(|floor| has(&floor.gpus, gpu) && are(&floor.variants, variant));
        floors.map(|floor| floor.macs).max().unwrap_or(0)
    }

    /// The faults of a GPU's table that no exception names, and the exceptions that name none. Occupancy and widths are
    /// held against those of `committed`.
    pub fn judge(&self, gpu: &str, now: &Table, committed: &Table) -> (Vec<Fault>, Vec<&Exception>) {
        let faults = now.rows.iter().flat_map(|row| {
            let found = faults(row, committed.row(&row.variant), self.floor(gpu, &row.variant));
            found.into_iter().map(|(rule, how)| Fault { rule, variant: row.variant.clone(), how })
        });
        let known: Vec<&Exception> = self.exceptions.iter().filter(|exception| has(&exception.gpus, gpu)).collect();
        let mut idle = known.clone();
        let left = faults.filter(|fault| {
            let names = |of: &Exception| has(&of.rules, fault.rule) && are(&of.variants, &fault.variant);
            idle.retain(|exception| !names(exception));
            !known.iter().any(|exception| names(exception))
        });
        let left = left.collect();
        (left, idle)
    }
}

fn refused(line: &str) -> anyhow::Error {
    anyhow::anyhow!("limits.txt: {line:?} is neither a floor nor an exception")
}

fn has(list: &str, name: &str) -> bool {
    list.split(',').any(|of| of == name)
}

/// A kernel's name are all its variants; with a star at its end, all that begin so.
fn are(pattern: &str, variant: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => variant.starts_with(start),
        None => variant.split(' ').next() == Some(pattern),
    }
}

/// The rules that a row breaks.
fn faults(row: &Row, committed: Option<&Row>, floor: u32) -> Vec<(&'static str, String)> {
    let of = |column| row.get(column);
    let mut found = Vec::new();
    if of("spills") + of("scratch_bytes") > 0 {
        found.push(("spills", format!("{} spills and fills, {} bytes", of("spills"), of("scratch_bytes"))));
    }
    if of("local") > 0 {
        found.push(("local", format!("{} accesses of its own memory in the loop", of("local"))));
    }
    if of("ld32") >= 4 && of("ld32") > of("ld64") + of("ld128") {
        found.push(("narrow", format!("{} loads of 32 bits, {} wide ones", of("ld32"), of("ld64") + of("ld128"))));
    }
    if of("in_flight") == 1 {
        found.push(("serial", format!("{} loads in a row, each waited for", of("rounds"))));
    }
    if of("macs_per_instruction") < floor {
        found.push(("floor", format!("{} multiply-adds an instruction, under {floor}", of("macs_per_instruction"))));
    }
    if let Some(before) = committed {
        if of("occupancy") < before.get("occupancy") {
            found.push(("occupancy", format!("{}, it was {}", of("occupancy"), before.get("occupancy"))));
        }
        if of("ld128") < before.get("ld128") && of("ld32") > before.get("ld32") {
            found.push(("lost", format!("{} loads of 128 bits, it had {}", of("ld128"), before.get("ld128"))));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: &str =
        "# floors\nfloor nv,m1 50 linear_matrix16*\n\nallow m1 spills,local linear_vec_q4 WG=32,ROWS=8*\n";

    fn table(rows: &[(&str, &[(&str, u32)])]) -> Table {
        let rows = rows.iter().map(|(variant, numbers)| Row::with(variant, numbers));
        Table { rows: rows.collect(), ..Table::default() }
    }

    fn judged(gpu: &str, now: &[(&str, &[(&str, u32)])], before: &[(&str, &[(&str, u32)])]) -> (Vec<String>, usize) {
        let limits = Limits::parse(LIMITS).expect("limits");
        let (faults, idle) = limits.judge(gpu, &table(now), &table(before));
        (faults.iter().map(|fault| format!("{} {}", fault.rule, fault.variant)).collect(), idle.len())
    }

    #[test]
    fn each_rule_can_be_broken() {
        let rows: [(&str, &[(&str, u32)]); 8] = [
            ("a", &[("spills", 1)]),
            ("b", &[("scratch_bytes", 4)]),
            ("c", &[("local", 1)]),
            ("d", &[("ld32", 4)]),
            ("e", &[("in_flight", 1)]),
            ("linear_matrix16_q4 WG=1", &[("macs_per_instruction", 49)]),
            ("f", &[("occupancy", 31), ("ld32", 2)]),
            ("good", &[("in_flight", 2), ("ld128", 4), ("ld32", 4), ("occupancy", 4)]),
        ];
        let before: [(&str, &[(&str, u32)]); 2] = [("f", &[("occupancy", 32), ("ld128", 1)]), ("good", &[])];
        let (faults, _) = judged("nv", &rows, &before);
        let wanted = ["spills a", "spills b", "local c", "narrow d", "serial e", "floor linear_matrix16_q4 WG=1"];
        assert_eq!(faults, [&wanted[..], &["occupancy f", "lost f"]].concat());
    }

    #[test]
    fn exceptions_are_of_their_gpu_rule_and_variants_and_are_told_when_idle() {
        let spills: &[(&str, u32)] = &[("spills", 1), ("local", 1)];
        let rows = [("linear_vec_q4 WG=32,ROWS=8,NORM=1", spills)];
        assert_eq!(judged("m1", &rows, &[]), (Vec::new(), 0));
        assert_eq!(judged("nv", &rows, &[]).0.len(), 2);
        assert_eq!(judged("m1", &[("linear_vec_q4 WG=32,ROWS=5", spills)], &[]).1, 1);
        assert!(Limits::parse("allow m1 spills").is_err() && Limits::parse("floor m1 many x").is_err());
    }
}
