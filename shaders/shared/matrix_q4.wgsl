// q4 weights for linear_matrix, in the layout of shared/weights_q4.wgsl.
@group(0) @binding(1) var<storage, read> w: array<u32>;

// Eight weights as they are stored, and the scale and offset of their group.
struct Packed {
    nibbles: u32,
    scale: u32,
}

// Where the scales of a row begin.
fn scales_of(row: u32) -> u32 {
    return row * ((p.k + 63u) / 64u * 2u);
}

// Eight weights, number `i` of all, in group `group` of all.
fn packed(i: u32, group: u32) -> Packed {
    return Packed(w[i], scales[group]);
}

fn unpacked(eight: Packed, group: u32) -> mat2x4<f16> {
    let scale = unpack2x16float(eight.scale);
    let low = vec4<f32>(unpack4xU8(eight.nibbles & 0x0f0f0f0fu));
    let high = vec4<f32>(unpack4xU8((eight.nibbles >> 4u) & 0x0f0f0f0fu));
    return mat2x4<f16>(vec4<f16>(scale.x * low + scale.y), vec4<f16>(scale.x * high + scale.y));
}
