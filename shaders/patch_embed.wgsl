// The patches of images as rows: out[b, 1 + (y, x), (c, ky, kx)] = pixels[b, c, y * P + ky, x * P + kx], zeros after 3 P²
// and in the first row of each, which is the class token's.
//
// pixels [B, 3, height, width]              f32
// out    [B (1 + height / P * (width / P)), k]  f32, or f16 as shared/halves.wgsl says with HALVED, two to an element;
//                                           k = 3 P² rounded up to a multiple of 8
//
// Grid: x = groups of 64 pairs of columns, y = rows of an image, z = images.
// Workgroup memory: none.
// Why: a convolution whose stride is its kernel is a linear layer over these rows. Pixels that do not fill a patch
// at the right and lower edge are dropped, as the convolution does.
struct Params {
    height: u32,
    width: u32,
    side: u32,
    k: u32,
}

override HALVED: bool = false;

@group(0) @binding(0) var<storage, read> pixels: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
@group(0) @binding(2) var<uniform> p: Params;

fn value(image: u32, row: u32, column: u32) -> f32 {
    let area = p.side * p.side;
    let channel = column / area;
    if row == 0u || channel >= 3u {
        return 0.0;
    }
    let across = p.width / p.side;
    let y = (row - 1u) / across * p.side + column % area / p.side;
    let x = (row - 1u) % across * p.side + column % p.side;
    return pixels[((3u * image + channel) * p.height + y) * p.width + x];
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = 2u * (group.x * 64u + lane);
    if column >= p.k {
        return;
    }
    let rows = 1u + p.height / p.side * (p.width / p.side);
    let at = (group.z * rows + group.y) * p.k + column;
    let pair = vec2<f32>(value(group.z, group.y, column), value(group.z, group.y, column + 1u));
    if HALVED {
        out[at / 2u] = to_halves(pair);
    } else {
        out[at] = bitcast<u32>(pair.x);
        out[at + 1u] = bitcast<u32>(pair.y);
    }
}
