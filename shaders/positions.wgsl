// x[t] += table[step.pos + places[t].x]: learned positions.
//
// table  [positions, d] f32
// places [T]            vec2 u32: how far row t is past step.pos; the second is not read
// step                  position
// x      [T, d]         f32
//
// Grid: x = groups of 64 channels, y = rows t.
// Workgroup memory: none.
// Limits: positions are rows of the table.
struct Params {
    d: u32,
    table_offset: u32,
}

struct Step {
    pos: u32,
    len: u32,
    reserved: vec2<u32>,
}

@group(0) @binding(0) var<storage, read> table: array<f32>;
@group(0) @binding(1) var<storage, read> places: array<vec2<u32>>;
@group(0) @binding(2) var<uniform> step: Step;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;
@group(0) @binding(4) var<uniform> p: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let channel = group.x * 64u + lane;
    if channel < p.d {
        let position = step.pos + places[group.y].x;
        x[group.y * p.d + channel] += table[p.table_offset + position * p.d + channel];
    }
}
