//! NAK's assembly: blocks with the numbers of those before and behind.

use super::{Line, Names, number};
use crate::code::{Block, Instruction, Kind};

pub const NAMES: Names = Names {
    registers: "Number of GPRs",
    occupancy: Some("Max warps/SM"),
    spills: &["Spills to memory", "Fills from memory"],
    scratch_bytes: Some("SLM size"),
    instructions: "Instruction count",
    padding: None,
    code: Some("NAK assembly"),
};

pub fn blocks(code: &str) -> Vec<Block> {
    let mut lines = Vec::new();
    for line in code.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [block, name, ..] if block.starts_with("block") => lines.push(Line::label(name)),
            // `} -> [2, 3]`
            ["}", "->", ..] => {
                let numbers = words[2..].iter().map(|word| word.trim_matches(['[', ']', ',']).to_string());
                let end = Line::new(Instruction::new(Kind::Nothing));
                lines.push(Line { jumps: numbers.filter(|name| !name.is_empty()).collect(), falls: false, ..end });
            }
            [] => {}
            _ => lines.push(Line::new(instruction(line))),
        }
    }
    super::blocks(lines)
}

/// `@!p0 r4..8 = ld.global.a64.constant.b128 [r2..4+rZ], pT // delay=2 wr:0`. Which load an instruction waits for
/// shows in the registers it reads or overwrites: the six scoreboards are this compiler's way, and loads share them.
fn instruction(line: &str) -> Instruction {
    let line = line.split("//").next().unwrap_or("");
    let (written, rest) = line.split_once('=').unwrap_or(("", line));
    let operation = rest.split_whitespace().find(|word| !word.starts_with('@')).unwrap_or("");
    let kind = kind(operation);
    let writes = if matches!(kind, Kind::Load(_)) { registers(written) } else { Vec::new() };
    Instruction { writes, reads: registers(line), ..Instruction::new(kind) }
}

fn kind(operation: &str) -> Kind {
    let is = |starts: &[&str]| starts.iter().any(|start| operation.starts_with(start));
    if is(&["ld.global"]) {
        Kind::Load(number(operation, ".b").or(number(operation, ".u")).unwrap_or(32))
    } else if is(&["st.global"]) {
        Kind::Store
    } else if is(&["ld.shared", "st.shared", "ldsm"]) {
        Kind::Shared
    } else if is(&["ld.local", "st.local"]) {
        Kind::Local
    } else if is(&["hmma", "imma"]) {
        // hmma.m16n8k16
        let edge = |before| number(operation, before).unwrap_or(8);
        Kind::Matrix(edge(".m") * edge("n") * edge("k"))
    } else if is(&["ffma", "fmul", "fadd", "hfma2", "idp4"]) {
        Kind::Math
    } else if is(&["hadd2", "hmul2", "f2f", "i2f", "f2i", "i2i"]) {
        // Halves become floats by adding zero.
        Kind::Convert
    } else if is(&["bar."]) {
        Kind::Barrier
    } else if operation == "nop" {
        Kind::Nothing
    } else {
        Kind::Other
    }
}

/// `r4..8` is four registers; those of a uniform value or of a predicate come from no load.
fn registers(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.')) {
        let Some(rest) = word.strip_prefix('r') else { continue };
        let (first, end) = rest.split_once("..").unwrap_or((rest, ""));
        let first = first.split('.').next().unwrap_or("");
        if let Ok(first) = first.parse::<u32>() {
            let end = end.parse().unwrap_or(first + 1);
            found.extend((first..end).map(|register| format!("r{register}")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::hottest;

    const LOOP: &str = "
block.u 0 L0 [] -> {
      r0     = s2r sr[0x21]                                // delay=1 wr:0
} -> [1]
block 1 L1 [0, 1] -> {
      r4..8  = ld.global.a64.constant.b128 [r2..4+rZ], pT  // delay=2 wr:0
      r8     = ld.global.a64.constant.b32 [r2..4+rZ], p1   // delay=2 wr:1
               nop                                         // delay=1
      r9     = ffma r7 r8 r9                               // delay=4 wt=000011
      r20..24 = hmma.m16n8k16.f32 r4..8 r10..12 r20..24    // delay=1 wr:3
               st.local.strong.cta.b128 [rZ] r4..8         // delay=1
               bar.sync                                    // delay=1
@!p0           bra pT L1                                   // delay=1
} -> [1, 2]
block 2 L2 [1] -> {
               exit                                        // delay=1
} -> []
";

    #[test]
    fn a_loop_is_read() {
        let of = hottest(&blocks(LOOP)).expect("a loop");
        assert_eq!((of.instructions, of.loads, of.in_flight, of.rounds), (7, [1, 0, 1], 2, 1));
        assert_eq!((of.math, of.macs, of.local, of.barriers), (1, 2048, 1, 1));
    }
}
