// y[m, n] = act(Σ_k x[m, k] W[n, k] + b[n]), for up to 8 rows of x on software adapters with subgroups of exactly 8.
//
// Bindings: shared/linear.wgsl.
// Grid: x = groups of 32 weight rows, y = groups of ROWS rows of x.
// Workgroup memory: none. One workgroup is one subgroup of 8.
// Numerics: f32 sums in order of k.
// Why: loads run lane by lane there. Each lane owns 4 weight rows, whose sums need no exchange at the end, and loads one
// value of x for the others. With 8 weight rows a lane it is faster where K is small, and slower where rows of 8 KB, one
// below the other, have one place in the cache. Loops over the rows of x are as fast as rows written out one by one.
// Weights are read 16 bytes at a time; scales are applied to the sums of a single row, and to weights that several share.
override ROWS: u32 = 1u;      // of x, at most 8

// Eights of weights in a piece of 16 bytes.
const EIGHTS: u32 = WORDS * FOURS / 2u;

// Eight i of a piece.
fn eight_at(piece: vec4<u32>, i: u32) -> Eight {
    let at = 2u * i;
    let q = word_of(piece, at / FOURS);
    return Eight(four(q, at % FOURS), four(q, at % FOURS + 1u));
}

fn scaled(q: Eight, e: vec2<f32>) -> Eight {
    if ROWS == 1u || !SCALED {
        return q;
    }
    return Eight(e.x * q.low + e.y, e.x * q.high + e.y);
}

fn dots(a: vec4<f32>, b: vec4<f32>, q0: Eight, q1: Eight, q2: Eight, q3: Eight) -> vec4<f32> {
    return vec4<f32>(dot(a, q0.low), dot(a, q1.low), dot(a, q2.low), dot(a, q3.low))
        + vec4<f32>(dot(b, q0.high), dot(b, q1.high), dot(b, q2.high), dot(b, q3.high));
}

// What lanes 0 .. 4 and 4 .. 8 loaded.
fn low(v: f32) -> vec4<f32> {
    return vec4<f32>(
        subgroupBroadcast(v, 0u),
        subgroupBroadcast(v, 1u),
        subgroupBroadcast(v, 2u),
        subgroupBroadcast(v, 3u),
    );
}

fn high(v: f32) -> vec4<f32> {
    return vec4<f32>(
        subgroupBroadcast(v, 4u),
        subgroupBroadcast(v, 5u),
        subgroupBroadcast(v, 6u),
        subgroupBroadcast(v, 7u),
    );
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let row = group.y * ROWS;
    let n0 = group.x * 32u + lane * 4u;
    let count = p.k / (8u * EIGHTS);
    // Rows past the end repeat the last one; their outputs are not stored.
    let n = min(n0 + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.n - 1u));
    // Where the rows of x start, for this lane, and their sums.
    var starts: array<u32, 8>;
    var sums: array<vec4<f32>, 8>;
    for (var r = 0u; r < ROWS; r++) {
        starts[r] = p.x_offset + min(row + r, p.m - 1u) * p.k + lane;
    }
    for (var c = 0u; c < count; c++) {
        let w0 = piece(n.x, c);
        let w1 = piece(n.y, c);
        let w2 = piece(n.z, c);
        let w3 = piece(n.w, c);
        let e0 = scale_of(scales_at(n.x, WORDS * c), WORDS * c);
        let e1 = scale_of(scales_at(n.y, WORDS * c), WORDS * c);
        let e2 = scale_of(scales_at(n.z, WORDS * c), WORDS * c);
        let e3 = scale_of(scales_at(n.w, WORDS * c), WORDS * c);
        // Of a single row, before scales and offsets.
        var products = vec4<f32>();
        var values = 0.0;
        for (var i = 0u; i < EIGHTS; i++) {
            let q0 = scaled(eight_at(w0, i), e0);
            let q1 = scaled(eight_at(w1, i), e1);
            let q2 = scaled(eight_at(w2, i), e2);
            let q3 = scaled(eight_at(w3, i), e3);
            let at = 8u * (c * EIGHTS + i);
            if ROWS == 1u {
                let v = x[starts[0] + at];
                products += dots(low(v), high(v), q0, q1, q2, q3);
                values += v;
            } else {
                for (var r = 0u; r < ROWS; r++) {
                    let v = x[starts[r] + at];
                    sums[r] += dots(low(v), high(v), q0, q1, q2, q3);
                }
            }
        }
        if ROWS == 1u {
            sums[0] += select(products, vec4<f32>(e0.x, e1.x, e2.x, e3.x) * products, SCALED);
            if OFFSET {
                sums[0] += vec4<f32>(e0.y, e1.y, e2.y, e3.y) * subgroupAdd(values);
            }
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        store4(row + r, n0, sums[r]);
    }
}
