// y[m, n] = act(Σ_k x[m, k] W[n, k] + b[n]), for one or a few rows: bandwidth-bound.
//
// Bindings: shared/linear.wgsl.
// Grid: x = groups of 4 weight rows, y = rows of x.
// Workgroup memory: 16 * WG bytes.
// Numerics: each invocation sums every WG-th chunk of 8, then a tree: f32 throughout.
// Why: neighbouring invocations read neighbouring 16 bytes of a weight row; 4 rows share each load of x.
override WG: u32 = 64u;

var<workgroup> partials: array<vec4<f32>, WG>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let n0 = group.x * 4u;
    let row = group.y;
    let chunks = p.k / 8u;
    let last = p.n - 1u;
    let w0 = n0 * chunks;
    let w1 = min(n0 + 1u, last) * chunks;
    let w2 = min(n0 + 2u, last) * chunks;
    let w3 = min(n0 + 3u, last) * chunks;
    let x0 = (p.x_offset + row * p.k) / 4u;
    var sums = vec4<f32>();
    for (var c = lane; c < chunks; c += WG) {
        let a = x[x0 + 2u * c];
        let b = x[x0 + 2u * c + 1u];
        let q0 = w[w0 + c];
        let q1 = w[w1 + c];
        let q2 = w[w2 + c];
        let q3 = w[w3 + c];
        sums += vec4<f32>(dot(a, low(q0)), dot(a, low(q1)), dot(a, low(q2)), dot(a, low(q3)));
        sums += vec4<f32>(dot(b, high(q0)), dot(b, high(q1)), dot(b, high(q2)), dot(b, high(q3)));
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
