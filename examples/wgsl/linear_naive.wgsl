// The simplest right kernel for linear layers: a place to begin with one of your own.
//
//     instructblip bench kernels --wgsl examples/wgsl/linear_naive.wgsl --op linear --shape 257,1408,1408 --watch
//
// compares it with f64, times it beside the kernels of this program and says what share of your GPU it reaches; with
// --watch again whenever you save this file. And in a whole model, in f16, q8 or q4:
//
//     instructblip ask photo.png "What is this?" --kernels linear_tile \
//         --wgsl-override linear_tile=examples/wgsl/linear_naive.wgsl
//
// It computes y = act(x Wᵀ + b). shaders/shared/linear.wgsl, which is put in front of this text, says what there is to
// read and write with; the pieces used here are
//
//     p.m, p.n, p.k          rows of x, rows of W in this dispatch, columns of both
//     x_eight(i)             x[8i .. 8i + 8] as two vec4<f32>, .low and .high
//     eight(row, c)          W[row][8c .. 8c + 8] in the same way, whatever the format of the weights
//     store4(row, n0, sums)  four neighbouring outputs: adds the bias, applies the activation, leaves out what is outside
//
// What to try: keep a tile of W in workgroup memory (linear_tile.wgsl does), more rows per invocation, so that each
// eight() serves several of them, or another shape of the tile.

// Rows and columns of y that a workgroup makes. The grid follows from them: x = tiles of columns, y = tiles of rows.
const TILE_ROWS: u32 = 8u;
const TILE_COLUMNS: u32 = 8u;

fn dot8(a: Eight, b: Eight) -> f32 {
    return dot(a.low, b.low) + dot(a.high, b.high);
}

// One row and four columns of y for each invocation: 2 x 8 of them make a tile.
@compute @workgroup_size(2, 8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = group.y * TILE_ROWS + local.y;
    let n0 = group.x * TILE_COLUMNS + local.x * 4u;
    // Past the end the last row is read again; store4 leaves out what comes of it.
    let x_from = (p.x_offset + min(row, p.m - 1u) * p.k) / 8u;
    let last = p.n - 1u;
    let w0 = min(n0, last);
    let w1 = min(n0 + 1u, last);
    let w2 = min(n0 + 2u, last);
    let w3 = min(n0 + 3u, last);
    var sums = vec4<f32>();
    for (var c = 0u; c < p.k / 8u; c++) {
        let a = x_eight(x_from + c);
        sums += vec4<f32>(dot8(a, eight(w0, c)), dot8(a, eight(w1, c)), dot8(a, eight(w2, c)), dot8(a, eight(w3, c)));
    }
    store4(row, n0, sums);
}
