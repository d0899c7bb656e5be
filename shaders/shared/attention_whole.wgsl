// The end of attention_decode where a workgroup takes all keys of its row and head. Compiled with that kernel's own QUADS
// and Params.
const SPLITS: u32 = 1u;

@group(0) @binding(7) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(8) var<uniform> p: Params;

// Lane l < QUADS has quad l of Σ weight * v; all have Σ weight.
fn finish(index: u32, groups: vec3<u32>, split: u32, lane: u32, sum: vec4<f32>, largest: f32, total: f32) {
    if lane < QUADS {
        out[index * QUADS + lane] = select(sum / total, vec4<f32>(), total == 0.0);
    }
}
