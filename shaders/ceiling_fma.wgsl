// What an adapter can do at most: chains of multiply-adds that nothing else slows down.
//
// seed  [2]            f32: the factor and the summand
// out   [WG * groups]  f32: the sum of an invocation's chains
//
// Chains are of f32, or of two f16: shared/chain_f32.wgsl or chain_f16.wgsl.
// Grid: x = groups. Each invocation does 96 multiply-adds of Chains in each of p.steps.
// Workgroup memory: none.
// Numerics: chain c of invocation i starts at i % 256 + c, the second half of a pair at 1 more, which f16 holds exactly;
// with factor 1 and summand 0 they stay there, so the result is known.
// Why: twelve chains cover the latency of an addition on every adapter met so far, eight steps of each the loop's cost.
struct Params {
    steps: u32,
}

override WG: u32 = 64u;

@group(0) @binding(0) var<storage, read> seed: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let a = splat(seed[0]);
    let b = splat(seed[1]);
    let i = group.x * WG + lane;
    let first = f32(i % 256u);
    var s0 = splat(first + 0.0) + APART;
    var s1 = splat(first + 1.0) + APART;
    var s2 = splat(first + 2.0) + APART;
    var s3 = splat(first + 3.0) + APART;
    var s4 = splat(first + 4.0) + APART;
    var s5 = splat(first + 5.0) + APART;
    var s6 = splat(first + 6.0) + APART;
    var s7 = splat(first + 7.0) + APART;
    var s8 = splat(first + 8.0) + APART;
    var s9 = splat(first + 9.0) + APART;
    var s10 = splat(first + 10.0) + APART;
    var s11 = splat(first + 11.0) + APART;
    for (var step = 0u; step < p.steps; step++) {
        s0 = fma(s0, a, b);
        s1 = fma(s1, a, b);
        s2 = fma(s2, a, b);
        s3 = fma(s3, a, b);
        s4 = fma(s4, a, b);
        s5 = fma(s5, a, b);
        s6 = fma(s6, a, b);
        s7 = fma(s7, a, b);
        s8 = fma(s8, a, b);
        s9 = fma(s9, a, b);
        s10 = fma(s10, a, b);
        s11 = fma(s11, a, b);
        s0 = fma(s0, a, b);
        s1 = fma(s1, a, b);
        s2 = fma(s2, a, b);
        s3 = fma(s3, a, b);
        s4 = fma(s4, a, b);
        s5 = fma(s5, a, b);
        s6 = fma(s6, a, b);
        s7 = fma(s7, a, b);
        s8 = fma(s8, a, b);
        s9 = fma(s9, a, b);
        s10 = fma(s10, a, b);
        s11 = fma(s11, a, b);
        s0 = fma(s0, a, b);
        s1 = fma(s1, a, b);
        s2 = fma(s2, a, b);
        s3 = fma(s3, a, b);
        s4 = fma(s4, a, b);
        s5 = fma(s5, a, b);
        s6 = fma(s6, a, b);
        s7 = fma(s7, a, b);
        s8 = fma(s8, a, b);
        s9 = fma(s9, a, b);
        s10 = fma(s10, a, b);
        s11 = fma(s11, a, b);
        s0 = fma(s0, a, b);
        s1 = fma(s1, a, b);
        s2 = fma(s2, a, b);
        s3 = fma(s3, a, b);
        s4 = fma(s4, a, b);
        s5 = fma(s5, a, b);
        s6 = fma(s6, a, b);
        s7 = fma(s7, a, b);
        s8 = fma(s8, a, b);
        s9 = fma(s9, a, b);
        s10 = fma(s10, a, b);
        s11 = fma(s11, a, b);
        s0 = fma(s0, a, b);
        s1 = fma(s1, a, b);
        s2 = fma(s2, a, b);
        s3 = fma(s3, a, b);
        s4 = fma(s4, a, b);
        s5 = fma(s5, a, b);
        s6 = fma(s6, a, b);
        s7 = fma(s7, a, b);
        s8 = fma(s8, a, b);
        s9 = fma(s9, a, b);
        s10 = fma(s10, a, b);
        s11 = fma(s11, a, b);
        s0 = fma(s0, a, b);
        s1 = fma(s1, a, b);
        s2 = fma(s2, a, b);
        s3 = fma(s3, a, b);
        s4 = fma(s4, a, b);
        s5 = fma(s5, a, b);
        s6 = fma(s6, a, b);
        s7 = fma(s7, a, b);
        s8 = fma(s8, a, b);
        s9 = fma(s9, a, b);
        s10 = fma(s10, a, b);
        s11 = fma(s11, a, b);
        s0 = fma(s0, a, b);
        s1 = fma(s1, a, b);
        s2 = fma(s2, a, b);
        s3 = fma(s3, a, b);
        s4 = fma(s4, a, b);
        s5 = fma(s5, a, b);
        s6 = fma(s6, a, b);
        s7 = fma(s7, a, b);
        s8 = fma(s8, a, b);
        s9 = fma(s9, a, b);
        s10 = fma(s10, a, b);
        s11 = fma(s11, a, b);
        s0 = fma(s0, a, b);
        s1 = fma(s1, a, b);
        s2 = fma(s2, a, b);
        s3 = fma(s3, a, b);
        s4 = fma(s4, a, b);
        s5 = fma(s5, a, b);
        s6 = fma(s6, a, b);
        s7 = fma(s7, a, b);
        s8 = fma(s8, a, b);
        s9 = fma(s9, a, b);
        s10 = fma(s10, a, b);
        s11 = fma(s11, a, b);
    }
    out[i] = total(s0) + total(s1) + total(s2) + total(s3) + total(s4) + total(s5)
        + total(s6) + total(s7) + total(s8) + total(s9) + total(s10) + total(s11);
}
