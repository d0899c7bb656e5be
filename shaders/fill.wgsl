// Synthetic weights, from a hash of i and the seed: out[i] = two f16 uniform in (-range, range); or the bits of the
// hash, which are integers of any width; or the f16 range and second, for scales. WORDS says which: 0, 1, 2.
//
// out [words] u32
//
// Grid: x, y = groups of 64 words, folded.
// Workgroup memory: none.
// Why: benchmarks of any model shape need weights that are not all equal, and no files.
struct Params {
    words: u32,
    seed: u32,
    range: f32,
    second: f32,
}

override WORDS: u32 = 0u;

@group(0) @binding(0) var<storage, read_write> out: array<u32>;
@group(0) @binding(1) var<uniform> p: Params;

// The finaliser of MurmurHash3.
fn hash(value: u32) -> u32 {
    var h = value;
    h = (h ^ (h >> 16u)) * 0x85ebca6bu;
    h = (h ^ (h >> 13u)) * 0xc2b2ae35u;
    return h ^ (h >> 16u);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (group.x + group.y * groups.x) * 64u + lane;
    if i >= p.words {
        return;
    }
    let bits = hash(i ^ hash(p.seed));
    let unit = vec2<f32>(f32(bits & 0xffffu), f32(bits >> 16u)) / 32768.0 - 1.0;
    switch WORDS {
        case 1u: { out[i] = bits; }
        case 2u: { out[i] = pack2x16float(vec2<f32>(p.range, p.second)); }
        default: { out[i] = pack2x16float(unit * p.range); }
    }
}
