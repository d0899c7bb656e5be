enable f16;
enable wgpu_cooperative_matrix;
// What attention by matrices of 8 x 8 keeps in workgroup memory, one value to an element: f16 as in shared/matrix8.wgsl, and
// sums of f32. Places and strides count fours. Compiled with shared/attention.wgsl and attention_matrix's own sizes.
const EDGE: u32 = 8u;
const KEYS: u32 = 32u;      // of a step: with twice as many, a processor of a Metal GPU has room for one workgroup
const MOST_QUERIES: u32 = 32u;
const MOST_SUMS: u32 = 16u;

alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;

override HALVES: u32 = 4u * TILE;
override WEIGHT_HALVES: u32 = 4u * WEIGHTS;
override FLOATS: u32 = 4u * SUMS;

var<workgroup> tile: array<f16, HALVES>;
var<workgroup> weights: array<f16, WEIGHT_HALVES>;
var<workgroup> sums: array<f32, FLOATS>;

fn put(at: u32, halves: vec4<f16>) {
    tile[4u * at] = halves.x;
    tile[4u * at + 1u] = halves.y;
    tile[4u * at + 2u] = halves.z;
    tile[4u * at + 3u] = halves.w;
}

fn put_weights(at: u32, halves: vec4<f16>) {
    weights[4u * at] = halves.x;
    weights[4u * at + 1u] = halves.y;
    weights[4u * at + 2u] = halves.z;
    weights[4u * at + 3u] = halves.w;
}

fn rows_at(at: u32, stride: u32) -> Left {
    return coopLoadT<Left>(&tile[4u * at], 4u * stride);
}

fn columns_at(at: u32, stride: u32) -> Right {
    return coopLoad<Right>(&tile[4u * at], 4u * stride);
}

fn weights_at(at: u32, stride: u32) -> Left {
    return coopLoadT<Left>(&weights[4u * at], 4u * stride);
}

fn four_sums(at: u32) -> vec4<f32> {
    let i = 4u * at;
    return vec4<f32>(sums[i], sums[i + 1u], sums[i + 2u], sums[i + 3u]);
}

fn put_four_sums(at: u32, values: vec4<f32>) {
    sums[4u * at] = values.x;
    sums[4u * at + 1u] = values.y;
    sums[4u * at + 2u] = values.z;
    sums[4u * at + 3u] = values.w;
}

fn sums_at(at: u32, stride: u32) -> Sum {
    return coopLoadT<Sum>(&sums[4u * at], 4u * stride);
}

fn put_sums(at: u32, stride: u32, values: Sum) {
    let i = 4u * at;
    let width = 4u * stride;
    coopStoreT(values, &sums[i], width);
}
