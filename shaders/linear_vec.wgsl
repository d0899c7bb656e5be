// y[m, n] = act(Σ_k x[m, k] W[n, k] + b[n]), for up to 8 rows of x: bandwidth-bound. With NORM, of the RMSNorm of x.
//
// Bindings: shared/linear.wgsl, or shared/linear_rope.wgsl.
// Grid: x = groups of COLUMNS weight rows, y = groups of ROWS rows of x.
// Workgroup memory: none with shared/sum_subgroup.wgsl, 16 * WG bytes with sum_workgroup.wgsl.
// Numerics: each invocation sums every WG-th element of w, then a tree: f32 throughout. The norm's factor is applied to
// the sums: the squares are gathered on the same way.
// Why: neighbouring invocations read neighbouring 16 bytes of a weight row, each once for all rows of x, and 4 or 8
// weight rows share each load of x. Rows are spelled out and cut off by constants, so that their sums stay in registers.
override ROWS: u32 = 1u;      // of x, at most 8
override COLUMNS: u32 = 4u;   // of y, 4 or 8
override NORM: bool = false;

fn dot8(a: Eight, q: Eight) -> f32 {
    return dot(a.low, q.low) + dot(a.high, q.high);
}

// Eight columns of four weight rows, with their scales and offsets.
struct Four {
    q0: Eight,
    q1: Eight,
    q2: Eight,
    q3: Eight,
    scale: vec4<f32>,
    offset: vec4<f32>,
}

fn dots(a: Eight, f: Four) -> vec4<f32> {
    let sums = f.scale * vec4<f32>(dot8(a, f.q0), dot8(a, f.q1), dot8(a, f.q2), dot8(a, f.q3));
    if OFFSET {
        return sums + f.offset * dot(a.low + a.high, vec4<f32>(1.0));
    }
    return sums;
}

fn gains(i: u32) -> Eight {
    if NORM {
        return Eight(gain[2u * i], gain[2u * i + 1u]);
    }
    return Eight();
}

// Eight columns of x, times the gain if it is normed; their squares are added to `squares`.
fn normed(i: u32, g: Eight, squares: ptr<function, f32>) -> Eight {
    let a = x_eight(i);
    if NORM {
        *squares += dot8(a, a);
        return Eight(a.low * g.low, a.high * g.high);
    }
    return a;
}

