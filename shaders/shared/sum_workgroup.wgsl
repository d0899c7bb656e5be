// Sums over a workgroup of WG invocations (a power of two) through workgroup memory: 16 * WG bytes.
// Every invocation must call it, in uniform control flow; all get the result.
override WG: u32 = 64u;

var<workgroup> partials: array<vec4<f32>, WG>;

fn total(value: vec4<f32>, lane: u32) -> vec4<f32> {
    partials[lane] = value;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if lane < half {
            partials[lane] += partials[lane + half];
        }
        workgroupBarrier();
    }
    let sum = partials[0];
    workgroupBarrier();
    return sum;
}
