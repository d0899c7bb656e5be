// What an adapter can do at most: chains of f32 multiply-adds that nothing else slows down.
//
// seed  [2]            f32: the factor and the summand
// out   [WG * groups]  f32: the sum of an invocation's chains
//
// Grid: x = groups. Each invocation does 96 multiply-adds in each of p.steps.
// Workgroup memory: none.
// Numerics: chain c of invocation i starts at i + c; with factor 1 and summand 0 it stays there, so the result is known.
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
    let a = seed[0];
    let b = seed[1];
    let i = group.x * WG + lane;
    let first = f32(i);
    var s0 = first + 0.0;
    var s1 = first + 1.0;
    var s2 = first + 2.0;
    var s3 = first + 3.0;
    var s4 = first + 4.0;
    var s5 = first + 5.0;
    var s6 = first + 6.0;
    var s7 = first + 7.0;
    var s8 = first + 8.0;
    var s9 = first + 9.0;
    var s10 = first + 10.0;
    var s11 = first + 11.0;
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
    out[i] = s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7 + s8 + s9 + s10 + s11;
}
