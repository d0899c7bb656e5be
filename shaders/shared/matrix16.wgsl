enable f16;
enable wgpu_cooperative_matrix;
// Matrices of 16 x 16 that a subgroup holds together: f16 times f16, summed in f32.
//
// Two tiles of X_ROWS and W_ROWS rows, ROW elements apart, lie in workgroup memory. An element is UNIT halves, four:
// stores of 16 bits are slow. The type of a loaded matrix is that of the array it comes from, whatever the template says.
const EDGE: u32 = 16u;
const UNIT: u32 = 4u;

alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sum = coop_mat16x16<f32, C>;

override X_TILE: u32 = X_ROWS * ROW;
override W_TILE: u32 = W_ROWS * ROW;

var<workgroup> x_tile: array<vec4<f16>, X_TILE>;
var<workgroup> w_tile: array<vec4<f16>, W_TILE>;

fn put_x(at: u32, eight: mat2x4<f16>) {
    x_tile[at] = eight[0];
    x_tile[at + 1u] = eight[1];
}

fn put_w(at: u32, eight: mat2x4<f16>) {
    w_tile[at] = eight[0];
    w_tile[at + 1u] = eight[1];
}

fn left(at: u32) -> Left {
    return coopLoadT<Left>(&x_tile[at], ROW);
}

fn right(at: u32) -> Right {
    return coopLoad<Right>(&w_tile[at], ROW);
}

// A strip of sums is EDGE rows and 32 columns. Its matrices have names: compilers keep indexed ones in memory.
struct Strip {
    a: Sum,
    b: Sum,
}

// 32 columns of w.
struct Rights {
    a: Right,
    b: Right,
}

fn rights(at: u32) -> Rights {
    return Rights(right(at), right(at + EDGE * ROW));
}

fn multiplied(rows: Left, columns: Rights, sums: Strip) -> Strip {
    return Strip(coopMultiplyAdd(rows, columns.a, sums.a), coopMultiplyAdd(rows, columns.b, sums.b));
}

// Hands on strip `strip` of every block, by way of staged[at ..].
fn hand_on_strip(place: Place, strip: u32, sums: Strip, at: u32) {
    coopStoreT(sums.a, &staged[at], EDGE);
    hand_on(place, strip * MATRICES);
    coopStoreT(sums.b, &staged[at], EDGE);
    hand_on(place, strip * MATRICES + 1u);
}
