// LayerNorm: y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, biased variance   (CENTER = true)
// RMSNorm:   y = x / sqrt(mean(x²) + eps) * weight                                    (CENTER = false)
//
// x      [rows, d] f32
// weight [d]       f32
// bias   [d]       f32; bound to weight and not read when CENTER is false
// y      [rows, d] f32, or f16 as shared/halves.wgsl says with HALVED, two to an element; d % 2 == 0 then
//
// Grid: x = rows, one workgroup each.
// Workgroup memory: 4 * WG bytes (shared/reduce.wgsl).
// Numerics: mean first, then the centred squares, both in f32: no cancellation.
// Why: a row is a few KiB and stays in the first-level cache over the three passes.
struct Params {
    d: u32,
    x_offset: u32,
    y_offset: u32,
    eps: f32,
}

override CENTER: bool = true;
override HALVED: bool = false;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<u32>;
@group(0) @binding(4) var<uniform> p: Params;

// Element i of a row that begins at `start`, of this mean and scale.
fn normed(start: u32, i: u32, mean: f32, scale: f32) -> f32 {
    let value = (x[start + i] - mean) * scale * weight[i];
    if CENTER {
        return value + bias[i];
    }
    return value;
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let start = p.x_offset + group.x * p.d;
    let to = p.y_offset + group.x * p.d;
    var mean = 0.0;
    if CENTER {
        var sum = 0.0;
        for (var i = lane; i < p.d; i += WG) {
            sum += x[start + i];
        }
        mean = workgroup_sum(sum, lane) / f32(p.d);
    }
    var squares = 0.0;
    for (var i = lane; i < p.d; i += WG) {
        let centred = x[start + i] - mean;
        squares += centred * centred;
    }
    let scale = inverseSqrt(workgroup_sum(squares, lane) / f32(p.d) + p.eps);
    if HALVED {
        for (var i = 2u * lane; i < p.d; i += 2u * WG) {
            let pair = vec2<f32>(normed(start, i, mean, scale), normed(start, i + 1u, mean, scale));
            y[(to + i) / 2u] = to_halves(pair);
        }
        return;
    }
    for (var i = lane; i < p.d; i += WG) {
        y[to + i] = bitcast<u32>(normed(start, i, mean, scale));
    }
}
