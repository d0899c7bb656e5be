//! Apple's machine code as Mesa disassembles it: `6b2: 0599640642c41200 load r19, dr34, r19, lsl 1, i32, x, a`.

use super::{Line, Names};
use crate::code::{Block, Instruction, Kind};

pub const NAMES: Names = Names {
    registers: "GPRs",
    occupancy: Some("Threads"),
    spills: &["Spills", "Fills"],
    scratch_bytes: Some("Scratch"),
    instructions: "Instructions",
    padding: None,
    code: None,
};

/// What the driver prints has the kernel first, and behind it what runs once before it.
pub fn blocks(code: &str) -> Vec<Block> {
    let mut last = 0;
    let numbered = code.lines().filter_map(address);
    let kernel = numbered.take_while(|(address, _)| std::mem::replace(&mut last, *address) <= *address);
    super::blocks(kernel.filter_map(|(address, text)| line(address, text)).collect())
}

fn address(text: &str) -> Option<(i64, &str)> {
    let (address, rest) = text.trim_start().split_once(": ")?;
    let (bytes, rest) = rest.trim_start().split_once(' ')?;
    let is_code = bytes.len() >= 4 && bytes.chars().all(|c| c.is_ascii_hexdigit());
    Some((i64::from_str_radix(address, 16).ok().filter(|_| is_code)?, rest.trim()))
}

fn line(address: i64, text: &str) -> Option<Line> {
    let (operation, rest) = text.split_once(' ').unwrap_or((text, ""));
    let words: Vec<&str> = rest.split(',').map(str::trim).collect();
    let slot: Vec<String> = words.last().map(ToString::to_string).into_iter().collect();
    let kind = kind(operation, &words);
    let mut instruction = Instruction::new(kind);
    match (kind, operation) {
        (Kind::Load(_), _) => instruction.writes = slot,
        (_, "wait") => instruction.reads = slot,
        _ => {}
    }
    let target = words.first().and_then(|offset| offset.parse::<i64>().ok()).filter(|_| operation.starts_with("jmp"));
    Some(Line {
        label: Some(address.to_string()),
        jumps: target.map(|offset| (address + offset).to_string()).into_iter().collect(),
        falls: operation != "stop",
        ..Line::new(instruction)
    })
}

fn kind(operation: &str, words: &[&str]) -> Kind {
    match operation {
        "load" => Kind::Load(bits(words)),
        "store" => Kind::Store,
        "lload" | "lstore" => Kind::Shared,
        "stack_load" | "stack_store" => Kind::Local,
        "ffma" | "fmul" | "fadd" => Kind::Math,
        "barrier" => Kind::Barrier,
        _ if operation.contains("_to_") => Kind::Convert,
        _ => Kind::Other,
    }
}

/// `i32, xyzw` is 128 bits.
fn bits(words: &[&str]) -> u32 {
    let component = words.iter().find_map(|word| match *word {
        "i8" | "u8" => Some(8),
        "i16" | "u16" => Some(16),
        "i32" | "u32" => Some(32),
        _ => None,
    });
    let is_mask = |word: &&&str| !word.is_empty() && word.chars().all(|c| "xyzw".contains(c));
    component.unwrap_or(32) * words.iter().find(is_mask).map_or(1, |mask| mask.len() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::hottest;

    #[test]
    fn a_loop_is_read() {
        let of = hottest(&blocks(
            "   1 = device_load 2, #0, x
   0: 9c0d                 iadd     r19, 1, r19.sx
   8: 0599640642c41200     load     r20, dr34, r19, lsl 1, i32, xyzw, a
  10: 0599640642c41200     load     r24, dr34, r19, lsl 1, i32, x, b
  18: 3800                 wait     a
  1a: baddac7206404200     ffma     $r23, $r22, r19h, r32
  22: 3801                 wait     b
  24: 00c032f8ffff         jmp_any  -28
  2a: 8800                 stop
 1de: c500003d0780f000     mov      du56, dr0
   0: 8800                 stop",
        ))
        .expect("a loop");
        assert_eq!((of.instructions, of.loads, of.in_flight, of.rounds, of.math), (6, [1, 0, 1], 2, 1, 1));
    }
}
