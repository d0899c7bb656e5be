// out[r] = the lowest column at which x[r] is largest.
//
// x   [rows, n] f32
// out [rows]    u32
//
// Grid: x = rows, one workgroup each.
// Workgroup memory: 8 * WG bytes.
// Numerics: comparisons only. Ties go to the lowest column, as torch.argmax does on a CPU.
// Why: a vocabulary of 32,000 is 125 values for each of 256 invocations. Each asks for sixteen before it looks at one, so
// that memory is waited for 8 times; more workgroups would have to wait for each other, and a second dispatch costs more.
struct Params {
    n: u32,
    x_offset: u32,
}

override WG: u32 = 256u;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
@group(0) @binding(2) var<uniform> p: Params;

var<workgroup> values: array<f32, WG>;
var<workgroup> columns: array<u32, WG>;

struct Best {
    value: f32,
    column: u32,
}

// Columns i, i + WG and so on. The last one stands for those past the end, which changes no result.
fn four_columns(i: u32) -> vec4<u32> {
    return min(i + WG * vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(p.n - 1u));
}

fn four_values(start: u32, i: u32) -> vec4<f32> {
    let at = start + four_columns(i);
    return vec4<f32>(x[at.x], x[at.y], x[at.z], x[at.w]);
}

fn best_of(best: Best, value: f32, column: u32) -> Best {
    if value > best.value {
        return Best(value, column);
    }
    return best;
}

fn best_of_four(best: Best, values: vec4<f32>, i: u32) -> Best {
    let at = four_columns(i);
    let low = best_of(best_of(best, values.x, at.x), values.y, at.y);
    return best_of(best_of(low, values.z, at.z), values.w, at.w);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let start = p.x_offset + group.x * p.n;
    // Lanes past the end begin with column 0, which changes no result.
    let first = select(0u, lane, lane < p.n);
    var best = Best(x[start + first], first);
    // All lanes take the same turns, so that a branch lies between what is loaded and its use.
    for (var turn = start; turn < start + p.n; turn += 16u * WG) {
        let i = turn - start + lane;
        let v0 = four_values(start, i);
        let v1 = four_values(start, i + 4u * WG);
        let v2 = four_values(start, i + 8u * WG);
        let v3 = four_values(start, i + 12u * WG);
        if i < p.n {
            best = best_of_four(best, v0, i);
            best = best_of_four(best, v1, i + 4u * WG);
            best = best_of_four(best, v2, i + 8u * WG);
            best = best_of_four(best, v3, i + 12u * WG);
        }
    }
    values[lane] = best.value;
    columns[lane] = best.column;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if lane < half {
            let value = values[lane + half];
            let column = columns[lane + half];
            if value > values[lane] || (value == values[lane] && column < columns[lane]) {
                values[lane] = value;
                columns[lane] = column;
            }
        }
        workgroupBarrier();
    }
    if lane == 0u {
        out[group.x] = columns[0];
    }
}
