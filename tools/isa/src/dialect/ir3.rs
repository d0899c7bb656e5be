//! Adreno's assembly: marks in front of an instruction say what it waits for and how often it is repeated.

use super::{Line, Names, number};
use crate::code::{Block, Instruction, Kind};

pub const NAMES: Names = Names {
    registers: "Registers used",
    occupancy: Some("Max Waves Per Core"),
    spills: &["STP Count", "LDP Count"],
    scratch_bytes: None,
    instructions: "Instruction Count",
    padding: Some("NOPs Count"),
    code: Some("IR3 Assembly"),
};

/// The mark by which an instruction waits for everything under way from memory.
const WAIT: &str = "(sy)";

pub fn blocks(code: &str) -> Vec<Block> {
    super::blocks(code.lines().flat_map(lines).collect())
}

/// A line, as often as it is repeated.
fn lines(text: &str) -> Vec<Line> {
    let text = text.trim();
    if let Some(label) = text.strip_prefix('l').and_then(|text| text.strip_suffix(':')) {
        return vec![Line::label(label)];
    }
    let mut rest = text;
    let mut marks = "";
    while let Some(end) = rest.strip_prefix('(').and_then(|rest| rest.find(')')) {
        rest = rest[end + 2..].trim_start();
        marks = &text[..text.len() - rest.len()];
    }
    let Some(operation) = rest.split_whitespace().next().filter(|_| !rest.starts_with([';', '@', '#'])) else {
        return Vec::new();
    };
    let kind = kind(operation, rest);
    let wait = || vec![WAIT.to_string()];
    let mut instruction = Instruction::new(kind);
    if let Kind::Load(_) = kind {
        instruction.writes = wait();
    }
    let jumps: Vec<String> = rest.split("#l").skip(1).map(|label| label.trim().to_string()).collect();
    let repeated = 1 + number(marks, "rpt").unwrap_or(0) as usize;
    let mut lines: Vec<Line> = (0..repeated).map(|_| Line::new(instruction.clone())).collect();
    if marks.contains(WAIT) {
        lines[0].instruction.reads = wait();
    }
    let last = &mut lines[repeated - 1];
    (last.jumps, last.falls) = (jumps, !matches!(operation, "jump" | "end"));
    lines
}

fn kind(operation: &str, text: &str) -> Kind {
    let is = |starts: &[&str]| starts.iter().any(|start| operation.starts_with(start));
    if is(&["isam", "ldg", "ldib"]) {
        Kind::Load(bits(operation, text))
    } else if is(&["stib", "stg"]) {
        Kind::Store
    } else if is(&["ldl", "stl", "ldlw", "stlw"]) {
        Kind::Shared
    } else if is(&["ldp", "stp"]) {
        Kind::Local
    } else if is(&["mad.f", "mul.f", "add.f", "dp4acc", "dp2acc"]) {
        Kind::Math
    } else if is(&["cov."]) {
        Kind::Convert
    } else if is(&["bar."]) {
        Kind::Barrier
    } else if operation == "nop" {
        Kind::Nothing
    } else {
        Kind::Other
    }
}

/// `isam.v (u32)(xyzw)r2.w, ...` and `ldib.b.untyped.1d.u32.4.imm` are 128 bits.
fn bits(operation: &str, text: &str) -> u32 {
    let size = if text.contains("u16") { 16 } else { 32 };
    let mask = text.split(['(', ')']).find(|part| !part.is_empty() && part.chars().all(|c| "xyzw".contains(c)));
    let counted = ["u32.", "u16."].iter().find_map(|before| number(operation, before));
    size * mask.map(|mask| mask.len() as u32).or(counted).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::hottest;

    #[test]
    fn a_loop_is_read() {
        let of = hottest(&blocks(
            "; num_ubos:           0
@in(r48.x)	in0 (wrmask=0x7)
mov.u32u32 r0.w, 0
l43:
(nop3) cmps.u.ge p0.y, r2.x, c0.x
br p0.y, #l172
isam.v.base0 (u32)(xyzw)r2.w, r2.z, s#0, t#2
ldib.b.untyped.1d.u32.1.imm.base0 r0.x, r1.x, 2
(rpt3)nop
(sy)(rpt2)cov.f16f32 r10.w, (last)(r)hr20.y
mad.f32 r7.w, r10.y, r7.w, (last)r8.w
jump #l43
l172:
end",
        ))
        .expect("a loop");
        assert_eq!((of.instructions, of.loads, of.in_flight, of.rounds), (9, [1, 0, 1], 2, 1));
        assert_eq!((of.convert, of.math), (3, 1));
    }
}
