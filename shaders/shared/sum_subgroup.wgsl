// Sums over a workgroup that is one subgroup of exactly WG lanes: no barriers and no workgroup memory.
override WG: u32 = 32u;

fn total(value: vec4<f32>, lane: u32) -> vec4<f32> {
    return subgroupAdd(value);
}
