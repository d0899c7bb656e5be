// y[m, n] = act(Σ_s x[s, m, n] + b[n]): adds up the shares of k that workgroups of linear_matrix made, and finishes them.
//
// Bindings: shared/linear.wgsl, of which w and scales are not read; x is [k, m, n], n filled up to a multiple of 4.
// Grid: x = groups of 64 fours of columns, y = rows.
// Workgroup memory: none.
// Numerics: f32 sums in order of s.
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y;
    let quad = group.x * 64u + lane;
    let quads = (p.n + 3u) / 4u;
    if quad >= quads {
        return;
    }
    var sum = vec4<f32>();
    for (var s = 0u; s < p.k; s++) {
        sum += x[p.x_offset / 4u + (s * p.m + row) * quads + quad];
    }
    store4(row, 4u * quad, sum);
}
