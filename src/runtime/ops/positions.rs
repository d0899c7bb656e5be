//! Learned positions.

use bytemuck::{Pod, Zeroable};

use super::attention::Rows;
use crate::runtime::kernels;
use crate::runtime::recorder::{Dispatch, Recorder};
use crate::runtime::tensor::Tensor;

/// `Params` of `shaders/positions.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    d: u32,
    table_offset: u32,
}

impl Recorder {
    /// `x[t] += table[position of row t]` for `x [T, D]` and `table [positions, D]`.
    pub fn add_positions(&mut self, x: &mut Tensor, table: &Tensor, rows: &Rows) {
        assert_eq!((x.cols(), x.offset, x.rows()), (table.cols(), 0, rows.places.rows()), "add_positions: shapes");
        assert!(table.rows() >= rows.pages.cols(), "add_positions: a row for every position");
        let label = self.label("add_positions");
        let dispatch = Dispatch::new(&kernels::POSITIONS, &label)
            .reads([table, &rows.places])
            .reads_step()
            .writes([x])
            .params(&Params { d: x.cols(), table_offset: table.offset })
            .grid([x.cols().div_ceil(64), x.rows(), 1])
            .flops(x.len().into());
        self.push(dispatch);
        self.tap(&label, x);
    }
}
