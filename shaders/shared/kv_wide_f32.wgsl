// Keys and values of f32, eight channels to an element. After wide.wgsl.
@group(0) @binding(1) var<storage, read> k: array<vec4<u64>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<u64>>;

fn key_at(i: u32) -> Eight {
    return eight_of(k[i]);
}

fn value_at(i: u32) -> Eight {
    return eight_of(v[i]);
}
