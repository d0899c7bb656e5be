//! Machine code in the words that all GPUs share: blocks of instructions, their loops, and what a loop does.

use std::collections::BTreeSet;

/// The kinds of instructions that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A load from a buffer, with the bits that a lane gets.
    Load(u32),
    /// A store to a buffer.
    Store,
    /// A load from workgroup memory, or a store to it.
    Shared,
    /// A load from a lane's own memory, or a store to it: spills, and arrays that are indexed.
    Local,
    /// A product of matrices, with its multiply-adds for the whole subgroup.
    Matrix(u32),
    /// Arithmetic of floats, and dot products of packed integers.
    Math,
    /// A conversion between types.
    Convert,
    /// A barrier of a workgroup.
    Barrier,
    /// Everything else that takes an issue slot.
    Other,
    /// What takes none: hints and padding.
    Nothing,
}

/// One instruction.
#[derive(Clone, Debug)]
pub struct Instruction {
    pub kind: Kind,
    /// Names of what a load writes: registers, or whatever the dialect waits by. Nobody else need tell.
    pub writes: Vec<String>,
    /// Names of what it waits for.
    pub reads: Vec<String>,
    /// Loads that may still be under way when it goes on, where it waits by number.
    pub leaves: Option<usize>,
}

impl Instruction {
    pub fn new(kind: Kind) -> Instruction {
        Instruction { kind, writes: Vec::new(), reads: Vec::new(), leaves: None }
    }
}

/// Instructions that run in a row, and the blocks that may follow by their indices.
#[derive(Clone, Debug, Default)]
pub struct Block {
    pub instructions: Vec<Instruction>,
    pub next: Vec<usize>,
}

/// What a loop does in one iteration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loop {
    pub instructions: u32,
    /// Loads from buffers of at most 32, of 64 and of 128 bits.
    pub loads: [u32; 3],
    pub matrix: u32,
    /// Multiply-adds of the matrix products.
    pub macs: u32,
    pub math: u32,
    pub convert: u32,
    pub shared: u32,
    pub local: u32,
    pub barriers: u32,
    /// Most loads under way at once, those of the iteration before included.
    pub in_flight: u32,
    /// Times that loads begin behind a stop for others: memory's latencies in a row.
    pub rounds: u32,
}

/// Times that a loop is taken to run for one time of the loop around it.
const TURNS: u32 = 16;

/// The loop that a kernel spends its time in: of those that multiply matrices the one that does most of it outside of
/// loops of its own, else of those that compute, else of those that load.
pub fn hottest(blocks: &[Block]) -> Option<Loop> {
    let loops = loops(blocks);
    let is_inside =
        |inner: &BTreeSet<usize>, outer: &BTreeSet<usize>| inner.len() < outer.len() && inner.is_subset(outer);
    let weight = |body: &BTreeSet<usize>| {
        let inner: BTreeSet<usize> = loops.iter().filter(|of| is_inside(of, body)).flatten().copied().collect();
        let of = count(blocks, body.difference(&inner).copied());
        let turns = TURNS.pow(loops.iter().filter(|of| is_inside(body, of)).count() as u32);
        [of.macs, of.math, of.loads.iter().sum(), of.instructions].map(|count| turns * count)
    };
    let body = loops.iter().max_by_key(|body| weight(body))?;
    let mut found = count(blocks, body.iter().copied());
    (found.in_flight, found.rounds) = flights(blocks, body);
    Some(found)
}

fn count(blocks: &[Block], body: impl Iterator<Item = usize>) -> Loop {
    let mut of = Loop::default();
    for instruction in body.flat_map(|block| &blocks[block].instructions) {
        of.instructions += u32::from(instruction.kind != Kind::Nothing);
        match instruction.kind {
            Kind::Load(bits) => of.loads[if bits <= 32 { 0 } else { usize::from(bits > 64) + 1 }] += 1,
            Kind::Shared => of.shared += 1,
            Kind::Local => of.local += 1,
            Kind::Matrix(macs) => {
                of.matrix += 1;
                of.macs += macs;
            }
            Kind::Math => of.math += 1,
            Kind::Convert => of.convert += 1,
            Kind::Barrier => of.barriers += 1,
            Kind::Store | Kind::Other | Kind::Nothing => {}
        }
    }
    of
}

