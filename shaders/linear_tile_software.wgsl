// y[m, n] = act(Σ_k x[m, k] W[n, k] + b[n]), for many rows on software adapters with subgroups of exactly 8.
//
// Bindings: shared/linear.wgsl.
// Grid: x = groups of 64 weight rows, y = groups of 16 rows of x.
// Workgroup memory: none. One workgroup is one subgroup of 8.
// Numerics: f32 sums in order of k.
// Why: on a software rasteriser a barrier costs more than the arithmetic between two of them, and every load is a loop
// over lanes. Each lane loads two rows of x once and hands them to the others; each owns 8 weight rows. Ten times
// linear_tile there (benches/README.md); on a GPU it would starve.

fn dots(a: Eight, q0: Eight, q1: Eight, q2: Eight, q3: Eight) -> vec4<f32> {
    return vec4<f32>(dot(a.low, q0.low), dot(a.low, q1.low), dot(a.low, q2.low), dot(a.low, q3.low))
        + vec4<f32>(dot(a.high, q0.high), dot(a.high, q1.high), dot(a.high, q2.high), dot(a.high, q3.high));
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let m0 = group.y * 16u;
    let n0 = group.x * 64u + lane * 8u;
    let chunks = p.k / 8u;
    // Rows past the end repeat the last one; their outputs are not stored.
    let last = p.n - 1u;
    let r0 = min(n0, last);
    let r1 = min(n0 + 1u, last);
    let r2 = min(n0 + 2u, last);
    let r3 = min(n0 + 3u, last);
    let r4 = min(n0 + 4u, last);
    let r5 = min(n0 + 5u, last);
    let r6 = min(n0 + 6u, last);
    let r7 = min(n0 + 7u, last);
    let xa = (p.x_offset + min(m0 + lane, p.m - 1u) * p.k) / 8u;
    let xb = (p.x_offset + min(m0 + 8u + lane, p.m - 1u) * p.k) / 8u;
    var s0 = vec4<f32>();
    var t0 = vec4<f32>();
    var s1 = vec4<f32>();
    var t1 = vec4<f32>();
    var s2 = vec4<f32>();
    var t2 = vec4<f32>();
    var s3 = vec4<f32>();
    var t3 = vec4<f32>();
    var s4 = vec4<f32>();
    var t4 = vec4<f32>();
    var s5 = vec4<f32>();
    var t5 = vec4<f32>();
    var s6 = vec4<f32>();
    var t6 = vec4<f32>();
    var s7 = vec4<f32>();
    var t7 = vec4<f32>();
    var s8 = vec4<f32>();
    var t8 = vec4<f32>();
    var s9 = vec4<f32>();
    var t9 = vec4<f32>();
    var s10 = vec4<f32>();
    var t10 = vec4<f32>();
    var s11 = vec4<f32>();
    var t11 = vec4<f32>();
    var s12 = vec4<f32>();
    var t12 = vec4<f32>();
    var s13 = vec4<f32>();
    var t13 = vec4<f32>();
    var s14 = vec4<f32>();
    var t14 = vec4<f32>();
    var s15 = vec4<f32>();
    var t15 = vec4<f32>();
    for (var c = 0u; c < chunks; c++) {
        let a = x_eight(xa + c);
        let b = x_eight(xb + c);
        let q0 = eight(r0, c);
        let q1 = eight(r1, c);
        let q2 = eight(r2, c);
        let q3 = eight(r3, c);
        let q4 = eight(r4, c);
        let q5 = eight(r5, c);
        let q6 = eight(r6, c);
        let q7 = eight(r7, c);
        let a0 = Eight(subgroupBroadcast(a.low, 0u), subgroupBroadcast(a.high, 0u));
        s0 += dots(a0, q0, q1, q2, q3);
        t0 += dots(a0, q4, q5, q6, q7);
        let a1 = Eight(subgroupBroadcast(a.low, 1u), subgroupBroadcast(a.high, 1u));
        s1 += dots(a1, q0, q1, q2, q3);
        t1 += dots(a1, q4, q5, q6, q7);
        let a2 = Eight(subgroupBroadcast(a.low, 2u), subgroupBroadcast(a.high, 2u));
        s2 += dots(a2, q0, q1, q2, q3);
        t2 += dots(a2, q4, q5, q6, q7);
        let a3 = Eight(subgroupBroadcast(a.low, 3u), subgroupBroadcast(a.high, 3u));
        s3 += dots(a3, q0, q1, q2, q3);
        t3 += dots(a3, q4, q5, q6, q7);
        let a4 = Eight(subgroupBroadcast(a.low, 4u), subgroupBroadcast(a.high, 4u));
        s4 += dots(a4, q0, q1, q2, q3);
        t4 += dots(a4, q4, q5, q6, q7);
        let a5 = Eight(subgroupBroadcast(a.low, 5u), subgroupBroadcast(a.high, 5u));
        s5 += dots(a5, q0, q1, q2, q3);
        t5 += dots(a5, q4, q5, q6, q7);
        let a6 = Eight(subgroupBroadcast(a.low, 6u), subgroupBroadcast(a.high, 6u));
        s6 += dots(a6, q0, q1, q2, q3);
        t6 += dots(a6, q4, q5, q6, q7);
        let a7 = Eight(subgroupBroadcast(a.low, 7u), subgroupBroadcast(a.high, 7u));
        s7 += dots(a7, q0, q1, q2, q3);
        t7 += dots(a7, q4, q5, q6, q7);
        let a8 = Eight(subgroupBroadcast(b.low, 0u), subgroupBroadcast(b.high, 0u));
        s8 += dots(a8, q0, q1, q2, q3);
        t8 += dots(a8, q4, q5, q6, q7);
        let a9 = Eight(subgroupBroadcast(b.low, 1u), subgroupBroadcast(b.high, 1u));
        s9 += dots(a9, q0, q1, q2, q3);
        t9 += dots(a9, q4, q5, q6, q7);
        let a10 = Eight(subgroupBroadcast(b.low, 2u), subgroupBroadcast(b.high, 2u));
        s10 += dots(a10, q0, q1, q2, q3);
        t10 += dots(a10, q4, q5, q6, q7);
        let a11 = Eight(subgroupBroadcast(b.low, 3u), subgroupBroadcast(b.high, 3u));
        s11 += dots(a11, q0, q1, q2, q3);
        t11 += dots(a11, q4, q5, q6, q7);
        let a12 = Eight(subgroupBroadcast(b.low, 4u), subgroupBroadcast(b.high, 4u));
        s12 += dots(a12, q0, q1, q2, q3);
        t12 += dots(a12, q4, q5, q6, q7);
        let a13 = Eight(subgroupBroadcast(b.low, 5u), subgroupBroadcast(b.high, 5u));
        s13 += dots(a13, q0, q1, q2, q3);
        t13 += dots(a13, q4, q5, q6, q7);
        let a14 = Eight(subgroupBroadcast(b.low, 6u), subgroupBroadcast(b.high, 6u));
        s14 += dots(a14, q0, q1, q2, q3);
        t14 += dots(a14, q4, q5, q6, q7);
        let a15 = Eight(subgroupBroadcast(b.low, 7u), subgroupBroadcast(b.high, 7u));
        s15 += dots(a15, q0, q1, q2, q3);
        t15 += dots(a15, q4, q5, q6, q7);
    }
    store4(m0 + 0u, n0, s0);
    store4(m0 + 0u, n0 + 4u, t0);
    store4(m0 + 1u, n0, s1);
    store4(m0 + 1u, n0 + 4u, t1);
    store4(m0 + 2u, n0, s2);
    store4(m0 + 2u, n0 + 4u, t2);
    store4(m0 + 3u, n0, s3);
    store4(m0 + 3u, n0 + 4u, t3);
    store4(m0 + 4u, n0, s4);
    store4(m0 + 4u, n0 + 4u, t4);
    store4(m0 + 5u, n0, s5);
    store4(m0 + 5u, n0 + 4u, t5);
    store4(m0 + 6u, n0, s6);
    store4(m0 + 6u, n0 + 4u, t6);
    store4(m0 + 7u, n0, s7);
    store4(m0 + 7u, n0 + 4u, t7);
    store4(m0 + 8u, n0, s8);
    store4(m0 + 8u, n0 + 4u, t8);
    store4(m0 + 9u, n0, s9);
    store4(m0 + 9u, n0 + 4u, t9);
    store4(m0 + 10u, n0, s10);
    store4(m0 + 10u, n0 + 4u, t10);
    store4(m0 + 11u, n0, s11);
    store4(m0 + 11u, n0 + 4u, t11);
    store4(m0 + 12u, n0, s12);
    store4(m0 + 12u, n0 + 4u, t12);
    store4(m0 + 13u, n0, s13);
    store4(m0 + 13u, n0 + 4u, t13);
    store4(m0 + 14u, n0, s14);
    store4(m0 + 14u, n0 + 4u, t14);
    store4(m0 + 15u, n0, s15);
    store4(m0 + 15u, n0 + 4u, t15);
}