// Sums over all invocations; the first one stores them.
fn finish(row: u32, n0: u32, lane: u32, first: vec4<f32>, second: vec4<f32>, squares: f32) {
    var factor = 1.0;
    if NORM {
        factor = inverseSqrt(total(vec4<f32>(squares), lane).x / f32(p.k) + p.eps);
    }
    let low = total(first, lane);
    if lane == 0u {
        store4(row, n0, factor * low);
    }
    if COLUMNS > 4u {
        let high = total(second, lane);
        if lane == 0u {
            store4(row, n0 + 4u, factor * high);
        }
    }
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let n0 = group.x * COLUMNS;
    let row = group.y * ROWS;
    let elements = p.k / PACK;
    // Rows past the end repeat the last one; their outputs are not stored.
    let r0 = weight_row(n0 + 0u);
    let r1 = weight_row(n0 + 1u);
    let r2 = weight_row(n0 + 2u);
    let r3 = weight_row(n0 + 3u);
    let r4 = weight_row(n0 + 4u);
    let r5 = weight_row(n0 + 5u);
    let r6 = weight_row(n0 + 6u);
    let r7 = weight_row(n0 + 7u);
    let x0 = (p.x_offset + min(row + 0u, p.m - 1u) * p.k) / 8u;
    let x1 = (p.x_offset + min(row + 1u, p.m - 1u) * p.k) / 8u;
    let x2 = (p.x_offset + min(row + 2u, p.m - 1u) * p.k) / 8u;
    let x3 = (p.x_offset + min(row + 3u, p.m - 1u) * p.k) / 8u;
    let x4 = (p.x_offset + min(row + 4u, p.m - 1u) * p.k) / 8u;
    let x5 = (p.x_offset + min(row + 5u, p.m - 1u) * p.k) / 8u;
    let x6 = (p.x_offset + min(row + 6u, p.m - 1u) * p.k) / 8u;
    let x7 = (p.x_offset + min(row + 7u, p.m - 1u) * p.k) / 8u;
    var s0 = vec4<f32>();
    var t0 = vec4<f32>();
    var v0 = 0.0;
    var s1 = vec4<f32>();
    var t1 = vec4<f32>();
    var v1 = 0.0;
    var s2 = vec4<f32>();
    var t2 = vec4<f32>();
    var v2 = 0.0;
    var s3 = vec4<f32>();
    var t3 = vec4<f32>();
    var v3 = 0.0;
    var s4 = vec4<f32>();
    var t4 = vec4<f32>();
    var v4 = 0.0;
    var s5 = vec4<f32>();
    var t5 = vec4<f32>();
    var v5 = 0.0;
    var s6 = vec4<f32>();
    var t6 = vec4<f32>();
    var v6 = 0.0;
    var s7 = vec4<f32>();
    var t7 = vec4<f32>();
    var v7 = 0.0;
    for (var c = lane; c < elements; c += WG) {
        let w0 = w_packed(r0 * elements + c);
        let w1 = w_packed(r1 * elements + c);
        let w2 = w_packed(r2 * elements + c);
        let w3 = w_packed(r3 * elements + c);
        var first = Four();
        var second = Four();
        let e0 = scale_of(r0, c);
        let e1 = scale_of(r1, c);
        let e2 = scale_of(r2, c);
        let e3 = scale_of(r3, c);
        first.scale = vec4<f32>(e0.x, e1.x, e2.x, e3.x);
        first.offset = vec4<f32>(e0.y, e1.y, e2.y, e3.y);
        var w4 = vec4<u32>();
        var w5 = vec4<u32>();
        var w6 = vec4<u32>();
        var w7 = vec4<u32>();
        if COLUMNS > 4u {
            w4 = w_packed(r4 * elements + c);
            w5 = w_packed(r5 * elements + c);
            w6 = w_packed(r6 * elements + c);
            w7 = w_packed(r7 * elements + c);
            let e4 = scale_of(r4, c);
            let e5 = scale_of(r5, c);
            let e6 = scale_of(r6, c);
            let e7 = scale_of(r7, c);
            second.scale = vec4<f32>(e4.x, e5.x, e6.x, e7.x);
            second.offset = vec4<f32>(e4.y, e5.y, e6.y, e7.y);
        }
        for (var i = 0u; i < PACK / 8u; i++) {
            first.q0 = part(w0, i);
            first.q1 = part(w1, i);
            first.q2 = part(w2, i);
            first.q3 = part(w3, i);
            if COLUMNS > 4u {
                second.q0 = part(w4, i);
                second.q1 = part(w5, i);
                second.q2 = part(w6, i);
                second.q3 = part(w7, i);
            }
            let at = c * (PACK / 8u) + i;
            let g = gains(at);
            {
                let a = normed(x0 + at, g, &v0);
                s0 += dots(a, first);
                if COLUMNS > 4u {
                    t0 += dots(a, second);
                }
            }
            if ROWS > 1u {
                let a = normed(x1 + at, g, &v1);
                s1 += dots(a, first);
                if COLUMNS > 4u {
                    t1 += dots(a, second);
                }
            }
            if ROWS > 2u {
                let a = normed(x2 + at, g, &v2);
                s2 += dots(a, first);
                if COLUMNS > 4u {
                    t2 += dots(a, second);
                }
            }
            if ROWS > 3u {
                let a = normed(x3 + at, g, &v3);
                s3 += dots(a, first);
                if COLUMNS > 4u {
                    t3 += dots(a, second);
                }
            }
            if ROWS > 4u {
                let a = normed(x4 + at, g, &v4);
                s4 += dots(a, first);
                if COLUMNS > 4u {
                    t4 += dots(a, second);
                }
            }
            if ROWS > 5u {
                let a = normed(x5 + at, g, &v5);
                s5 += dots(a, first);
                if COLUMNS > 4u {
                    t5 += dots(a, second);
                }
            }
            if ROWS > 6u {
                let a = normed(x6 + at, g, &v6);
                s6 += dots(a, first);
                if COLUMNS > 4u {
                    t6 += dots(a, second);
                }
            }
            if ROWS > 7u {
                let a = normed(x7 + at, g, &v7);
                s7 += dots(a, first);
                if COLUMNS > 4u {
                    t7 += dots(a, second);
                }
            }
        }
    }
    finish(row, n0, lane, s0, t0, v0);
    if ROWS > 1u {
        finish(row + 1u, n0, lane, s1, t1, v1);
    }
    if ROWS > 2u {
        finish(row + 2u, n0, lane, s2, t2, v2);
    }
    if ROWS > 3u {
        finish(row + 3u, n0, lane, s3, t3, v3);
    }
    if ROWS > 4u {
        finish(row + 4u, n0, lane, s4, t4, v4);
    }
    if ROWS > 5u {
        finish(row + 5u, n0, lane, s5, t5, v5);
    }
    if ROWS > 6u {
        finish(row + 6u, n0, lane, s6, t6, v6);
    }
    if ROWS > 7u {
        finish(row + 7u, n0, lane, s7, t7, v7);
    }
}
