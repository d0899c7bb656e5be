// out[h] = Σ_i exp(m_i - m) a_i / Σ_i exp(m_i - m) l_i with m = max_i m_i, over the shares of attention_decode.
//
// partials [R, H, SPLITS, d + 2] f32: a_i, then m_i and l_i
// out      [R, H, d]             f32
//
// Grid: x = query heads, y = rows; 64 invocations walk the channels.
// Workgroup memory: none.
// Numerics: f32. Shares without keys have l_i = 0 and m_i = -1e30 and add nothing.
struct Params {
    d: u32,
    splits: u32,
}

@group(0) @binding(0) var<storage, read> partials: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group.y * groups.x + group.x;
    let width = p.d + 2u;
    let start = index * p.splits * width;
    var largest = -1e30;
    for (var i = 0u; i < p.splits; i++) {
        largest = max(largest, partials[start + i * width + p.d]);
    }
    var total = 0.0;
    for (var i = 0u; i < p.splits; i++) {
        let share = start + i * width + p.d;
        total += exp(partials[share] - largest) * partials[share + 1u];
    }
    for (var d = lane; d < p.d; d += 64u) {
        var sum = 0.0;
        for (var i = 0u; i < p.splits; i++) {
            let share = start + i * width;
            sum += exp(partials[share + p.d] - largest) * partials[share + d];
        }
        out[index * p.d + d] = sum / total;
    }
}
