enable f16;
enable wgpu_cooperative_matrix;
// Matrices of 16 x 16 that a subgroup holds together: f16 times f16, summed in f32.
//
// The type of a loaded matrix is that of the array it comes from, whatever the template says: tiles must be f16.
// Four halves to an element, since stores of 16 bits are slow; strides count elements.
const EDGE: u32 = 16u;
const EDGES_IN_BLOCK: u32 = 2u;
const MATRICES_IN_BLOCK: u32 = 4u;

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

override X_TILE: u32 = ROWS * STRIDE / 4u;
override W_TILE: u32 = COLUMNS * STRIDE / 4u;

var<workgroup> x_tile: array<vec4<f16>, X_TILE>;
var<workgroup> w_tile: array<vec4<f16>, W_TILE>;

fn put_x(at: u32, values: vec4<f32>) {
    x_tile[at / 4u] = vec4<f16>(values);
}

fn put_w(at: u32, values: vec4<f32>) {
    w_tile[at / 4u] = vec4<f16>(values);
}

fn left(at: u32) -> Left {
    return coopLoadT<Left>(&x_tile[at / 4u], STRIDE / 4u);
}

fn right(at: u32) -> Right {
    return coopLoad<Right>(&w_tile[at / 4u], STRIDE / 4u);
}
