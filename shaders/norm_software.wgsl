// LayerNorm (CENTER = true) and RMSNorm as norm.wgsl has them, for software adapters with subgroups of exactly 8.
//
// x      [rows, d] f32
// weight [d]       f32
// bias   [d]       f32; bound to weight and not read when CENTER is false
// y      [rows, d] f32
//
// Grid: x = rows, one workgroup each, which is one subgroup of 8.
// Workgroup memory: none.
// Limits: d and both offsets are multiples of 8.
// Numerics: mean first, then the centred squares, both in f32: no cancellation.
// Why: there a barrier costs more than a row's arithmetic, and a load is a loop over lanes, of whatever size.
struct Params {
    d: u32,
    x_offset: u32,
    y_offset: u32,
    eps: f32,
}

override CENTER: bool = true;

@group(0) @binding(0) var<storage, read> x: array<vec4<u64>>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<u64>>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<u64>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<u64>>;
@group(0) @binding(4) var<uniform> p: Params;

fn sum_of(v: vec4<f32>) -> f32 {
    return v.x + v.y + v.z + v.w;
}

fn packed(low: vec4<f32>, high: vec4<f32>) -> vec4<u64> {
    let even = bitcast<vec4<u32>>(vec4<f32>(low.xz, high.xz));
    let odd = bitcast<vec4<u32>>(vec4<f32>(low.yw, high.yw));
    return vec4<u64>(even) | (vec4<u64>(odd) << vec4<u32>(32u));
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let eights = p.d / 8u;
    let start = p.x_offset / 8u + group.x * eights;
    let to = p.y_offset / 8u + group.x * eights;
    var mean = 0.0;
    if CENTER {
        var sum = 0.0;
        for (var i = lane; i < eights; i += 8u) {
            let v = eight_of(x[start + i]);
            sum += sum_of(v.low) + sum_of(v.high);
        }
        mean = subgroupAdd(sum) / f32(p.d);
    }
    var squares = 0.0;
    for (var i = lane; i < eights; i += 8u) {
        let v = eight_of(x[start + i]);
        let low = v.low - mean;
        let high = v.high - mean;
        squares += dot(low, low) + dot(high, high);
    }
    let scale = inverseSqrt(subgroupAdd(squares) / f32(p.d) + p.eps);
    for (var i = lane; i < eights; i += 8u) {
        let v = eight_of(x[start + i]);
        let gain = eight_of(weight[i]);
        var low = (v.low - mean) * scale * gain.low;
        var high = (v.high - mean) * scale * gain.high;
        if CENTER {
            let shift = eight_of(bias[i]);
            low += shift.low;
            high += shift.high;
        }
        y[to + i] = packed(low, high);
    }
}
