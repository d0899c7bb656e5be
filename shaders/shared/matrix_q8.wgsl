// q8 weights for linear_matrix, in the layout of shared/weights_q8.wgsl.
@group(0) @binding(1) var<storage, read> w: array<vec2<u32>>;

// Eight weights as they are stored, and the scales of two groups.
struct Packed {
    bytes: vec2<u32>,
    scales: u32,
}

// Where the scales of a row begin.
fn scales_of(row: u32) -> u32 {
    return row * ((p.k + 127u) / 128u * 4u);
}

// Eight weights, number `i` of all, in group `group` of all.
fn packed(i: u32, group: u32) -> Packed {
    return Packed(w[i], scales[group / 2u]);
}

fn unpacked(eight: Packed, group: u32) -> mat2x4<f16> {
    let scale = f16(unpack2x16float(eight.scales >> (16u * (group & 1u))).x);
    return mat2x4<f16>(
        scale * vec4<f16>(unpack4xI8(eight.bytes.x)),
        scale * vec4<f16>(unpack4xI8(eight.bytes.y)),
    );
}
