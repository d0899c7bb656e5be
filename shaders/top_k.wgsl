// out[r] = the k largest values of x[r] with their columns, the largest first.
//
// x   [rows, n]    f32, read as bits
// out [rows, k, 2] u32: the value's bits and its column
//
// Grid: x = rows, one workgroup each.
// Workgroup memory: 2056 bytes.
// Limits: 0 < k <= 256 and k <= n.
// Numerics: comparisons only, in the order of f32::total_cmp; of equals the lower column comes first. Every NaN counts as
// larger than all numbers and comes out as a NaN, so that who looks at the first value knows whether there is one.
// Why: of 256 groups' maxima the k-th largest is no more than the row's k-th largest, and few values reach it (about 75
// for k = 64 if they lie anyhow). So two passes over the row and a handful of barriers do; sorting pieces of the row
// and merging them takes fifty barriers a piece. Where more than 256 values reach the bound it is raised by halving,
// with a pass each time; where all of them are equal, columns are halved. 256 lanes on software adapters, too: llvmpipe
// ends a shader's loops after 65,535 turns in all, which fewer lanes need for rows of equals (these up to n = 300,000).
struct Params {
    n: u32,
    k: u32,
    x_offset: u32,
}

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<vec2<u32>>;
@group(0) @binding(2) var<uniform> p: Params;

// Lanes, groups of the row, and most values that are gathered.
const LANES: u32 = 256u;

// Of the groups' maxima first, of what was gathered afterwards.
var<workgroup> keys: array<u32, LANES>;
var<workgroup> columns: array<u32, LANES>;
var<workgroup> gathered: atomic<u32>;
// What one lane tells all.
var<workgroup> told: u32;

// The value at `i` as a number that is ordered like it. None is 0.
fn key_at(i: u32) -> u32 {
    let bits = x[i];
    let key = select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
    return select(key, 0xffffffffu, (bits & 0x7fffffffu) > 0x7f800000u);
}

fn bits_of(key: u32) -> u32 {
    return select(~key, key & 0x7fffffffu, key >= 0x80000000u);
}

// How many of the first `count` come before entry `i`.
fn rank(i: u32, count: u32) -> u32 {
    let key = keys[i];
    let column = columns[i];
    var before = 0u;
    for (var j = 0u; j < count; j++) {
        let other = keys[j];
        before += u32(other > key || (other == key && columns[j] < column));
    }
    return before;
}

// Gathers what is larger than `least`, and its equals left of column `end`. Gives how many there are, also if they are
// too many to keep.
fn gather(lane: u32, start: u32, least: u32, end: u32) -> u32 {
    if lane == 0u {
        atomicStore(&gathered, 0u);
    }
    workgroupBarrier();
    for (var i = lane; i < p.n; i += LANES) {
        let key = key_at(start + i);
        if key > least || (key == least && i < end) {
            let place = atomicAdd(&gathered, 1u);
            if place < LANES {
                keys[place] = key;
                columns[place] = i;
            }
        }
    }
    workgroupBarrier();
    if lane == 0u {
        told = atomicLoad(&gathered);
    }
    return workgroupUniformLoad(&told);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let start = p.x_offset + group.x * p.n;
    var largest = 0u;
    for (var i = lane; i < p.n; i += LANES) {
        largest = max(largest, key_at(start + i));
    }
    keys[lane] = largest;
    columns[lane] = lane;
    workgroupBarrier();
    if rank(lane, LANES) == p.k - 1u {
        told = largest;
    }
    // At least k values are no smaller than `low`, fewer than k are larger than `high`.
    var low = workgroupUniformLoad(&told);
    var high = 0xffffffffu;
    // Among equals of `low` once that is `high`: too few are left of `first`, too many left of `last`.
    var first = 0u;
    var last = p.n;
    var least = low;
    var end = p.n;
    var count = gather(lane, start, least, end);
    while count < p.k || count > LANES {
        let too_many = count > LANES;
        if low < high {
            low = select(low, least, too_many);
            high = select(least - 1u, high, too_many);
            least = high - (high - low) / 2u;
        } else {
            first = select(end, first, too_many);
            last = select(last, end, too_many);
        }
        if low == high {
            end = first + (last - first) / 2u;
        }
        count = gather(lane, start, least, end);
    }
    if lane < count {
        let place = rank(lane, count);
        if place < p.k {
            out[group.x * p.k + place] = vec2<u32>(bits_of(keys[lane]), columns[lane]);
        }
    }
}
