// out[h] = Σ_i exp(m_i - m) a_i / Σ_i exp(m_i - m) l_i with m = max_i m_i, over the shares of attention_decode.
//
// partials [R, H, splits, d + 4] f32: a_i, then m_i, l_i and two zeros
// out      [R, H, d]             f32
//
// Grid: x = query heads, y = rows; 64 invocations, one for 4 channels.
// Workgroup memory: 768 bytes.
// Limits: d <= 256 and a multiple of 4; splits <= 64.
// Numerics: f32. Shares without keys have l_i = 0 and m_i = -1e30 and add nothing; a row without any gives zeros.
// Why: loads that wait for each other are all the time it takes. Each invocation loads one share's m_i and l_i, all of
// them at once, and then four shares' values at a time.
struct Params {
    d: u32,
    splits: u32,
}

@group(0) @binding(0) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> p: Params;

const SHARES: u32 = 64u;

var<workgroup> largest: array<f32, SHARES>;
var<workgroup> totals: array<f32, SHARES>;
var<workgroup> weights: array<f32, SHARES>;

@compute @workgroup_size(SHARES)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group.y * groups.x + group.x;
    let quads = p.d / 4u;
    let width = quads + 1u;
    let start = index * p.splits * width;
    let last = p.splits - 1u;
    let mine = partials[start + min(lane, last) * width + quads];
    largest[lane] = mine.x;
    workgroupBarrier();
    var most = largest[0];
    for (var i = 1u; i < p.splits; i++) {
        most = max(most, largest[i]);
    }
    // Shares there are not repeat the last and weigh nothing.
    let weight = select(0.0, exp(mine.x - most), lane < p.splits);
    weights[lane] = weight;
    totals[lane] = weight * mine.y;
    workgroupBarrier();
    if lane >= quads {
        return;
    }
    var total = 0.0;
    var sum = vec4<f32>();
    for (var i = 0u; i < p.splits; i += 4u) {
        let share = start + lane + min(i + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last)) * width;
        let a = partials[share.x];
        let b = partials[share.y];
        let c = partials[share.z];
        let d = partials[share.w];
        sum += weights[i] * a + weights[i + 1u] * b + weights[i + 2u] * c + weights[i + 3u] * d;
        total += totals[i] + totals[i + 1u] + totals[i + 2u] + totals[i + 3u];
    }
    out[index * quads + lane] = select(sum / total, vec4<f32>(), total == 0.0);
}