/// Natural loops, one for each block that a later one leads back to.
fn loops(blocks: &[Block]) -> Vec<BTreeSet<usize>> {
    let mut before = vec![Vec::new(); blocks.len()];
    for (from, block) in blocks.iter().enumerate() {
        block.next.iter().for_each(|&to| before[to].push(from));
    }
    let mut loops: Vec<(usize, BTreeSet<usize>)> = Vec::new();
    for (from, head) in back_edges(blocks) {
        let mut body = BTreeSet::from([head]);
        let mut open = vec![from];
        while let Some(block) = open.pop() {
            if body.insert(block) {
                open.extend(&before[block]);
            }
        }
        match loops.iter_mut().find(|(of, _)| *of == head) {
            Some((_, known)) => known.extend(body),
            None => loops.push((head, body)),
        }
    }
    loops.into_iter().map(|(_, body)| body).collect()
}

/// Edges to a block that the search is still inside of.
fn back_edges(blocks: &[Block]) -> Vec<(usize, usize)> {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        Never,
        Inside,
        Done,
    }
    let mut seen = vec![Seen::Never; blocks.len()];
    let mut found = Vec::new();
    let mut path = Vec::new();
    if !blocks.is_empty() {
        path.push((0, 0));
        seen[0] = Seen::Inside;
    }
    while let Some((block, edge)) = path.pop() {
        let Some(&to) = blocks[block].next.get(edge) else {
            seen[block] = Seen::Done;
            continue;
        };
        path.push((block, edge + 1));
        match seen[to] {
            Seen::Inside => found.push((block, to)),
            Seen::Never => {
                seen[to] = Seen::Inside;
                path.push((to, 0));
            }
            Seen::Done => {}
        }
    }
    found
}

/// Most loads under way at once, and the times that loads begin behind a stop for others. The body is walked through
/// twice, and counted the second time: loads for the next iteration are under way when it begins.
fn flights(blocks: &[Block], body: &BTreeSet<usize>) -> (u32, u32) {
    let mut flying: Vec<&[String]> = Vec::new();
    let (mut most, mut rounds, mut stopped) = (0, 0, true);
    for second in [false, true] {
        for instruction in body.iter().flat_map(|&block| &blocks[block].instructions) {
            let before = flying.len();
            // Those that are waited for by number land in order.
            flying.drain(..before.saturating_sub(instruction.leaves.unwrap_or(before)));
            flying.retain(|load| !load.iter().any(|name| instruction.reads.contains(name)));
            stopped |= flying.len() < before;
            if let Kind::Load(_) = instruction.kind {
                rounds += u32::from(second && std::mem::take(&mut stopped));
                flying.push(&instruction.writes);
                most = most.max(flying.len() as u32);
            }
        }
    }
    (most, rounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: &str) -> Instruction {
        Instruction { writes: vec![name.into()], ..Instruction::new(Kind::Load(128)) }
    }

    fn read(name: &str) -> Instruction {
        Instruction { reads: vec![name.into()], ..Instruction::new(Kind::Math) }
    }

    fn leave(count: usize) -> Instruction {
        Instruction { leaves: Some(count), ..Instruction::new(Kind::Other) }
    }

    fn looped(body: Vec<Instruction>) -> Loop {
        let entry = Block { instructions: vec![Instruction::new(Kind::Other)], next: vec![1] };
        let body = Block { instructions: body, next: vec![1, 2] };
        hottest(&[entry, body, Block::default()]).expect("a loop")
    }

    #[test]
    fn loads_that_are_used_at_once_wait_one_by_one() {
        let of = looped(vec![load("a"), read("a"), load("b"), read("b")]);
        assert_eq!((of.loads, of.in_flight, of.rounds), ([0, 0, 2], 1, 2));
    }

    #[test]
    fn loads_before_the_first_use_are_under_way_together() {
        let of = looped(vec![load("a"), load("b"), read("b"), read("a")]);
        assert_eq!((of.in_flight, of.rounds), (2, 1));
        let of = looped(vec![load(""), load(""), leave(1), load(""), leave(0)]);
        assert_eq!((of.in_flight, of.rounds), (2, 2));
    }

    #[test]
    fn loads_for_the_next_iteration_are_under_way_when_it_begins() {
        let of = looped(vec![load("b"), read("a"), load("a"), read("b")]);
        assert_eq!((of.in_flight, of.rounds), (2, 2));
    }

    #[test]
    fn the_hottest_loop_is_the_inner_one_that_multiplies() {
        let block = |instructions, next: &[usize]| Block { instructions, next: next.into() };
        let product = Instruction::new(Kind::Matrix(4096));
        let staging = vec![load("a"); 9];
        // 0 -> [1 -> (2: staging) -> 3: product] -> 4
        let blocks = [
            block(vec![], &[1]),
            block(vec![], &[2]),
            block(staging, &[2, 3]),
            block(vec![product], &[1, 4]),
            block(vec![load("z"); 20], &[]),
        ];
        let of = hottest(&blocks).expect("a loop");
        assert_eq!((of.matrix, of.macs, of.loads[2], of.instructions), (1, 4096, 9, 10));
    }
}
