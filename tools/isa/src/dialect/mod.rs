//! The assembly of each compiler, read into the words of [`crate::code`], and its names for registers and spills.

mod aco;
mod agx;
mod brw;
mod ir3;
mod nak;

use std::collections::{BTreeMap, BTreeSet};

use crate::code::{Block, Instruction, Kind};

/// A compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// NVK's.
    Nak,
    /// RADV's.
    Aco,
    /// Honeykrisp's.
    Agx,
    /// ANV's.
    Brw,
    /// Turnip's.
    Ir3,
}

/// A compiler's names for what a table has.
pub struct Names {
    pub registers: &'static str,
    /// Threads or subgroups that have room at once; where the driver gives none, the lanes of a subgroup stand for it.
    pub occupancy: Option<&'static str>,
    /// Values that go to memory for want of registers and come back; they are added up.
    pub spills: &'static [&'static str],
    pub scratch_bytes: Option<&'static str>,
    pub instructions: &'static str,
    /// Those of the instructions that only pass time.
    pub padding: Option<&'static str>,
    /// The text with the machine code. One driver gives none, and prints it where it is asked to by its environment.
    pub code: Option<&'static str>,
}

impl Dialect {
    /// The blocks of a kernel.
    pub fn blocks(self, code: &str) -> Vec<Block> {
        match self {
            Dialect::Nak => nak::blocks(code),
            Dialect::Aco => aco::blocks(code),
            Dialect::Agx => agx::blocks(code),
            Dialect::Brw => brw::blocks(code),
            Dialect::Ir3 => ir3::blocks(code),
        }
    }

    pub fn names(self) -> Names {
        match self {
            Dialect::Nak => nak::NAMES,
            Dialect::Aco => aco::NAMES,
            Dialect::Agx => agx::NAMES,
            Dialect::Brw => brw::NAMES,
            Dialect::Ir3 => ir3::NAMES,
        }
    }

    /// What the driver must be told to print its machine code.
    pub fn environment(self) -> Option<(&'static str, &'static str)> {
        (self == Dialect::Agx).then_some(("AGX_MESA_DEBUG", "shaders"))
    }
}

/// A line of assembly.
struct Line {
    /// The label that it stands behind.
    label: Option<String>,
    instruction: Instruction,
    /// Labels that it may go on at.
    jumps: Vec<String>,
    /// True if it may go on at the next line.
    falls: bool,
}

impl Line {
    fn new(instruction: Instruction) -> Line {
        Line { label: None, instruction, jumps: Vec::new(), falls: true }
    }

    fn label(name: &str) -> Line {
        Line { label: Some(name.into()), ..Line::new(Instruction::new(Kind::Nothing)) }
    }
}

/// Cuts lines into blocks, where some line goes on at one and behind one that goes on elsewhere.
fn blocks(lines: Vec<Line>) -> Vec<Block> {
    let targets: BTreeSet<String> = lines.iter().flat_map(|line| line.jumps.clone()).collect();
    let mut starts = BTreeMap::new();
    let mut blocks: Vec<(Block, Vec<String>, bool)> = Vec::new();
    let mut ended = true;
    for line in lines {
        let target = line.label.filter(|label| targets.contains(label));
        if ended || target.is_some() {
            blocks.push((Block::default(), Vec::new(), true));
        }
        starts.extend(target.map(|label| (label, blocks.len() - 1)));
        let (block, jumps, falls) = blocks.last_mut().expect("one was pushed");
        block.instructions.push(line.instruction);
        ended = !line.jumps.is_empty() || !line.falls;
        (*jumps, *falls) = (line.jumps, line.falls);
    }
    let last = blocks.len().saturating_sub(1);
    let link = |(at, (mut block, jumps, falls)): (usize, (Block, Vec<String>, bool))| {
        block.next = jumps.iter().filter_map(|label| starts.get(label).copied()).collect();
        block.next.extend((falls && at < last).then_some(at + 1));
        block
    };
    blocks.into_iter().enumerate().map(link).collect()
}

/// The number behind the first place where `before` stands in `text`.
fn number(text: &str, before: &str) -> Option<u32> {
    let rest = &text[text.find(before)? + before.len()..];
    rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok()
}
