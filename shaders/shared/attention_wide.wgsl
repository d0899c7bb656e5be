// What the attention kernels for software adapters share, after wide.wgsl. HEAD_DIM is a multiple of 8, and lane l of 8
// owns channels 8l .. 8l + 8 of every 64. Compiled with a kernel's own `p` and `bias`.
override HEAD_DIM: u32 = 64u;
override BIAS: bool = false;

const HIDDEN: f32 = -1e30;

// The bias of four keys, by how far each is from the row.
fn bias_of(distance: vec4<i32>, head: u32) -> vec4<f32> {
    let far = vec4<i32>(i32(p.far));
    let i = vec4<u32>(clamp(distance, -far, far) + far) * p.heads + head;
    return vec4<f32>(bias[i.x], bias[i.y], bias[i.z], bias[i.w]);
}

fn scaled(a: Eight, factor: f32) -> Eight {
    return Eight(a.low * factor, a.high * factor);
}

// Channels 8l .. 8l + 8 of what lane l = `lane` has.
fn from_lane(a: Eight, lane: u32) -> Eight {
    return Eight(subgroupShuffle(a.low, lane), subgroupShuffle(a.high, lane));
}

fn dots(a: Eight, k0: Eight, k1: Eight, k2: Eight, k3: Eight) -> vec4<f32> {
    return vec4<f32>(dot(a.low, k0.low), dot(a.low, k1.low), dot(a.low, k2.low), dot(a.low, k3.low))
        + vec4<f32>(dot(a.high, k0.high), dot(a.high, k1.high), dot(a.high, k2.high), dot(a.high, k3.high));
}

// Σ w[i] * v_i, on top of a sum.
fn weighed(sum: Eight, w: vec4<f32>, v0: Eight, v1: Eight, v2: Eight, v3: Eight) -> Eight {
    return Eight(
        sum.low + w.x * v0.low + w.y * v1.low + w.z * v2.low + w.w * v3.low,
        sum.high + w.x * v0.high + w.y * v1.high + w.z * v2.high + w.w * v3.high,
    );
}

fn largest_of(v: vec4<f32>) -> f32 {
    return subgroupMax(max(max(v.x, v.y), max(v.z, v.w)));
}

fn sum_of(v: vec4<f32>) -> f32 {
    return subgroupAdd(v.x + v.y + v.z + v.w);
}

fn packed(a: Eight) -> vec4<u64> {
    let even = bitcast<vec4<u32>>(vec4<f32>(a.low.xz, a.high.xz));
    let odd = bitcast<vec4<u32>>(vec4<f32>(a.low.yw, a.high.yw));
    return vec4<u64>(even) | (vec4<u64>(odd) << vec4<u32>(32u));
}
