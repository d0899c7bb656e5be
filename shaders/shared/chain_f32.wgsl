// What ceiling_fma multiplies and adds: one f32.
alias Chain = f32;

const APART: Chain = 0.0;

fn splat(value: f32) -> Chain {
    return value;
}

fn total(chain: Chain) -> f32 {
    return chain;
}
