// What an adapter can read at most: sums of a large tensor, so that almost nothing is written.
//
// x    [32 * WG * groups] f32, declared in shared/stream.wgsl or stream_wide.wgsl
// out  [WG * groups] f32: the sum of what an invocation read
//
// Grid: x = groups; each invocation reads 4 * 32 bytes, its workgroup's together in order.
// Workgroup memory: none.
// Limits: x holds 32 * WG values for each group.
// Numerics: f32.
// Why: four independent loads of 32 bytes an invocation keep memory busy; neighbours read neighbouring bytes.
struct Params {
    groups: u32,
}

override WG: u32 = 64u;

@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = id.x + id.y * count.x;
    if group >= p.groups {
        return;
    }
    let at = group * 4u * WG + lane;
    let sums = (fours(at) + fours(at + WG)) + (fours(at + 2u * WG) + fours(at + 3u * WG));
    out[group * WG + lane] = dot(sums, vec4<f32>(1.0));
}
