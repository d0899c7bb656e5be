// The interface of the linear family: y = act(x Wᵀ + b), optionally added to y, optionally SwiGLU.
//
// x     [m, k]      f32, four to an element
// w     [n, k]      f16, eight to an element, k contiguous as the checkpoint stores it
// bias  [n]         f32; bound to x and not read when BIAS is false
// y     [m, stride] f32
//
// One dispatch covers n rows of W, which may be a part of the layer: column0 is the part's first output.
// SwiGLU: rows 2f and 2f + 1 of W are gate and up of feature f, and y gets silu(gate) * up at column f.
// Limits: k % 8 == 0, x_offset % 4 == 0. Accumulates in f32.
struct Params {
    m: u32,
    n: u32,
    k: u32,
    x_offset: u32,
    y_offset: u32,
    y_stride: u32,
    column0: u32,
}

override BIAS: bool = false;
override ADD: bool = false;
override SWIGLU: bool = false;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> p: Params;

// The first and the last four of eight packed weights.
fn low(packed: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(packed.x), unpack2x16float(packed.y));
}

fn high(packed: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(packed.z), unpack2x16float(packed.w));
}

fn store1(row: u32, column: u32, value: f32) {
    let at = p.y_offset + row * p.y_stride + column;
    if ADD {
        y[at] += value;
    } else {
        y[at] = value;
    }
}

// Finishes the outputs of row `row` and columns n0 .. n0 + 4 of this part, leaving out what lies outside.
fn store4(row: u32, n0: u32, sums: vec4<f32>) {
    if row >= p.m {
        return;
    }
    var values = sums;
    if BIAS {
        for (var i = 0u; i < 4u; i++) {
            if n0 + i < p.n {
                values[i] += bias[p.column0 + n0 + i];
            }
        }
    }
    if SWIGLU {
        let column = (p.column0 + n0) / 2u;
        if n0 + 1u < p.n {
            store1(row, column, silu(values.x) * values.y);
        }
        if n0 + 3u < p.n {
            store1(row, column + 1u, silu(values.z) * values.w);
        }
    } else {
        for (var i = 0u; i < 4u; i++) {
            if n0 + i < p.n {
                store1(row, p.column0 + n0 + i, activate(values[i]));
            }
        }
    }
}
