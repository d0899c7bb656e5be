// Keys and values of f16, eight channels to an element. After wide.wgsl.
@group(0) @binding(1) var<storage, read> k: array<vec2<u64>>;
@group(0) @binding(2) var<storage, read> v: array<vec2<u64>>;

fn eight_halves(v: vec2<u64>) -> Eight {
    let w = words(v);
    return Eight(
        vec4<f32>(unpack2x16float(w.x), unpack2x16float(w.y)), vec4<f32>(unpack2x16float(w.z), unpack2x16float(w.w)),
    );
}

fn key_at(i: u32) -> Eight {
    return eight_halves(k[i]);
}

fn value_at(i: u32) -> Eight {
    return eight_halves(v[i]);
}
