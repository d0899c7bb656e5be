// y[m, n] = act(Σ_k x[m, k] W[n, k] + b[n]), for up to 8 rows of x on software adapters with subgroups of exactly 8.
//
// Bindings: shared/linear.wgsl.
// Grid: x = groups of 32 weight rows, y = groups of ROWS rows of x.
// Workgroup memory: none. One workgroup is one subgroup of 8.
// Numerics: f32 sums in order of k.
// Why: loads run lane by lane there. Each lane owns 4 weight rows, whose sums need no exchange at the end, and loads one
// value of x for the others. With 8 weight rows a lane it is faster where K is small, and slower where rows of 8 KB, one
// below the other, have one place in the cache. Rows of x are spelled out and cut off by a constant, so that their sums
// stay in registers.
override ROWS: u32 = 1u;      // of x, at most 8

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
    let chunks = p.k / 8u;
    // Rows past the end repeat the last one; their outputs are not stored.
    let last = p.n - 1u;
    let r0 = min(n0, last);
    let r1 = min(n0 + 1u, last);
    let r2 = min(n0 + 2u, last);
    let r3 = min(n0 + 3u, last);
    let x0 = p.x_offset + min(row + 0u, p.m - 1u) * p.k + lane;
    let x1 = p.x_offset + min(row + 1u, p.m - 1u) * p.k + lane;
    let x2 = p.x_offset + min(row + 2u, p.m - 1u) * p.k + lane;
    let x3 = p.x_offset + min(row + 3u, p.m - 1u) * p.k + lane;
    let x4 = p.x_offset + min(row + 4u, p.m - 1u) * p.k + lane;
    let x5 = p.x_offset + min(row + 5u, p.m - 1u) * p.k + lane;
    let x6 = p.x_offset + min(row + 6u, p.m - 1u) * p.k + lane;
    let x7 = p.x_offset + min(row + 7u, p.m - 1u) * p.k + lane;
    var s0 = vec4<f32>();
    var s1 = vec4<f32>();
    var s2 = vec4<f32>();
    var s3 = vec4<f32>();
    var s4 = vec4<f32>();
    var s5 = vec4<f32>();
    var s6 = vec4<f32>();
    var s7 = vec4<f32>();
    for (var c = 0u; c < chunks; c++) {
        let q0 = eight(r0, c);
        let q1 = eight(r1, c);
        let q2 = eight(r2, c);
        let q3 = eight(r3, c);
        {
            let v = x[x0 + 8u * c];
            s0 += dots(low(v), high(v), q0, q1, q2, q3);
        }
        if ROWS > 1u {
            let v = x[x1 + 8u * c];
            s1 += dots(low(v), high(v), q0, q1, q2, q3);
        }
        if ROWS > 2u {
            let v = x[x2 + 8u * c];
            s2 += dots(low(v), high(v), q0, q1, q2, q3);
        }
        if ROWS > 3u {
            let v = x[x3 + 8u * c];
            s3 += dots(low(v), high(v), q0, q1, q2, q3);
        }
        if ROWS > 4u {
            let v = x[x4 + 8u * c];
            s4 += dots(low(v), high(v), q0, q1, q2, q3);
        }
        if ROWS > 5u {
            let v = x[x5 + 8u * c];
            s5 += dots(low(v), high(v), q0, q1, q2, q3);
        }
        if ROWS > 6u {
            let v = x[x6 + 8u * c];
            s6 += dots(low(v), high(v), q0, q1, q2, q3);
        }
        if ROWS > 7u {
            let v = x[x7 + 8u * c];
            s7 += dots(low(v), high(v), q0, q1, q2, q3);
        }
    }
    store4(row, n0, s0);
    if ROWS > 1u {
        store4(row + 1u, n0, s1);
    }
    if ROWS > 2u {
        store4(row + 2u, n0, s2);
    }
    if ROWS > 3u {
        store4(row + 3u, n0, s3);
    }
    if ROWS > 4u {
        store4(row + 4u, n0, s4);
    }
    if ROWS > 5u {
        store4(row + 5u, n0, s5);
    }
    if ROWS > 6u {
        store4(row + 6u, n0, s6);
    }
    if ROWS > 7u {
        store4(row + 7u, n0, s7);
    }
}
