// x of the linear family, one value a lane.
@group(0) @binding(0) var<storage, read> x: array<f32>;
