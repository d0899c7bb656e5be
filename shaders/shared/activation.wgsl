// Activation functions. ACT picks one: 0 none, 1 GELU by erf, 2 GELU by tanh, 3 SiLU, 4 ReLU.
override ACT: u32 = 0u;

// erf(x) as x * P(x^2) / Q(x^2), within 2 units in the last place; |x| > 4 rounds to +-1 in f32.
fn erf(value: f32) -> f32 {
    let x = clamp(value, -4.0, 4.0);
    let s = x * x;
    var p = -2.72614225801306e-10;
    p = p * s + 2.77068142495902e-08;
    p = p * s - 2.10102402082508e-06;
    p = p * s - 5.69250639462346e-05;
    p = p * s - 7.34990630326855e-04;
    p = p * s - 2.95459980854025e-03;
    p = p * s - 1.60960333262415e-02;
    var q = -1.45660718464996e-05;
    q = q * s - 2.13374055278905e-04;
    q = q * s - 1.68282697438203e-03;
    q = q * s - 7.37332916720468e-03;
    q = q * s - 1.42647390514189e-02;
    return x * p / q;
}

fn silu(x: f32) -> f32 {
    return x / (1.0 + exp(-x));
}

fn activate(x: f32) -> f32 {
    switch ACT {
        case 1u: { return 0.5 * x * (1.0 + erf(x * 0.7071067811865476)); }
        // tanh overflows to NaN on some drivers; it is 1 in f32 long before 10.
        case 2u: {
            let inner = 0.7978845608028654 * (x + 0.044715 * x * x * x);
            return 0.5 * x * (1.0 + tanh(clamp(inner, -10.0, 10.0)));
        }
        case 3u: { return silu(x); }
        case 4u: { return max(x, 0.0); }
        default: { return x; }
    }
}
