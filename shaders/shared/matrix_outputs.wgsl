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

// Gives the sum of what it puts and of the squares, with AHEAD.
fn put4(row: u32, column: u32, values: vec4<f32>) -> vec2<f32> {
    let at = p.y_offset + row * p.y_stride + column;
    if HALVED {
        y[at / 4u] = vec2<u32>(to_halves(values.xy), to_halves(values.zw));
        return vec2<f32>();
    }
    var sum = values;
    if ADD {
        sum += bitcast<vec4<f32>>(vec4<u32>(y[at / 2u], y[at / 2u + 1u]));
    }
    let words = bitcast<vec4<u32>>(sum);
    y[at / 2u] = words.xy;
    y[at / 2u + 1u] = words.zw;
    if !AHEAD {
        return vec2<f32>();
    }
    let gained = norm[column / 4u] * sum;
    ahead[(row * p.y_stride + column) / 4u] = vec2<u32>(to_halves(gained.xy), to_halves(gained.zw));
    return vec2<f32>(dot(sum, vec4<f32>(1.0)), dot(sum, sum));
}

// Makes outputs of the sums of row `row` and columns n .. n + WIDTH of this part of w, and gives what put4 does.
fn finish(row: u32, n: u32, low: vec4<f32>, high: vec4<f32>) -> vec2<f32> {
    var v = low / HALF_SCALE;
    var more = high / HALF_SCALE;
    if BIAS {
        // Not only where it is wanted: each lane has few columns, and compilers see then that it reads them once.
        let at = (p.column0 + min(n, p.n - WIDTH)) / 4u;
        if NORMED {
            // Mean and scale of the row lie behind all of x.
            let moments = norm[p.m * p.k / 8u + min(row, p.m - 1u)];
            v = (v - moments.x * bias[p.y_stride / 4u + at]) * moments.y;
        }
        v += bias[at];
        if GATED {
            more += bias[at + 1u];
        }
    }
    if row >= p.m || n >= p.n {
        return vec2<f32>();
    }
    if GATED {
        let gates = vec4<f32>(activate(v.x), activate(v.z), activate(more.x), activate(more.z));
        return put4(row, (p.column0 + n) / 2u, gates * vec4<f32>(v.yw, more.yw));
    }
    return put4(row, p.column0 + n, vec4<f32>(activate(v.x), activate(v.y), activate(v.z), activate(v.w)));
}

struct Place {
    m0: u32,        // the first row and column of the block that a lane makes outputs of
    n0: u32,
    tile: u32,      // of all `tiles`
    tiles: u32,
    share: u32,
    block: u32,     // that it makes outputs of
    lane: u32,      // among those that do
}

// Finishes the sums of unit `unit` of matrix `matrix` of a lane's block. With AHEAD it leaves what `finish` gives where
// only this lane reads.
fn finish_unit(place: Place, matrix: u32, unit: u32, low: vec4<f32>, high: vec4<f32>) {
    let row = place.m0 + matrix / MATRICES * EDGE + unit / (EDGE / WIDTH);
    let n = place.n0 + matrix % MATRICES * EDGE + unit % (EDGE / WIDTH) * WIDTH;
    let sums = finish(row, n, low, high);
    if AHEAD {
        let at = place.block * EDGE * EDGE + unit * WIDTH;
        staged[at] = sums.x;
        staged[at + 1u] = sums.y;
    }
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
                finish_unit(place, matrix, unit, staged4(at), staged4(at + WIDTH - 4u));
            }
        }
    }
    workgroupBarrier();
    if AHEAD && SPLITS == 1u {
        add_rows(place, matrix);
    }
}

// Says whether all but this one of `count` workgroups have come here before.
fn is_last(counter: u32, count: u32, lane: u32) -> bool {
    storageBarrier();
    if lane == 0u {
        staged[0] = f32(atomicAdd(&arrivals[counter], 1u));
    }
    if workgroupUniformLoad(&staged[0]) != f32(count - 1u) {
        return false;
    }
    storageBarrier();
    if lane == 0u {
        atomicStore(&arrivals[counter], 0u);
    }
    return true;
}

// The last workgroup of a tile adds up what all have made.
fn join(place: Place) {
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
            finish_unit(place, matrix, unit, low, high);
        }
        if AHEAD {
            workgroupBarrier();
            add_rows(place, matrix);
        }
    }
}

// Where the sums of row `row` of a tile are, behind all shares.
fn row_at(tile: u32, tiles: u32, row: u32) -> u32 {
    return select(0u, tiles * SPLITS * ROWS * COLUMNS, SPLITS > 1u) + 2u * (tile * ROWS + row);
}

fn row_sums(at: u32) -> vec2<f32> {
    return bitcast<vec2<f32>>(vec2<u32>(atomicLoad(&shares[at]), atomicLoad(&shares[at + 1u])));
}

// Adds what lanes have left of matrix `matrix` of every block to the sums of the tile's rows: a lane to each of its rows.
fn add_rows(place: Place, matrix: u32) {
    let own = place.block * LANES + place.lane;
    if own < BLOCKS / ACROSS * EDGE {
        var sums = vec2<f32>();
        let at = row_at(place.tile, place.tiles, own / EDGE * BLOCK_ROWS + matrix / MATRICES * EDGE + own % EDGE);
        if matrix % MATRICES > 0u {
            sums = row_sums(at);
        }
        for (var block = own / EDGE * ACROSS; block < (own / EDGE + 1u) * ACROSS; block++) {
            for (var unit = own % EDGE * UNITS / EDGE; unit < (own % EDGE + 1u) * UNITS / EDGE; unit++) {
                let left = block * EDGE * EDGE + unit * WIDTH;
                sums += vec2<f32>(staged[left], staged[left + 1u]);
            }
        }
        atomicStore(&shares[at], bitcast<u32>(sums.x));
        atomicStore(&shares[at + 1u], bitcast<u32>(sums.y));
    }
    workgroupBarrier();
}

// The last workgroup of a row of tiles leaves its rows' means and scales behind all of gains∘y.
fn join_rows(down: u32, groups: vec3<u32>, lane: u32) {
    for (var row = lane; row < min(ROWS, p.m - down * ROWS); row += WG) {
        var sums = vec2<f32>();
        for (var tile = down * groups.x; tile < (down + 1u) * groups.x; tile++) {
            sums += row_sums(row_at(tile, groups.x * groups.y, row));
        }
        sums /= f32(p.n);
        let scale = inverseSqrt(max(sums.y - sums.x * sums.x, 0.0) + p.eps);
        let at = p.m * p.n / 4u + 2u * (down * ROWS + row);
        ahead[at] = bitcast<vec2<u32>>(vec2<f32>(sums.x, scale));
    }
}
