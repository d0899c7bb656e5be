enable f16;
enable wgpu_cooperative_matrix;
// What attention by matrices of 16 x 16 keeps in workgroup memory, four values to an element: f16 as in shared/matrix16.wgsl,
// and sums of f32. Compiled with shared/attention.wgsl and attention_matrix's own sizes.
const EDGE: u32 = 16u;
const KEYS: u32 = 64u;      // of a step
const MOST_QUERIES: u32 = 8u;
const MOST_SUMS: u32 = 4u;

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

var<workgroup> tile: array<vec4<f16>, TILE>;
var<workgroup> weights: array<vec4<f16>, WEIGHTS>;
var<workgroup> sums: array<vec4<f32>, SUMS>;

fn put(at: u32, halves: vec4<f16>) {
    tile[at] = halves;
}

fn put_weights(at: u32, halves: vec4<f16>) {
    weights[at] = halves;
}

fn rows_at(at: u32, stride: u32) -> Left {
    return coopLoadT<Left>(&tile[at], stride);
}

fn columns_at(at: u32, stride: u32) -> Right {
    return coopLoad<Right>(&tile[at], stride);
}

fn weights_at(at: u32, stride: u32) -> Left {
    return coopLoadT<Left>(&weights[at], stride);
}

fn four_sums(at: u32) -> vec4<f32> {
    return sums[at];
}

fn put_four_sums(at: u32, values: vec4<f32>) {
    sums[at] = values;
}

fn sums_at(at: u32, stride: u32) -> Sum {
    return coopLoadT<Sum>(&sums[at], stride);
}

fn put_sums(at: u32, stride: u32, values: Sum) {
    coopStoreT(values, &sums[at], stride);
}
