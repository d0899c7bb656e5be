// Rows of q, k and v of f32 on their way to tiles of f16, kept within its range; those of k and v a step's half ahead. Compiled
// after shared/attention_matrix16.wgsl or attention_matrix8.wgsl with attention_matrix's own bindings and sizes.
//
// An invocation has four keys in a row, so that it can put v by channel.
const LARGEST: f16 = 65504.0h;      // beyond it a half is infinite

// Where this invocation's four keys of the step ahead lie, and what it has loaded.
var<private> places: vec4<u32>;
var<private> next: array<array<Quad, 4>, 8>;

fn in_range(values: vec4<f32>) -> vec4<f16> {
    return clamp(vec4<f16>(values), vec4<f16>(-LARGEST), vec4<f16>(LARGEST));
}

// Keys past the end repeat the last.
fn four_keys(s: u32, keys: u32) -> vec4<u32> {
    return min(s + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(max(keys, 1u) - 1u));
}

fn find_keys(start: u32, keys: u32, lane: u32) {
    places = four_keys(start + 4u * (lane / ACROSS), keys);
    if MODE == 2u {
        let i = p.index_offset + own.keys.first + places;
        places = vec4<u32>(index[i.x], index[i.y], index[i.z], index[i.w]);
    } else {
        places = rows_in(own.keys, places);
    }
}

// Quads past the head's end repeat the last: q has zeros there, and sums of values are not stored.
fn load_keys(first: u32, lane: u32) {
    let at = (first + places * p.k_row_stride) / 4u;
    for (var i = 0u; i < TIMES; i++) {
        let c = min(lane % ACROSS + i * ACROSS, QUADS - 1u);
        next[i] = array<Quad, 4>(k[at.x + c], k[at.y + c], k[at.z + c], k[at.w + c]);
    }
}

fn load_values(first: u32, lane: u32) {
    let at = (first + places * p.v_row_stride) / 4u;
    for (var i = 0u; i < TIMES; i++) {
        let c = min(lane % ACROSS + i * ACROSS, QUADS - 1u);
        next[i] = array<Quad, 4>(v[at.x + c], v[at.y + c], v[at.z + c], v[at.w + c]);
    }
}

fn put_keys(lane: u32) {
    for (var i = 0u; i < TIMES; i++) {
        let c = lane % ACROSS + i * ACROSS;
        if WIDE % ACROSS == 0u || c < WIDE {
            for (var key = 0u; key < 4u; key++) {
                put((4u * (lane / ACROSS) + key) * STRIDE + c, halves_of(next[i][key]));
            }
        }
    }
}

fn put_values(lane: u32) {
    for (var i = 0u; i < TIMES; i++) {
        let c = lane % ACROSS + i * ACROSS;
        if WIDE % ACROSS == 0u || c < WIDE {
            let four = array<vec4<f16>, 4>(
                halves_of(next[i][0]), halves_of(next[i][1]),
                halves_of(next[i][2]), halves_of(next[i][3]),
            );
            let to = 4u * c * KEY_STRIDE + lane / ACROSS;
            put(to, vec4<f16>(four[0].x, four[1].x, four[2].x, four[3].x));
            put(to + KEY_STRIDE, vec4<f16>(four[0].y, four[1].y, four[2].y, four[3].y));
            put(to + 2u * KEY_STRIDE, vec4<f16>(four[0].z, four[1].z, four[2].z, four[3].z));
            put(to + 3u * KEY_STRIDE, vec4<f16>(four[0].w, four[1].w, four[2].w, four[3].w));
        }
    }
}

fn put_queries(t0: u32, head: u32, lane: u32) {
    var values: array<vec4<f32>, 32>;
    for (var i = 0u; i < ROWS * WIDE / WG; i++) {
        // Rows past the end repeat the last one; they are not stored.
        let row = row_in(own.rows, min(t0 + (lane + i * WG) / WIDE, own.rows.count - 1u));
        let c = (lane + i * WG) % WIDE;
        let value = q[(p.q_offset + row * p.q_stride) / 4u + head * QUADS + min(c, QUADS - 1u)];
        values[i] = p.scale * select(vec4<f32>(), value, c < QUADS);
    }
    for (var i = 0u; i < ROWS * WIDE / WG; i++) {
        put((lane + i * WG) / WIDE * STRIDE + (lane + i * WG) % WIDE, in_range(values[i]));
    }
}

// Four channels of the result.
fn put_quad(i: u32, values: vec4<f32>) {
    if HALVED {
        out[i] = vec2<u32>(to_halves(values.xy), to_halves(values.zw));
    } else {
        out[2u * i] = bitcast<vec2<u32>>(values.xy);
        out[2u * i + 1u] = bitcast<vec2<u32>>(values.zw);
    }
}
