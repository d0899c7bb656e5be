// From sums to outputs, in linear_matrix.
//
// One matrix of every block at a time passes through workgroup memory, since only whole matrices can be moved. Lanes
// that follow each other make outputs of the same block, each four of WIDTH sums that lie side by side.
override WIDTH: u32 = select(4u, 8u, GATED);
override LANES: u32 = WG / BLOCKS;          // that make the outputs of a block
override UNITS: u32 = EDGE * EDGE / WIDTH;  // of WIDTH sums in a matrix
override UNIT_TRIPS: u32 = (UNITS + LANES - 1u) / LANES;
override STAGED: u32 = BLOCKS * EDGE * EDGE;

const FOURS: u32 = EDGE * EDGE / 4u;        // of sums in a matrix

var<workgroup> staged: array<f32, STAGED>;

fn put4(row: u32, column: u32, values: vec4<f32>) {
    let at = p.y_offset + row * p.y_stride + column;
    if HALVED {
        y[at / 4u] = vec2<u32>(to_halves(values.xy), to_halves(values.zw));
        return;
    }
    var sum = values;
    if ADD {
        sum += bitcast<vec4<f32>>(vec4<u32>(y[at / 2u], y[at / 2u + 1u]));
    }
    let words = bitcast<vec4<u32>>(sum);
    y[at / 2u] = words.xy;
    y[at / 2u + 1u] = words.zw;
}

// Makes outputs of the sums of row `row` and columns n .. n + WIDTH of this part of w.
fn finish(row: u32, n: u32, low: vec4<f32>, high: vec4<f32>) {
    var v = low / HALF_SCALE;
    var more = high / HALF_SCALE;
    if BIAS {
        // Not only where it is wanted: each lane has few columns, and compilers see then that it reads them once.
        let at = (p.column0 + min(n, p.n - WIDTH)) / 4u;
        v += bias[at];
        if GATED {
            more += bias[at + 1u];
        }
    }
    if row >= p.m || n >= p.n {
        return;
    }
    if GATED {
        let gates = vec4<f32>(activate(v.x), activate(v.z), activate(more.x), activate(more.z));
        put4(row, (p.column0 + n) / 2u, gates * vec4<f32>(v.yw, more.yw));
    } else {
        put4(row, p.column0 + n, vec4<f32>(activate(v.x), activate(v.y), activate(v.z), activate(v.w)));
    }
}

// Finishes the sums of unit `unit` of matrix `matrix` of a lane's block, which begins at the tile's row m0 and column n0.
fn finish_unit(m0: u32, n0: u32, matrix: u32, unit: u32, low: vec4<f32>, high: vec4<f32>) {
    let row = m0 + matrix / MATRICES * EDGE + unit / (EDGE / WIDTH);
    let n = n0 + matrix % MATRICES * EDGE + unit % (EDGE / WIDTH) * WIDTH;
    finish(row, n, low, high);
}

fn staged4(at: u32) -> vec4<f32> {
    return vec4<f32>(staged[at], staged[at + 1u], staged[at + 2u], staged[at + 3u]);
}

// Where the sums of matrix `matrix` of a block begin in a share: first those that come first in fours, then the second.
fn share_at(tile: u32, share: u32, matrix: u32, block: u32) -> u32 {
    return ((tile * SPLITS + share) * (STRIPS * MATRICES * BLOCKS) + matrix * BLOCKS + block) * (EDGE * EDGE);
}

fn put_share(at: u32, sums: vec4<f32>) {
    let words = bitcast<vec4<u32>>(sums);
    atomicStore(&shares[at], words.x);
    atomicStore(&shares[at + FOURS], words.y);
    atomicStore(&shares[at + 2u * FOURS], words.z);
    atomicStore(&shares[at + 3u * FOURS], words.w);
}

fn share4(at: u32) -> vec4<f32> {
    let first = vec2<u32>(atomicLoad(&shares[at]), atomicLoad(&shares[at + FOURS]));
    let second = vec2<u32>(atomicLoad(&shares[at + 2u * FOURS]), atomicLoad(&shares[at + 3u * FOURS]));
    return bitcast<vec4<f32>>(vec4<u32>(first, second));
}

struct Place {
    m0: u32,        // the first row and column of the block that a lane makes outputs of
    n0: u32,
    tile: u32,
    share: u32,
    block: u32,     // that it makes outputs of
    lane: u32,      // among those that do
}

// Hands on what is staged: matrix `matrix` of every block.
fn hand_on(place: Place, matrix: u32) {
    workgroupBarrier();
    let first = place.block * EDGE * EDGE;
    if SPLITS > 1u {
        let to = share_at(place.tile, place.share, matrix, place.block);
        for (var i = 0u; i < UNIT_TRIPS; i++) {
            let unit = place.lane + i * LANES;
            if UNITS % LANES == 0u || unit < UNITS {
                let quad = unit * (WIDTH / 4u);
                put_share(to + quad, staged4(first + 4u * quad));
                if GATED {
                    put_share(to + quad + 1u, staged4(first + 4u * quad + 4u));
                }
            }
        }
    } else {
        for (var i = 0u; i < UNIT_TRIPS; i++) {
            let unit = place.lane + i * LANES;
            if UNITS % LANES == 0u || unit < UNITS {
                let at = first + unit * WIDTH;
                finish_unit(place.m0, place.n0, matrix, unit, staged4(at), staged4(at + WIDTH - 4u));
            }
        }
    }
    workgroupBarrier();
}

// The last workgroup of a tile adds up what all have made.
fn join(place: Place, is_first: bool) {
    storageBarrier();
    if is_first {
        staged[0] = f32(atomicAdd(&arrivals[place.tile], 1u));
    }
    if workgroupUniformLoad(&staged[0]) != f32(SPLITS - 1u) {
        return;
    }
    storageBarrier();
    for (var matrix = 0u; matrix < STRIPS * MATRICES; matrix++) {
        for (var unit = place.lane; unit < UNITS; unit += LANES) {
            var low = vec4<f32>();
            var high = vec4<f32>();
            for (var share = 0u; share < SPLITS; share++) {
                let at = share_at(place.tile, share, matrix, place.block) + unit * (WIDTH / 4u);
                low += share4(at);
                if GATED {
                    high += share4(at + 1u);
                }
            }
            finish_unit(place.m0, place.n0, matrix, unit, low, high);
        }
    }
    if is_first {
        atomicStore(&arrivals[place.tile], 0u);
    }
}
