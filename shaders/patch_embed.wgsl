// The patches of an image as rows: out[(y, x), (c, ky, kx)] = pixels[c, y * P + ky, x * P + kx], zeros after 3 P².
//
// pixels [3, height, width]                 f32
// out    [height / P * (width / P), k]      f32, k = 3 P² rounded up to a multiple of 8
//
// Grid: x = groups of 64 columns, y = patches, row by row.
// Workgroup memory: none.
// Why: a convolution whose stride is its kernel is a linear layer over these rows. Pixels that do not fill a patch
// at the right and lower edge are dropped, as the convolution does.
struct Params {
    height: u32,
    width: u32,
    side: u32,
    k: u32,
}

@group(0) @binding(0) var<storage, read> pixels: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = group.x * 64u + lane;
    if column >= p.k {
        return;
    }
    let area = p.side * p.side;
    let channel = column / area;
    var value = 0.0;
    if channel < 3u {
        let across = p.width / p.side;
        let y = group.y / across * p.side + column % area / p.side;
        let x = group.y % across * p.side + column % p.side;
        value = pixels[(channel * p.height + y) * p.width + x];
    }
    out[group.y * p.k + column] = value;
}
