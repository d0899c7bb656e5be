// y[m, n] = act(Σ_k x[m, k] W[n, k] + b[n]), for many rows on adapters with subgroups of exactly 8.
//
// Bindings: shared/linear.wgsl.
// Grid: x = groups of 32 weight rows, y = groups of 16 rows of x.
// Workgroup memory: none. One workgroup is one subgroup of 8.
// Numerics: f32 sums in order of k.
// Why: on a software rasteriser a barrier costs more than the arithmetic between two of them, and every load is a
// gather. Each lane loads two rows of x once and hands them to the others; each owns 4 weight rows. Ten times
// linear_tile there (benches/README.md); on a GPU it would starve.

fn dots(a: vec4<f32>, w0: vec4<f32>, w1: vec4<f32>, w2: vec4<f32>, w3: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(dot(a, w0), dot(a, w1), dot(a, w2), dot(a, w3));
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let m0 = group.y * 16u;
    let n0 = group.x * 32u + lane * 4u;
    let chunks = p.k / 8u;
    // Rows past the end repeat the last one; their outputs are not stored.
    let last = p.n - 1u;
    let r0 = min(n0, last);
    let r1 = min(n0 + 1u, last);
    let r2 = min(n0 + 2u, last);
    let r3 = min(n0 + 3u, last);
    let xa = (p.x_offset + min(m0 + lane, p.m - 1u) * p.k) / 4u;
    let xb = (p.x_offset + min(m0 + 8u + lane, p.m - 1u) * p.k) / 4u;
    var acc0 = vec4<f32>();
    var acc1 = vec4<f32>();
    var acc2 = vec4<f32>();
    var acc3 = vec4<f32>();
    var acc4 = vec4<f32>();
    var acc5 = vec4<f32>();
    var acc6 = vec4<f32>();
    var acc7 = vec4<f32>();
    var acc8 = vec4<f32>();
    var acc9 = vec4<f32>();
    var acc10 = vec4<f32>();
    var acc11 = vec4<f32>();
    var acc12 = vec4<f32>();
    var acc13 = vec4<f32>();
    var acc14 = vec4<f32>();
    var acc15 = vec4<f32>();
    for (var c = 0u; c < chunks; c++) {
        let a0 = x[xa + 2u * c];
        let a1 = x[xa + 2u * c + 1u];
        let b0 = x[xb + 2u * c];
        let b1 = x[xb + 2u * c + 1u];
        let q0 = eight(r0, c);
        let q1 = eight(r1, c);
        let q2 = eight(r2, c);
        let q3 = eight(r3, c);
        acc0 += dots(subgroupBroadcast(a0, 0u), q0.low, q1.low, q2.low, q3.low);
        acc0 += dots(subgroupBroadcast(a1, 0u), q0.high, q1.high, q2.high, q3.high);
        acc1 += dots(subgroupBroadcast(a0, 1u), q0.low, q1.low, q2.low, q3.low);
        acc1 += dots(subgroupBroadcast(a1, 1u), q0.high, q1.high, q2.high, q3.high);
        acc2 += dots(subgroupBroadcast(a0, 2u), q0.low, q1.low, q2.low, q3.low);
        acc2 += dots(subgroupBroadcast(a1, 2u), q0.high, q1.high, q2.high, q3.high);
        acc3 += dots(subgroupBroadcast(a0, 3u), q0.low, q1.low, q2.low, q3.low);
        acc3 += dots(subgroupBroadcast(a1, 3u), q0.high, q1.high, q2.high, q3.high);
        acc4 += dots(subgroupBroadcast(a0, 4u), q0.low, q1.low, q2.low, q3.low);
        acc4 += dots(subgroupBroadcast(a1, 4u), q0.high, q1.high, q2.high, q3.high);
        acc5 += dots(subgroupBroadcast(a0, 5u), q0.low, q1.low, q2.low, q3.low);
        acc5 += dots(subgroupBroadcast(a1, 5u), q0.high, q1.high, q2.high, q3.high);
        acc6 += dots(subgroupBroadcast(a0, 6u), q0.low, q1.low, q2.low, q3.low);
        acc6 += dots(subgroupBroadcast(a1, 6u), q0.high, q1.high, q2.high, q3.high);
        acc7 += dots(subgroupBroadcast(a0, 7u), q0.low, q1.low, q2.low, q3.low);
        acc7 += dots(subgroupBroadcast(a1, 7u), q0.high, q1.high, q2.high, q3.high);
        acc8 += dots(subgroupBroadcast(b0, 0u), q0.low, q1.low, q2.low, q3.low);
        acc8 += dots(subgroupBroadcast(b1, 0u), q0.high, q1.high, q2.high, q3.high);
        acc9 += dots(subgroupBroadcast(b0, 1u), q0.low, q1.low, q2.low, q3.low);
        acc9 += dots(subgroupBroadcast(b1, 1u), q0.high, q1.high, q2.high, q3.high);
        acc10 += dots(subgroupBroadcast(b0, 2u), q0.low, q1.low, q2.low, q3.low);
        acc10 += dots(subgroupBroadcast(b1, 2u), q0.high, q1.high, q2.high, q3.high);
        acc11 += dots(subgroupBroadcast(b0, 3u), q0.low, q1.low, q2.low, q3.low);
        acc11 += dots(subgroupBroadcast(b1, 3u), q0.high, q1.high, q2.high, q3.high);
        acc12 += dots(subgroupBroadcast(b0, 4u), q0.low, q1.low, q2.low, q3.low);
        acc12 += dots(subgroupBroadcast(b1, 4u), q0.high, q1.high, q2.high, q3.high);
        acc13 += dots(subgroupBroadcast(b0, 5u), q0.low, q1.low, q2.low, q3.low);
        acc13 += dots(subgroupBroadcast(b1, 5u), q0.high, q1.high, q2.high, q3.high);
        acc14 += dots(subgroupBroadcast(b0, 6u), q0.low, q1.low, q2.low, q3.low);
        acc14 += dots(subgroupBroadcast(b1, 6u), q0.high, q1.high, q2.high, q3.high);
        acc15 += dots(subgroupBroadcast(b0, 7u), q0.low, q1.low, q2.low, q3.low);
        acc15 += dots(subgroupBroadcast(b1, 7u), q0.high, q1.high, q2.high, q3.high);
    }
    store4(m0 + 0u, n0, acc0);
    store4(m0 + 1u, n0, acc1);
    store4(m0 + 2u, n0, acc2);
    store4(m0 + 3u, n0, acc3);
    store4(m0 + 4u, n0, acc4);
    store4(m0 + 5u, n0, acc5);
    store4(m0 + 6u, n0, acc6);
    store4(m0 + 7u, n0, acc7);
    store4(m0 + 8u, n0, acc8);
    store4(m0 + 9u, n0, acc9);
    store4(m0 + 10u, n0, acc10);
    store4(m0 + 11u, n0, acc11);
    store4(m0 + 12u, n0, acc12);
    store4(m0 + 13u, n0, acc13);
    store4(m0 + 14u, n0, acc14);
    store4(m0 + 15u, n0, acc15);
}
