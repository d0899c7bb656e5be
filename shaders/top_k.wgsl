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
// with a pass each time; where all of them are equal, columns are halved. In a pass each lane asks for eight values before
// it looks at one; all take the same turns, so that a branch lies between what is loaded and its use. 256 lanes on software
// adapters, too: llvmpipe ends a shader's loops after 65,535 turns in all, which fewer lanes need for rows of equals.
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

// Columns i, i + LANES and so on of a row. The last one is read for those past the end.
fn columns_of(i: u32) -> vec4<u32> {
    return i + LANES * vec4<u32>(0u, 1u, 2u, 3u);
}

fn four_at(start: u32, i: u32) -> vec4<u32> {
    let at = start + min(columns_of(i), vec4<u32>(p.n - 1u));
    return vec4<u32>(x[at.x], x[at.y], x[at.z], x[at.w]);
}

// These values as numbers that are ordered like them. Past the end of the row there is none, which is 0.
fn keys_of(bits: vec4<u32>, i: u32) -> vec4<u32> {
    let numbers = select(bits | vec4<u32>(0x80000000u), ~bits, bits >= vec4<u32>(0x80000000u));
    let is_nan = (bits & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
    let keys = select(numbers, vec4<u32>(0xffffffffu), is_nan);
    return select(vec4<u32>(), keys, columns_of(i) < vec4<u32>(p.n));
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

// Keeps the key of column i if it is larger than `least`, or its equal left of column `end`.
fn keep(key: u32, i: u32, least: u32, end: u32) {
    if key > least || (key == least && i < end) {
        let place = atomicAdd(&gathered, 1u);
        if place < LANES {
            keys[place] = key;
            columns[place] = i;
        }
    }
}

fn keep_four(bits: vec4<u32>, i: u32, least: u32, end: u32) {
    let keys = keys_of(bits, i);
    keep(keys.x, i, least, end);
    keep(keys.y, i + LANES, least, end);
    keep(keys.z, i + 2u * LANES, least, end);
    keep(keys.w, i + 3u * LANES, least, end);
}

// Gathers what is larger than `least`, and its equals left of column `end`. Gives how many there are, also if they are
// too many to keep.
fn gather(lane: u32, start: u32, least: u32, end: u32) -> u32 {
    if lane == 0u {
        atomicStore(&gathered, 0u);
    }
    workgroupBarrier();
    for (var turn = start; turn < start + p.n; turn += 8u * LANES) {
        let i = turn - start + lane;
        let low = four_at(start, i);
        let high = four_at(start, i + 4u * LANES);
        if i < p.n {
            keep_four(low, i, least, end);
            keep_four(high, i + 4u * LANES, least, end);
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
    var four = vec4<u32>();
    for (var turn = start; turn < start + p.n; turn += 8u * LANES) {
        let i = turn - start + lane;
        let low = four_at(start, i);
        let high = four_at(start, i + 4u * LANES);
        if i < p.n {
            four = max(four, max(keys_of(low, i), keys_of(high, i + 4u * LANES)));
        }
    }
    let largest = max(max(four.x, four.y), max(four.z, four.w));
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
