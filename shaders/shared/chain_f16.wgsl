enable f16;
// What ceiling_fma multiplies and adds: two f16, which GPUs take in one instruction. They begin apart, so that a compiler
// cannot find that one would do.
alias Chain = vec2<f16>;

const APART: Chain = vec2<f16>(0.0h, 1.0h);

fn splat(value: f32) -> Chain {
    return vec2<f16>(f16(value));
}

fn total(chain: Chain) -> f32 {
    return f32(chain.x) + f32(chain.y);
}
