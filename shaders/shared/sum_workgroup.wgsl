// The entry point of linear_vec, and sums over its workgroup of WG invocations (a power of two) through workgroup
// memory: 16 * WG bytes, and 16 for each sum.
override WG: u32 = 64u;
override SHARES: u32 = 65u;   // WG and one for each sum

struct Place {
    lane: u32,
}

var<workgroup> shares: array<vec4<f32>, SHARES>;

// Every invocation must call it for each sum, in uniform control flow, and wait at a barrier before it calls `sum`.
fn add_up(i: u32, value: vec4<f32>, place: Place) {
    workgroupBarrier();
    shares[place.lane] = value;
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if place.lane < half {
            shares[place.lane] += shares[place.lane + half];
        }
    }
    if place.lane == 0u {
        shares[WG + i] = shares[0];
    }
}

fn sum(i: u32, place: Place) -> vec4<f32> {
    return shares[WG + i];
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    vectors(group, Place(lane));
}
