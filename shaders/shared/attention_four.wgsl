// What tiles of attention work with: four vectors at once, each in registers, where keys lie, scores of four rows, and where
// these rows go. Compiled with shared/attention.wgsl, shared/segments.wgsl and a kernel's own `p`, `index`, `out` and constants.
struct Four {
    a: vec4<f32>,
    b: vec4<f32>,
    c: vec4<f32>,
    d: vec4<f32>,
}

// Sums, plus the products of rows x.a .. x.d with y. Four multiply-adds each, where `dot` starts a sum of its own and
// needs an addition more.
fn dots(sums: vec4<f32>, x: Four, y: vec4<f32>) -> vec4<f32> {
    return sums
        + y.x * vec4<f32>(x.a.x, x.b.x, x.c.x, x.d.x)
        + y.y * vec4<f32>(x.a.y, x.b.y, x.c.y, x.d.y)
        + y.z * vec4<f32>(x.a.z, x.b.z, x.c.z, x.d.z)
        + y.w * vec4<f32>(x.a.w, x.b.w, x.c.w, x.d.w);
}

// Row i times factor[i].
fn scaled(rows: Four, factor: vec4<f32>) -> Four {
    return Four(rows.a * factor.x, rows.b * factor.y, rows.c * factor.z, rows.d * factor.w);
}

// Four rows plus the values of four keys x.a .. x.d, whose weights for the rows are w.a .. w.d.
fn weighed(rows: Four, w: Four, x: Four) -> Four {
    return Four(
        rows.a + w.a.x * x.a + w.b.x * x.b + w.c.x * x.c + w.d.x * x.d,
        rows.b + w.a.y * x.a + w.b.y * x.b + w.c.y * x.c + w.d.y * x.d,
        rows.c + w.a.z * x.a + w.b.z * x.b + w.c.z * x.c + w.d.z * x.d,
        rows.d + w.a.w * x.a + w.b.w * x.b + w.c.w * x.c + w.d.w * x.d,
    );
}

// Rows of k and v that hold keys s and s + every; those past the end repeat the last.
fn rows_of(s: u32, every: u32, keys: u32) -> vec2<u32> {
    let key = min(vec2<u32>(s, s + every), vec2<u32>(max(keys, 1u) - 1u));
    if MODE == 2u {
        let i = p.index_offset + own.keys.first + key;
        return vec2<u32>(index[i.x], index[i.y]);
    }
    return vec2<u32>(row_in(own.keys, key.x), row_in(own.keys, key.y));
}

// The scores of key s for four rows, the first of which is at `position`; HIDDEN where a row does not see it.
fn score_of(product: vec4<f32>, s: u32, keys: u32, position: u32, head: u32) -> vec4<f32> {
    let d = i32(s) - i32(position) - vec4<i32>(0, 1, 2, 3);
    var seen = vec4<bool>(s < keys);
    if MODE == 1u {
        seen = vec4<bool>(s < keys && index[p.index_offset + min(s, keys - 1u)] != 0u);
    }
    if MODE == 2u {
        seen = seen & (d <= vec4<i32>());
    }
    var score = p.scale * product;
    if BIAS {
        score += bias_of(d, head);
    }
    return select(vec4<f32>(HIDDEN), score, seen);
}

fn weight_of(score: vec4<f32>, largest: vec4<f32>) -> vec4<f32> {
    return select(exp(score - largest), vec4<f32>(), score == vec4<f32>(HIDDEN));
}

fn put_quad(t: u32, head: u32, c: u32, value: vec4<f32>) {
    if t < own.rows.count && c < QUADS {
        out[(row_in(own.rows, t) * p.out_stride + head * HEAD_DIM) / 4u + c] = value;
    }
}

fn put(sum: Four, inverse: vec4<f32>, t: u32, head: u32, c: u32) {
    let rows = scaled(sum, inverse);
    put_quad(t, head, c, rows.a);
    put_quad(t + 1u, head, c, rows.b);
    put_quad(t + 2u, head, c, rows.c);
    put_quad(t + 3u, head, c, rows.d);
}
