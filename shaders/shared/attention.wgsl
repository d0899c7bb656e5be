// What the attention kernels for GPUs share: the bias by distance, and the score of a key that is not seen. Compiled with
// a kernel's own `p` and `bias`.
override BIAS: bool = false;

const HIDDEN: f32 = -1e30;

fn bias_of(distance: vec4<i32>, head: u32) -> vec4<f32> {
    let far = vec4<i32>(i32(p.far));
    let i = vec4<u32>(clamp(distance, -far, far) + far) * p.heads + head;
    return vec4<f32>(bias[i.x], bias[i.y], bias[i.z], bias[i.w]);
}
