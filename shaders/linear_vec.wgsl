// y[m, n] = act(Σ_k x[m, k] W[n, k] + b[n]), for up to 8 rows of x: bandwidth-bound. With NORM, of the RMSNorm of x.
//
// Bindings: shared/linear.wgsl, or shared/linear_rope.wgsl.
// Grid: x = groups of four weight rows, y = groups of ROWS rows of x.
// Workgroup memory: as shared/sum_subgroup.wgsl or sum_workgroup.wgsl says.
// Numerics: each invocation sums every WG-th word of w in f32, then all of them are added up. The norm's factor is
// applied to the sums: the squares are gathered on the same way.
// Why: neighbouring invocations read neighbouring words of a weight row, each once for all rows of x, and four weight
// rows share each load of x. Memory answers late, so an invocation asks for 16 inputs of each weight row before it uses
// one: that is one word, of f16 two. With several rows of x there is enough to do meanwhile, and registers are what is
// short: weights are unpacked and scaled four at a time for all rows, whose sums have names. All lanes take the same
// turns and guard what they do in them: loads stay in front of the branch, and no sum is copied from turn to turn.
override ROWS: u32 = 1u;      // of x, at most 8
override NORM: bool = false;

// One word of each of four weight rows and what holds its scale, as they are in memory.
struct Words {
    w0: Word,
    w1: Word,
    w2: Word,
    w3: Word,
    scales: vec4<u32>,
}

// Sums of four columns for one row of x, and of its squares.
struct Row {
    sums: vec4<f32>,
    squares: f32,
}

struct Rows {
    r0: Row,
    r1: Row,
    r2: Row,
    r3: Row,
    r4: Row,
    r5: Row,
    r6: Row,
    r7: Row,
}

fn words_at(rows: vec4<u32>, c: u32) -> Words {
    let scales = vec4<u32>(scales_at(rows.x, c), scales_at(rows.y, c), scales_at(rows.z, c), scales_at(rows.w, c));
    return Words(word(rows.x, c), word(rows.y, c), word(rows.z, c), word(rows.w, c), scales);
}

// Weights 4i .. 4i + 4 of each word, a column for each.
fn fours(q: Words, i: u32) -> mat4x4<f32> {
    return mat4x4<f32>(four(q.w0, i), four(q.w1, i), four(q.w2, i), four(q.w3, i));
}

// Scales and offsets of the words.
fn scales_of(q: Words, c: u32) -> mat4x2<f32> {
    return mat4x2<f32>(
        scale_of(q.scales.x, c),
        scale_of(q.scales.y, c),
        scale_of(q.scales.z, c),
        scale_of(q.scales.w, c),
    );
}

fn scaled(f: mat4x4<f32>, e: mat4x2<f32>) -> mat4x4<f32> {
    if !SCALED {
        return f;
    }
    return mat4x4<f32>(
        fma(f[0], vec4<f32>(e[0].x), vec4<f32>(e[0].y)),
        fma(f[1], vec4<f32>(e[1].x), vec4<f32>(e[1].y)),
        fma(f[2], vec4<f32>(e[2].x), vec4<f32>(e[2].y)),
        fma(f[3], vec4<f32>(e[3].x), vec4<f32>(e[3].y)),
    );
}

// s and the products of a and the columns of f.
fn dots(s: vec4<f32>, f: mat4x4<f32>, a: vec4<f32>) -> vec4<f32> {
    let t = transpose(f);
    let first = fma(t[1], vec4<f32>(a.y), fma(t[0], vec4<f32>(a.x), s));
    return fma(t[3], vec4<f32>(a.w), fma(t[2], vec4<f32>(a.z), first));
}

fn squares(s: f32, a: vec4<f32>) -> f32 {
    return select(s, fma(a.w, a.w, fma(a.z, a.z, fma(a.y, a.y, fma(a.x, a.x, s)))), NORM);
}

fn gains(i: u32) -> vec4<f32> {
    if NORM {
        return gain[i];
    }
    return vec4<f32>(1.0);
}

fn gained(a: vec4<f32>, g: vec4<f32>) -> vec4<f32> {
    return select(a, a * g, vec4<bool>(NORM));
}

// What a word of weights meets of one row of x, a column for each four.
fn inputs(i: u32) -> mat4x4<f32> {
    if FOURS > 2u {
        return mat4x4<f32>(x[i], x[i + 1u], x[i + 2u], x[i + 3u]);
    }
    return mat4x4<f32>(x[i], x[i + 1u], vec4<f32>(), vec4<f32>());
}

// With word c of the weights times that of the one row of x. Scales are applied to its sums.
fn with_word(row: Row, q: Words, c: u32, a: mat4x4<f32>) -> Row {
    let i = FOURS * c;
    let b0 = gained(a[0], gains(i));
    let b1 = gained(a[1], gains(i + 1u));
    let v = squares(squares(row.squares, a[0]), a[1]);
    if !SCALED {
        return Row(dots(dots(row.sums, fours(q, 0u), b0), fours(q, 1u), b1), v);
    }
    let first = dots(dots(vec4<f32>(), fours(q, 0u), b0), fours(q, 1u), b1);
    let b2 = gained(a[2], gains(i + 2u));
    let b3 = gained(a[3], gains(i + 3u));
    let products = dots(dots(first, fours(q, 2u), b2), fours(q, 3u), b3);
    let e = transpose(scales_of(q, c));
    var s = fma(e[0], products, row.sums);
    if OFFSET {
        s = fma(e[1], vec4<f32>(dot((b0 + b1) + (b2 + b3), vec4<f32>(1.0))), s);
    }
    return Row(s, squares(squares(v, a[2]), a[3]));
}

