//! Intel's assembly: messages to memory are told in their comments, and the scoreboard in braces.

use super::{Line, Names, number};
use crate::code::{Block, Instruction, Kind};

pub const NAMES: Names = Names {
    registers: "Max live registers",
    occupancy: None,
    spills: &["Spills", "Fills"],
    scratch_bytes: Some("Scratch Memory Size"),
    instructions: "Instructions",
    padding: None,
    code: Some("GEN Assembly"),
};

pub fn blocks(code: &str) -> Vec<Block> {
    super::blocks(code.lines().filter_map(line).collect())
}

fn line(text: &str) -> Option<Line> {
    let (code, comment) = text.split_once("//").unwrap_or((text, ""));
    let code = code.trim();
    if let Some(label) = code.strip_suffix(':') {
        return Some(Line::label(label));
    }
    // A predicate in front: `(W)`, `(f0.0)`.
    let operation = code.split_whitespace().find(|word| !word.starts_with('('))?;
    let kind = kind(operation, code, comment);
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    if let Some((_, marks)) = code.split_once('{') {
        for mark in marks.trim_end_matches('}').split(',').map(str::trim) {
            match mark.strip_suffix(".dst") {
                Some(token) => reads.push(token.to_string()),
                None if mark.starts_with('$') && !mark.contains('.') => {
                    // A token that is taken again has been waited for.
                    reads.push(mark.to_string());
                    writes.push(mark.to_string());
                }
                None => {}
            }
        }
    }
    let jumps = code.split_whitespace().map(|word| word.trim_start_matches("jip:").trim_start_matches("uip:"));
    let jumps = jumps.filter(|word| word.starts_with('L') && word[1..].parse::<u32>().is_ok()).map(Into::into);
    Some(Line { jumps: jumps.collect(), ..Line::new(Instruction { writes, reads, ..Instruction::new(kind) }) })
}

fn kind(operation: &str, code: &str, comment: &str) -> Kind {
    let message = comment.rsplit(';').next().unwrap_or("").trim();
    match operation.split('.').next().unwrap_or("") {
        "send" | "sendc" | "sends" => memory(message),
        // dpas.8x8 (16): eight rows of sixteen columns, from two halves in each of eight words.
        "dpas" => Kind::Matrix(number(code, " (").unwrap_or(8) * 8 * 16),
        "mad" | "mul" | "add" | "mac" if code.contains(":f") || code.contains(":hf") => Kind::Math,
        "dp4a" => Kind::Math,
        "mov" if converts(code) => Kind::Convert,
        "sync" if operation == "sync.bar" => Kind::Barrier,
        "sync" | "nop" => Kind::Nothing,
        _ => Kind::Other,
    }
}

/// `load.ugm.d32x4.a32.bti[1]`. One that ends on t has one address for all lanes.
fn memory(message: &str) -> Kind {
    let mut words = message.split('.');
    let (what, unit, size) = (words.next(), words.next(), words.next().unwrap_or(""));
    match (what, unit) {
        (Some("load" | "store"), Some("ugm")) if message.contains(".ss[") => Kind::Local,
        (Some("load" | "store"), Some("slm")) => Kind::Shared,
        (Some("load"), Some("ugm")) if size.ends_with('t') => Kind::Other,
        (Some("load"), Some("ugm")) => Kind::Load(number(size, "d").unwrap_or(32) * number(size, "x").unwrap_or(1)),
        (Some("store"), Some("ugm")) => Kind::Store,
        _ => Kind::Other,
    }
}

/// A move between types: `mov (16) r1:f r13<2>:hf`.
fn converts(code: &str) -> bool {
    let types = code.split_whitespace().filter_map(|word| word.split_once(':')).map(|(_, of)| of);
    let types: Vec<&str> = types.filter(|of| of.chars().all(|c| c.is_ascii_alphabetic())).collect();
    matches!(types[..], [to, from, ..] if to != from && [to, from].iter().any(|of| matches!(*of, "f" | "hf")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::hottest;

    #[test]
    fn a_loop_is_read() {
        let of = hottest(&blocks(
            "        mov (16)                  r9            0x00000000
L0:
(W)     sync.nop (1)                            null                              {I@2}
(f0.0)  break (16)                            jip:L1              uip:L1
        send.ugm (16)   r43  r63  null:0  0x01000000  0x64803500   {$1}  // wr:2+0, rd:8; load.ugm.d32x4.a32.bti[1]
        send.ugm (16)   r53  r37  null:0  0x01000000  0x64803500   {$2}  // wr:2+0, rd:8; load.ugm.d32.a32.bti[1]
        send.ugm (1)    r60  r38  null:0  0x01000000  0x64803500   {$3}  // wr:2+0, rd:8; load.ugm.d32x8t.a32.ss[a0.4]
        mov (16)                  r1:f          r13<2>:hf                         {$1.dst}
        mad (16)                  r73:f         r23:f             r35:f           r49<1>:f {@4,$2.dst}
        add (16)                  r37:d         r63:d             16:d            {Compacted,$1.src}
        dpas.8x8 (8)              r40:f         null:f            r10:hf          r20:hf {$5}
L1:
        while (16)                            L0
        send.slm (16)   null r116 r3:8    0x00000200  0x04003504   {$7}  // wr:2+8, rd:0; store.slm.d32x4.a32",
        ))
        .expect("a loop");
        assert_eq!((of.instructions, of.loads, of.in_flight, of.rounds), (9, [1, 0, 1], 2, 1));
        assert_eq!((of.math, of.convert, of.local, of.macs), (1, 1, 1, 1024));
    }
}
