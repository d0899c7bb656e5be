// The entry point of linear_vec, and sums over its workgroup of WG invocations by subgroups of any size from 4 on: each
// adds up its own, and its first invocation leaves the result in workgroup memory, 4 * WG bytes for each sum. One
// barrier, however many sums there are.
override WG: u32 = 128u;
override SHARES: u32 = 32u;   // WG / 4 for each sum

struct Place {
    lane: u32,
    subgroup: u32,
    subgroups: u32,
    is_first: bool,
}

var<workgroup> shares: array<vec4<f32>, SHARES>;

// Every invocation must call it for each sum, in uniform control flow, and wait at a barrier before it calls `sum`.
fn add_up(i: u32, value: vec4<f32>, place: Place) {
    let share = subgroupAdd(value);
    if place.is_first {
        shares[i * (WG / 4u) + place.subgroup] = share;
    }
}

fn sum(i: u32, place: Place) -> vec4<f32> {
    var sum = shares[i * (WG / 4u)];
    for (var s = 1u; s < place.subgroups; s++) {
        sum += shares[i * (WG / 4u) + s];
    }
    return sum;
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) lane_in_subgroup: u32,
) {
    vectors(group, Place(lane, subgroup, subgroups, lane_in_subgroup == 0u));
}
