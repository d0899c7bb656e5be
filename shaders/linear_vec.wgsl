// y[m, n] = act(Σ_k x[m, k] W[n, k] + b[n]), for one or a few rows: bandwidth-bound.
//
// Bindings: shared/linear.wgsl.
// Grid: x = groups of 4 weight rows, y = rows of x.
// Workgroup memory: 16 * WG bytes.
// Numerics: each invocation sums every WG-th element of w, then a tree: f32 throughout.
// Why: neighbouring invocations read neighbouring 16 bytes of a weight row; 4 rows share each load of x.
override WG: u32 = 64u;

var<workgroup> partials: array<vec4<f32>, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let n0 = group.x * 4u;
    let row = group.y;
    let last = p.n - 1u;
    let rows = vec4<u32>(n0, min(n0 + 1u, last), min(n0 + 2u, last), min(n0 + 3u, last));
    let x0 = (p.x_offset + row * p.k) / 4u;
    let elements = p.k / PACK;
    var sums = vec4<f32>();
    for (var c = lane; c < elements; c += WG) {
        sums += dots_of_rows(x0 + c * (PACK / 4u), rows, c);
    }
    partials[lane] = sums;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if lane < half {
            partials[lane] += partials[lane + half];
        }
        workgroupBarrier();
    }
    if lane == 0u {
        store4(row, n0, partials[0]);
    }
}
