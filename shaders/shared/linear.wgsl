// The interface of the linear family: y = act(x Wᵀ + b), optionally added to y, optionally gated.
//
// x     [m, k]      f32; x and w are declared in operands.wgsl
// w     [n, k]      packed as weights_f16.wgsl, weights_q8.wgsl or weights_q4.wgsl say, k contiguous
// scales [n, ...]    f16, two to an element, as those files say; bound to x and not read where weights are f16
// bias  [n]         f32; bound to x and not read when BIAS is false
// gain  [k]         f32, of an RMSNorm over the rows of x that linear_vec does on the way; bound to x and not read
//                   when NORM is false
// y     [m, stride] f32
//
// One dispatch covers n rows of W, which may be a part of the layer: column0 is the part's first output.
// GATED: rows 2f and 2f + 1 of W are gate and up of feature f, and y gets act(gate) * up at column f.
// Limits: k % 8 == 0, for quantised weights k % 32 == 0; x_offset % 8 == 0. Accumulates in f32.
//
// A kernel, ours or a user's (bench kernels --wgsl, --wgsl-override), has to read and write with these alone, whose
// meaning stays the same:
//
// x_eight(i)             x[8i .. 8i + 8] of the whole binding: row r of x begins at i = (p.x_offset + r * p.k) / 8
// eight(row, c)          weights 8c .. 8c + 8 of row `row` of this part (0 .. p.n) in f32, whatever their format
// store4(row, n0, sums)  finishes and writes y[row][n0 .. n0 + 4], once for each: adds the bias, activates, gates, adds
//                        to what is there. n0 % 2 == 0, since GATED takes pairs of columns. Rows and columns past the
//                        end are left out; reads past the end are the kernel's to avoid
//
// A workgroup makes TILE_ROWS x TILE_COLUMNS outputs: its first row is group.y * TILE_ROWS, its first column (of this
// part, before gating) group.x * TILE_COLUMNS. A text that declares both constants sets the grid by them. Kernels in the
// place of linear_vec get the override constants WG, SHARES, ROWS and NORM as well, and with NORM have to norm x.
struct Params {
    m: u32,
    n: u32,
    k: u32,
    x_offset: u32,
    y_offset: u32,
    y_stride: u32,
    column0: u32,
    eps: f32,
}

override BIAS: bool = false;
override ADD: bool = false;
override GATED: bool = false;

@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read> gain: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(6) var<uniform> p: Params;

// The row of this part of w that output n is made with; for outputs past the end the last.
fn weight_row(n: u32) -> u32 {
    return min(n, p.n - 1u);
}

fn with_bias(sum: f32, n: u32) -> f32 {
    if BIAS && n < p.n {
        return sum + bias[p.column0 + n];
    }
    return sum;
}

fn put(row: u32, column: u32, value: f32) {
    let at = p.y_offset + row * p.y_stride + column;
    if ADD {
        y[at] += value;
    } else {
        y[at] = value;
    }
}

fn put_activated(row: u32, n: u32, value: f32) {
    if n < p.n {
        put(row, p.column0 + n, activate(value));
    }
}

// Finishes the outputs of row `row` and columns n0 .. n0 + 4 of this part, leaving out what lies outside.
// Spelled out: Direct3D's older compiler refuses vector components chosen in a loop.
fn store4(row: u32, n0: u32, sums: vec4<f32>) {
    if row >= p.m {
        return;
    }
    let v0 = with_bias(sums.x, n0);
    let v1 = with_bias(sums.y, n0 + 1u);
    let v2 = with_bias(sums.z, n0 + 2u);
    let v3 = with_bias(sums.w, n0 + 3u);
    if GATED {
        let column = (p.column0 + n0) / 2u;
        if n0 + 1u < p.n {
            put(row, column, activate(v0) * v1);
        }
        if n0 + 3u < p.n {
            put(row, column + 1u, activate(v2) * v3);
        }
    } else {
        put_activated(row, n0, v0);
        put_activated(row, n0 + 1u, v1);
        put_activated(row, n0 + 2u, v2);
        put_activated(row, n0 + 3u, v3);
    }
}
