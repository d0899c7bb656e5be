// f16 weights: eight to an element of w. `scales` is not read.
const PACK: u32 = 8u;

struct Eight {
    low: vec4<f32>,
    high: vec4<f32>,
}

fn unpacked(packed: vec4<u32>) -> Eight {
    return Eight(
        vec4<f32>(unpack2x16float(packed.x), unpack2x16float(packed.y)),
        vec4<f32>(unpack2x16float(packed.z), unpack2x16float(packed.w)),
    );
}

// Weights 8c .. 8c + 8 of a row.
fn eight(row: u32, c: u32) -> Eight {
    return unpacked(w[row * (p.k / 8u) + c]);
}

fn dot_row(a: vec4<f32>, b: vec4<f32>, row: u32, c: u32) -> f32 {
    let q = eight(row, c);
    return dot(a, q.low) + dot(b, q.high);
}

// x[x_at ..] times element c of each of four rows.
fn dots_of_rows(x_at: u32, rows: vec4<u32>, c: u32) -> vec4<f32> {
    let a = x[x_at];
    let b = x[x_at + 1u];
    return vec4<f32>(
        dot_row(a, b, rows.x, c),
        dot_row(a, b, rows.y, c),
        dot_row(a, b, rows.z, c),
        dot_row(a, b, rows.w, c),
    );
}
