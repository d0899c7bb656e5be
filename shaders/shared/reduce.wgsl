// Reductions over a workgroup of WG invocations (a power of two) through workgroup memory: WG * 4 bytes.
// Every invocation must call them, in uniform control flow; all get the result.
override WG: u32 = 64u;

var<workgroup> reduction: array<f32, WG>;

fn workgroup_sum(value: f32, lane: u32) -> f32 {
    reduction[lane] = value;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if lane < half {
            reduction[lane] += reduction[lane + half];
        }
        workgroupBarrier();
    }
    let total = reduction[0];
    workgroupBarrier();
    return total;
}

fn workgroup_max(value: f32, lane: u32) -> f32 {
    reduction[lane] = value;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if lane < half {
            reduction[lane] = max(reduction[lane], reduction[lane + half]);
        }
        workgroupBarrier();
    }
    let largest = reduction[0];
    workgroupBarrier();
    return largest;
}
