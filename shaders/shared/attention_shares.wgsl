// The end of attention_decode where SPLITS workgroups share the keys of a row and head: the last of them joins what all have
// left. Compiled with that kernel's own QUADS, Params and workgroup memory.
//
// out      behind the result [R, H, SPLITS, d + 4] f32: Σ weight * v, then the largest score, Σ weight and two zeros
// arrivals [R * H] u32: workgroups that have left their share; zeros before, and after
//
// Limits: SPLITS <= 64.
// Numerics: shares are added in their order, whichever was the last, so that results are the same each time.
// Why: a second dispatch costs more than the joining. Nobody waits for anybody: a workgroup that is not the last ends.
// What one has written before its first storageBarrier, the last one sees after its second: `out` is coherent.
override SPLITS: u32 = 4u;

@group(0) @binding(7) @coherent var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> arrivals: array<atomic<u32>>;
@group(0) @binding(9) var<uniform> p: Params;

var<workgroup> arrived: u32;

// Lane l < QUADS has quad l of Σ weight * v; all have the largest score and Σ weight.
fn finish(index: u32, groups: vec3<u32>, split: u32, lane: u32, sum: vec4<f32>, largest: f32, total: f32) {
    let width = QUADS + 1u;
    let first = groups.x * groups.z * QUADS + index * SPLITS * width;
    if lane < QUADS {
        out[first + split * width + lane] = sum;
    }
    if lane == 0u {
        out[first + split * width + QUADS] = vec4<f32>(largest, total, 0.0, 0.0);
    }
    storageBarrier();
    if lane == 0u {
        arrived = atomicAdd(&arrivals[index], 1u) + 1u;
    }
    if workgroupUniformLoad(&arrived) < SPLITS {
        return;
    }
    storageBarrier();
    let last = SPLITS - 1u;
    parts[lane] = out[first + min(lane, last) * width + QUADS];
    workgroupBarrier();
    var most = parts[0].x;
    for (var i = 1u; i < SPLITS; i++) {
        most = max(most, parts[i].x);
    }
    if lane < QUADS {
        var all = 0.0;
        var joined = vec4<f32>();
        // Four at a time, to have their loads in flight together; those past the end repeat the last and weigh nothing.
        for (var i = 0u; i < SPLITS; i += 4u) {
            let share = min(i + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last));
            let at = first + lane + share * width;
            let a = out[at.x];
            let b = out[at.y];
            let c = out[at.z];
            let d = out[at.w];
            let each = vec4<f32>(parts[share.x].x, parts[share.y].x, parts[share.z].x, parts[share.w].x);
            let there = i + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(SPLITS);
            let w = select(vec4<f32>(), exp(each - most), there);
            joined += w.x * a + w.y * b + w.z * c + w.w * d;
            all += dot(w, vec4<f32>(parts[share.x].y, parts[share.y].y, parts[share.z].y, parts[share.w].y));
        }
        out[index * QUADS + lane] = select(joined / all, vec4<f32>(), all == 0.0);
    }
    if lane == 0u {
        atomicStore(&arrivals[index], 0u);
    }
}
