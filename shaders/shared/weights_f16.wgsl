// f16 weights: eight to an element of w. `scales` is not read.
const PACK: u32 = 8u;
const OFFSET: bool = false;

// Values 8i .. 8i + 8 of an element, before scale and offset.
fn part(packed: vec4<u32>, i: u32) -> Eight {
    return Eight(
        vec4<f32>(unpack2x16float(packed.x), unpack2x16float(packed.y)),
        vec4<f32>(unpack2x16float(packed.z), unpack2x16float(packed.w)),
    );
}

// Scale and offset of element c of a row.
fn scale_of(row: u32, c: u32) -> vec2<f32> {
    return vec2<f32>(1.0, 0.0);
}

// Weights 8c .. 8c + 8 of a row.
fn eight(row: u32, c: u32) -> Eight {
    return part(w_packed(row * (p.k / 8u) + c), 0u);
}
