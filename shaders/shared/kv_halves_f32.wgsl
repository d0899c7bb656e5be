// Keys and values of f32, four channels to an element, for tiles of f16. With attention_ahead.wgsl.
alias Quad = vec4<f32>;

@group(0) @binding(1) var<storage, read> k: array<Quad>;
@group(0) @binding(2) var<storage, read> v: array<Quad>;

fn halves_of(quad: Quad) -> vec4<f16> {
    return in_range(quad);
}
