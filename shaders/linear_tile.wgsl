// y[m, n] = act(Σ_k x[m, k] W[n, k] + b[n]), for many rows: a 64 x 64 tile of y per workgroup.
//
// Bindings: shared/linear.wgsl.
// Grid: x = tiles of 64 weight rows, y = tiles of 64 rows of x.
// Workgroup memory: two tiles of 64 x 5 x 16 = 5,120 bytes: 10,240 bytes.
// Numerics: f32 sums in order of k.
// Why: 16 x 16 invocations of 4 x 4 outputs each do 64 multiply-adds per 8 loads of workgroup memory. A tile row
// is 16 values of k in 4 elements and one of padding, and weight row r sits at slot (r % 4) * 16 + r / 4, so that
// invocations side by side, which own columns 4 apart, read different banks.
const TILE: u32 = 64u;
const QUADS: u32 = 4u;      // elements of 4 k per step
const STRIDE: u32 = 5u;     // elements between tile rows

var<workgroup> x_tile: array<vec4<f32>, 320>;
var<workgroup> w_tile: array<vec4<f32>, 320>;

fn dots(a: vec4<f32>, w0: vec4<f32>, w1: vec4<f32>, w2: vec4<f32>, w3: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(dot(a, w0), dot(a, w1), dot(a, w2), dot(a, w3));
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let m0 = group.y * TILE;
    let n0 = group.x * TILE;
    let tx = lane % 16u;
    let ty = lane / 16u;
    // Loading: x by 64 rows x 4 quads, one each; weights by 64 rows x 2 times 8 weights, half the invocations.
    // Rows past the end repeat the last one; their outputs are not stored.
    let x_row = min(m0 + lane / 4u, p.m - 1u);
    let x_from = (p.x_offset + x_row * p.k) / 4u + lane % 4u;
    let x_to = (lane / 4u) * STRIDE + lane % 4u;
    let w_local = lane / 2u;
    let w_row = min(n0 + w_local, p.n - 1u);
    let w_to = ((w_local % 4u) * 16u + w_local / 4u) * STRIDE + (lane % 2u) * 2u;
    let quads = p.k / 4u;
    var acc0 = vec4<f32>();
    var acc1 = vec4<f32>();
    var acc2 = vec4<f32>();
    var acc3 = vec4<f32>();
    for (var q = 0u; q < quads; q += QUADS) {
        var x_value = vec4<f32>();
        if q + lane % 4u < quads {
            x_value = x[x_from + q];
        }
        x_tile[x_to] = x_value;
        if lane < 128u {
            var weights = Eight();
            if q + (lane % 2u) * 2u < quads {
                weights = eight(w_row, q / 2u + lane % 2u);
            }
            w_tile[w_to] = weights.low;
            w_tile[w_to + 1u] = weights.high;
        }
        workgroupBarrier();
        for (var k = 0u; k < QUADS; k++) {
            let w0 = w_tile[tx * STRIDE + k];
            let w1 = w_tile[(tx + 16u) * STRIDE + k];
            let w2 = w_tile[(tx + 32u) * STRIDE + k];
            let w3 = w_tile[(tx + 48u) * STRIDE + k];
            acc0 += dots(x_tile[(ty * 4u) * STRIDE + k], w0, w1, w2, w3);
            acc1 += dots(x_tile[(ty * 4u + 1u) * STRIDE + k], w0, w1, w2, w3);
            acc2 += dots(x_tile[(ty * 4u + 2u) * STRIDE + k], w0, w1, w2, w3);
            acc3 += dots(x_tile[(ty * 4u + 3u) * STRIDE + k], w0, w1, w2, w3);
        }
        workgroupBarrier();
    }
    let row = m0 + ty * 4u;
    let column = n0 + tx * 4u;
    store4(row, column, acc0);
    store4(row + 1u, column, acc1);
    store4(row + 2u, column, acc2);
    store4(row + 3u, column, acc3);
}
