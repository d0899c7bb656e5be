enable f16;
enable wgpu_cooperative_matrix;
// Matrices of 8 x 8 that a subgroup holds together: f16 times f16, summed in f32.
//
// The type of a loaded matrix is that of the array it comes from, whatever the template says: tiles must be f16.
// One half to an element: Metal loads from nothing wider.
const EDGE: u32 = 8u;
const EDGES_IN_BLOCK: u32 = 4u;
const MATRICES_IN_BLOCK: u32 = 16u;

alias Left = coop_mat8x8<f16, A>;
alias Right = coop_mat8x8<f16, B>;
alias Sum = coop_mat8x8<f32, C>;

override X_TILE: u32 = ROWS * STRIDE;
override W_TILE: u32 = COLUMNS * STRIDE;

var<workgroup> x_tile: array<f16, X_TILE>;
var<workgroup> w_tile: array<f16, W_TILE>;

fn put_x(at: u32, values: vec4<f32>) {
    let halves = vec4<f16>(values);
    x_tile[at] = halves.x;
    x_tile[at + 1u] = halves.y;
    x_tile[at + 2u] = halves.z;
    x_tile[at + 3u] = halves.w;
}

fn put_w(at: u32, values: vec4<f32>) {
    let halves = vec4<f16>(values);
    w_tile[at] = halves.x;
    w_tile[at + 1u] = halves.y;
    w_tile[at + 2u] = halves.z;
    w_tile[at + 3u] = halves.w;
}

fn left(at: u32) -> Left {
    return coopLoadT<Left>(&x_tile[at], STRIDE);
}

fn right(at: u32) -> Right {
    return coopLoad<Right>(&w_tile[at], STRIDE);
}
