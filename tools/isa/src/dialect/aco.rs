//! ACO's machine code as LLVM disassembles it: labels, and waits that say how many loads they leave under way.

use super::{Line, Names, number};
use crate::code::{Block, Instruction, Kind};

pub const NAMES: Names = Names {
    registers: "VGPRs",
    occupancy: Some("Subgroups per SIMD"),
    spills: &["Spilled SGPRs", "Spilled VGPRs"],
    scratch_bytes: Some("Scratch size"),
    instructions: "Instructions",
    padding: None,
    code: Some("Assembly"),
};

pub fn blocks(code: &str) -> Vec<Block> {
    super::blocks(code.lines().filter_map(line).collect())
}

fn line(text: &str) -> Option<Line> {
    let text = text.split(';').next().unwrap_or("").trim();
    if let Some(label) = text.strip_suffix(':') {
        return Some(Line::label(label));
    }
    let operation = text.split_whitespace().next()?;
    let target = text.split_whitespace().last().filter(|_| operation.contains("branch"));
    Some(Line {
        jumps: target.map(Into::into).into_iter().collect(),
        falls: !matches!(operation, "s_branch" | "s_endpgm" | "s_setpc_b64"),
        ..Line::new(Instruction { leaves: leaves(operation, text), ..Instruction::new(kind(operation)) })
    })
}

/// Loads that a wait leaves under way: `s_waitcnt vmcnt(2) lgkmcnt(0)`, or by the names of RDNA4
/// `s_wait_loadcnt 0x2`.
fn leaves(operation: &str, text: &str) -> Option<usize> {
    if operation.starts_with("s_wait_loadcnt") {
        let count = text.split_whitespace().nth(1)?.trim_start_matches("0x");
        // Where it waits for workgroup memory, too, that is in the lower bits.
        let shift = if operation.contains("dscnt") { 8 } else { 0 };
        return Some(usize::from_str_radix(count, 16).ok()? >> shift);
    }
    number(text, "vmcnt(").filter(|_| operation.starts_with("s_waitcnt")).map(|count| count as usize)
}

fn kind(operation: &str) -> Kind {
    let (unit, rest) = operation.split_once('_').unwrap_or((operation, ""));
    let is = |starts: &[&str]| starts.iter().any(|start| operation.starts_with(start));
    match unit {
        "scratch" => Kind::Local,
        "buffer" | "global" | "flat" if rest.starts_with("load") => Kind::Load(bits(rest)),
        "buffer" | "global" | "flat" if rest.starts_with("store") => Kind::Store,
        "ds" if is(&["ds_load", "ds_store", "ds_read", "ds_write"]) => Kind::Shared,
        _ if is(&["s_delay", "s_clause", "s_nop"]) => Kind::Nothing,
        _ if is(&["s_barrier_wait", "s_barrier"]) && !is(&["s_barrier_signal"]) => Kind::Barrier,
        // 16x16x16, whatever the types.
        _ if is(&["v_wmma"]) => Kind::Matrix(16 * 16 * 16),
        _ if is(&["v_cvt"]) => Kind::Convert,
        _ if is(&[
            "v_fma",
            "v_pk_fma",
            "v_mul_f",
            "v_pk_mul_f",
            "v_add_f",
            "v_pk_add_f",
            "v_mad",
            "v_mac",
            "v_dot",
        ]) || is(&["v_dual_fma", "v_dual_mul_f", "v_dual_add_f", "v_dual_dot"]) =>
        {
            Kind::Math
        }
        _ => Kind::Other,
    }
}

/// Bits of `load_b128`, or as RDNA2 has it `load_dwordx4`.
fn bits(load: &str) -> u32 {
    match number(load, "dwordx") {
        Some(words) => 32 * words,
        None => number(load, "_b").unwrap_or(32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::hottest;

    #[test]
    fn a_loop_is_read() {
        let of = hottest(&blocks(
            "BB0:
	s_branch BB1 ; bfa0
BB2:
	s_clause 0x1 ; bf85
	buffer_load_b128 v[12:15], v2, s[28:31], 0 offen ; e05c
	buffer_load_dwordx2 v[16:17], v3, s[28:31], 0 offen ; e05c
	buffer_load_b32 v18, v3, s[28:31], 0 offen ; e05c
	s_waitcnt vmcnt(1) ; bf89
	v_fma_mix_f32 v32, v27, v15, neg(0) ; cc20
	s_waitcnt vmcnt(0) lgkmcnt(0) ; bf89
	v_wmma_f32_16x16x16_f16 v[0:7], v[8:15], v[16:23], v[0:7] ; cc40
	ds_store_b128 v0, v[4:7] ; db7c
BB1:
	s_cbranch_scc1 BB2 ; bfa2
BB3:
	s_endpgm ; bfb0",
        ))
        .expect("a loop");
        assert_eq!((of.instructions, of.loads, of.in_flight, of.rounds), (9, [1, 1, 1], 3, 1));
        assert_eq!((of.math, of.macs, of.shared), (1, 4096, 1));
    }

    #[test]
    fn waits_have_other_names_on_rdna4() {
        assert_eq!(leaves("s_wait_loadcnt", "s_wait_loadcnt 0x2"), Some(2));
        assert_eq!(leaves("s_wait_loadcnt_dscnt", "s_wait_loadcnt_dscnt 0x301"), Some(3));
        assert_eq!(leaves("s_waitcnt", "s_waitcnt lgkmcnt(0)"), None);
    }
}