// With four inputs.
fn with_four(row: Row, f: mat4x4<f32>, a: vec4<f32>, g: vec4<f32>) -> Row {
    return Row(dots(row.sums, f, gained(a, g)), squares(row.squares, a));
}

// Adds four inputs of the weights times those at `i` of every row of x, which start at `low` and `high`.
fn add_four(rows: ptr<function, Rows>, f: mat4x4<f32>, low: vec4<u32>, high: vec4<u32>, i: u32) {
    let g = gains(i);
    (*rows).r0 = with_four((*rows).r0, f, x[low.x + i], g);
    if ROWS > 1u {
        (*rows).r1 = with_four((*rows).r1, f, x[low.y + i], g);
    }
    if ROWS > 2u {
        (*rows).r2 = with_four((*rows).r2, f, x[low.z + i], g);
    }
    if ROWS > 3u {
        (*rows).r3 = with_four((*rows).r3, f, x[low.w + i], g);
    }
    if ROWS > 4u {
        (*rows).r4 = with_four((*rows).r4, f, x[high.x + i], g);
    }
    if ROWS > 5u {
        (*rows).r5 = with_four((*rows).r5, f, x[high.y + i], g);
    }
    if ROWS > 6u {
        (*rows).r6 = with_four((*rows).r6, f, x[high.z + i], g);
    }
    if ROWS > 7u {
        (*rows).r7 = with_four((*rows).r7, f, x[high.w + i], g);
    }
}

// Where four rows of x start, in fours. Those past the end repeat the last one; their outputs are not stored.
fn starts(row: u32) -> vec4<u32> {
    return (p.x_offset + min(row + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.m - 1u)) * p.k) / 4u;
}

fn vectors(group: vec3<u32>, place: Place) {
    let n0 = group.x * 4u;
    let of_w = vec4<u32>(weight_row(n0), weight_row(n0 + 1u), weight_row(n0 + 2u), weight_row(n0 + 3u));
    let row = group.y * ROWS;
    let low = starts(row);
    let high = starts(row + 4u);
    let count = p.k / (4u * FOURS);
    let ahead = ROWS == 1u && FOURS == 2u;
    var rows = Rows();
    for (var start = 0u; start < count; start += select(WG, 2u * WG, ahead)) {
        let c = start + place.lane;
        let near = min(c, count - 1u);
        let q = words_at(of_w, near);
        if ROWS > 1u {
            if c < count {
                for (var i = 0u; i < FOURS; i++) {
                    add_four(&rows, scaled(fours(q, i), scales_of(q, c)), low, high, FOURS * c + i);
                }
            }
        } else if ahead {
            let far = min(c + WG, count - 1u);
            let q_far = words_at(of_w, far);
            let a = inputs(low.x + FOURS * near);
            var a_far = a;
            if !NORM {
                a_far = inputs(low.x + FOURS * far);
            }
            if c + WG < count {
                rows.r0 = with_word(rows.r0, q, c, a);
                if NORM {
                    a_far = inputs(low.x + FOURS * far);
                }
                rows.r0 = with_word(rows.r0, q_far, far, a_far);
            } else if c < count {
                rows.r0 = with_word(rows.r0, q, c, a);
            }
        } else {
            let a = inputs(low.x + FOURS * near);
            if c < count {
                rows.r0 = with_word(rows.r0, q, c, a);
            }
        }
    }
    add_up(0u, rows.r0.sums, place);
    if ROWS > 1u {
        add_up(1u, rows.r1.sums, place);
    }
    if ROWS > 2u {
        add_up(2u, rows.r2.sums, place);
    }
    if ROWS > 3u {
        add_up(3u, rows.r3.sums, place);
    }
    if ROWS > 4u {
        add_up(4u, rows.r4.sums, place);
    }
    if ROWS > 5u {
        add_up(5u, rows.r5.sums, place);
    }
    if ROWS > 6u {
        add_up(6u, rows.r6.sums, place);
    }
    if ROWS > 7u {
        add_up(7u, rows.r7.sums, place);
    }
    if NORM {
        add_up(ROWS, vec4<f32>(rows.r0.squares, rows.r1.squares, rows.r2.squares, rows.r3.squares), place);
        if ROWS > 4u {
            add_up(ROWS + 1u, vec4<f32>(rows.r4.squares, rows.r5.squares, rows.r6.squares, rows.r7.squares), place);
        }
    }
    workgroupBarrier();
    for (var r = place.lane; r < ROWS; r += WG) {
        var sums = sum(r, place);
        if NORM {
            sums *= inverseSqrt(sum(ROWS + r / 4u, place)[r % 4u] / f32(p.k) + p.eps);
        }
        store4(row + r, n0, sums);
    }
}
