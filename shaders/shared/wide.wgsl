// Eight f32 read 8 bytes at a time. A software rasteriser runs a load lane by lane and component by component, however
// large a component is.
struct Eight {
    low: vec4<f32>,
    high: vec4<f32>,
}

fn words(v: vec2<u64>) -> vec4<u32> {
    return vec4<u32>(u32(v.x), u32(v.x >> 32u), u32(v.y), u32(v.y >> 32u));
}

fn eight_of(v: vec4<u64>) -> Eight {
    return Eight(bitcast<vec4<f32>>(words(v.xy)), bitcast<vec4<f32>>(words(v.zw)));
}
