//! Linear layers, what is fused with them, their weights, and embeddings.

use super::{Table, each, sampled, spread};
use crate::lab::case::{Case, Depth, Output, Setup};
use crate::lab::operands::Known;
use crate::lab::oracle::{self, elementwise, halves, wide};
use crate::runtime::ops::linear::{self, forms};
use crate::runtime::{Activation, Caps, Linear, Recorder, Tuning, WeightFormat};

use Depth::{Published, Quick, Ragged, Small};
use WeightFormat::F16;

/// Rows, rows of the weights, inputs: M, N, K.
pub type Shape = (u32, u32, u32);

/// One, ragged and aligned to every tile; K is whole groups of 32, which every format can store. The published ones are of
/// vision tower, Q-Former, and LLaMA-7B: steps of one row and of five beams, and prompts.
#[rustfmt::skip]
const SHAPES: Table<Shape> = &[
    (Quick, &[(257, 264, 1408), (1, 512, 4096)]),
    (Small, &[(1, 130, 1408), (1, 1, 32), (4, 63, 160), (5, 1, 32), (7, 65, 224), (33, 130, 192), (64, 64, 64)]),
    (Ragged, &[
        (1, 4, 64), (1, 9, 4096), (2, 5, 96), (16, 32, 64), (17, 63, 96), (64, 64, 128), (96, 65, 32),
        (257, 72, 1408),
    ]),
    (Published, &[
        (257, 4224, 1408), (257, 1408, 1408), (257, 6144, 1408), (257, 1408, 6144), (44, 768, 768), (1, 12288, 4096),
        (1, 4096, 4096), (1, 4096, 11008), (1, 32064, 4096), (5, 12288, 4096), (5, 4096, 11008), (64, 4096, 4096),
    ]),
];

/// Any K, in f16; by matrices, 1544 inputs and more are added up in shares. The last ones have inputs that no kernel reads
/// as they are.
#[rustfmt::skip]
const RAGGED: Table<Shape> = &[
    (Quick, &[(9, 37, 101)]),
    (Small, &[(1, 4, 8), (2, 5, 24), (7, 3, 16), (65, 97, 592), (1, 101, 37)]),
    (Ragged, &[
        (1, 1, 8), (1, 33, 64), (4, 63, 200), (5, 1, 8), (5, 65, 48), (16, 1, 8), (17, 63, 592), (32, 130, 40),
        (33, 130, 176), (33, 72, 1544), (37, 66, 64), (40, 32, 4136), (65, 192, 592), (100, 31, 104), (257, 72, 88),
        (1, 1, 1), (1, 37, 37), (5, 101, 60), (9, 5, 3), (33, 65, 101), (40, 32, 1049),
    ]),
];

/// Gate and up alternate in N rows of the weights.
#[rustfmt::skip]
const GATED: Table<Shape> = &[
    (Small, &[(1, 66, 96), (7, 192, 64), (33, 130, 160)]),
    (Ragged, &[(1, 4, 64), (1, 130, 1408), (33, 130, 192), (64, 64, 128), (257, 72, 1408)]),
    (Published, &[(1, 22016, 4096), (64, 22016, 4096)]),
];

const RAGGED_GATED: [Shape; 7] =
    [(1, 2, 8), (3, 14, 16), (33, 130, 48), (17, 66, 1056), (2, 74, 5), (1, 74, 5), (33, 202, 250)];

/// Rows of a larger tensor, the first that is added to, M, N, K.
const ADDED: [(u32, u32, Shape); 3] = [(9, 2, (5, 24, 64)), (3, 1, (1, 8, 32)), (40, 7, (33, 64, 96))];
const RAGGED_ADDED: [(u32, u32, Shape); 4] =
    [(3, 1, (1, 8, 16)), (40, 7, (33, 64, 40)), (20, 3, (17, 9, 1104)), (9, 5, (3, 37, 101))];

/// Every form of `linear`, with workgroups of the size that some leave open.
const FORMS: [(&str, u32); 9] = [
    ("linear_vec", 128),
    ("linear_vec", 32),
    ("linear_vec_subgroup", 128),
    ("linear_vec_subgroup", 32),
    ("linear_vec_software", 128),
    ("linear_tile", 128),
    ("linear_tile_software", 128),
    ("linear_matrix8", 128),
    ("linear_matrix16", 128),
];

/// Every case of this family.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in WeightFormat::ALL {
        cases.extend(each(SHAPES).map(|(depth, shape)| layer(depth, Kind::Plain, format, shape)));
        let gated = each(GATED).filter(|&(depth, _)| depth != Published || format == F16);
        cases.extend(gated.map(|(depth, shape)| layer(depth, Kind::Gated, format, shape)));
        cases.extend(ADDED.map(|shape| added(Small, format, shape)));
        cases.extend([1, 5].map(|m| split(layer(Small, Kind::Plain, format, (m, 650, 96)))));
        for form in ["linear_vec", "linear_vec_subgroup", "linear_tile"] {
            cases
                .extend([(1, 9, 64), (5, 70, 96), (19, 66, 64)].map(|s| layer(Small, Kind::Plain, format, s).by(form)));
        }
        cases.extend([(1, 9, 160), (5, 33, 96)].map(|shape| layer(Small, Kind::Normed, format, shape)));
        cases.extend(by_every_form(format));
    }
    cases.push(layer(Published, Kind::Normed, F16, (1, 12288, 4096)));
    let embedded = [(Quick, 640, 4), (Small, 1, 1), (Small, 131, 33)];
    cases.extend(embedded.map(|(depth, rows, ids)| embed(depth, rows, 192, counted(rows, ids))));
    cases.extend(each(RAGGED).map(|(depth, shape)| layer(depth, Kind::Plain, F16, shape)));
    cases.extend(RAGGED_GATED.map(|shape| layer(Ragged, Kind::Gated, F16, shape)));
    cases.extend(RAGGED_ADDED.map(|shape| added(Ragged, F16, shape)));
    cases.extend([(1, 37, 101), (5, 8, 37), (21, 70, 250)].map(|shape| layer(Ragged, Kind::Normed, F16, shape)));
    cases.push(split(layer(Ragged, Kind::Plain, WeightFormat::Q8, (1, 650, 64))));
    cases.push(split(layer(Ragged, Kind::Plain, WeightFormat::Q4, (5, 650, 64))));
    for m in [1, 9] {
        cases.push(split(layer(Ragged, Kind::Plain, F16, (m, 330, 64))));
        cases.push(split(layer(Ragged, Kind::Gated, F16, (m, 330, 64))));
    }
    // Tiles with SiLU are gated ones in every model; a pipeline takes a second to make on a software adapter.
    let depth = |activation, m| if (activation, m) == (Activation::Silu, 37) { Ragged } else { Small };
    for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Relu] {
        let of = |(m, n, k)| layer(depth(activation, m), Kind::Activated(activation), F16, (m, n, k));
        cases.extend([(1, 33, 64), (37, 66, 64)].map(of));
    }
    cases.extend(by_every_tile());
    cases.push(beyond_f16());
    cases.extend(embeddings());
    cases
        .extend([(Quick, (7, 1408)), (Small, (64, 64)), (Published, (12288, 4096))].map(|(at, shape)| fill(at, shape)));
    cases
}

/// Plain layers of these shapes, as they are timed, in every weight format.
///
/// Rows, columns and inputs must be at least 1, and inputs a multiple of 32, which every format can store.
pub fn published(shapes: &[Shape]) -> Vec<Case> {
    let of = |format| shapes.iter().map(move |&shape| layer(Published, Kind::Plain, format, shape));
    WeightFormat::ALL.into_iter().flat_map(of).collect()
}

/// A row through an RMSNorm and a layer `[n, k]`, as it is timed.
pub fn published_normed(n: u32, k: u32) -> Case {
    layer(Published, Kind::Normed, F16, (1, n, k))
}

/// The op that a layer is fused with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Activated(Activation),
    /// SwiGLU.
    Gated,
    /// An RMSNorm in front.
    Normed,
}

impl Kind {
    fn op(self, format: WeightFormat) -> String {
        let op = match self {
            Kind::Plain => "linear".into(),
            Kind::Activated(activation) => format!("linear_act {activation:?}"),
            Kind::Gated => "swiglu".into(),
            Kind::Normed => "norm_linear".into(),
        };
        if format == F16 { op } else { format!("{op} {format}") }
    }

    fn finished(self, sums: Vec<f64>) -> Vec<f64> {
        match self {
            Kind::Gated => oracle::linear::swiglu(&sums),
            Kind::Activated(Activation::Gelu) => sums.into_iter().map(elementwise::gelu).collect(),
            Kind::Activated(Activation::GeluTanh) => sums.into_iter().map(elementwise::gelu_tanh).collect(),
            Kind::Activated(Activation::Silu) => sums.into_iter().map(elementwise::silu).collect(),
            Kind::Activated(Activation::Relu) => sums.into_iter().map(elementwise::relu).collect(),
            Kind::Plain | Kind::Normed | Kind::Activated(Activation::None) => sums,
        }
    }
}

fn layer(depth: Depth, kind: Kind, format: WeightFormat, (m, n, k): Shape) -> Case {
    let case = Case::new(kind.op(format), format!("{m}x{n}x{k}"), move |o| {
        let outputs = if kind == Kind::Gated { n / 2 } else { n };
        let (rows, columns) = match depth {
            Published => (spread(m, m.min(8)), spread(outputs, 64 / m.min(8))),
            _ => ((0..m).collect(), (0..outputs).collect()),
        };
        let known: Vec<u32> = match kind {
            Kind::Gated => columns.iter().flat_map(|&f| [2 * f, 2 * f + 1]).collect(),
            _ => columns.clone(),
        };
        // As models have them: SwiGLU mostly none, others mostly some.
        let has_bias = depth != Published && (m % 2 == 1) == (kind != Kind::Gated);
        let Known { operand, weights, bias } = o.linear(format, (n, k), &known, has_bias)?;
        let norm = if kind == Kind::Normed { Some(o.norm(k, 1e-5, false)?) } else { None };
        // Wide enough to reach the flat ends of every function.
        let scale = if matches!(kind, Kind::Activated(_)) { 4.0 } else { 1.0 };
        let x: Vec<f32> = o.normals(m * k).iter().map(|v| scale * v).collect();
        let input = o.tensor(m, k, &x)?;
        let weight_bytes = operand.weight.bytes();
        let layers = if depth == Published { o.rotated(operand, m)? } else { vec![operand] };
        let copies = layers.len();
        let gains = norm.as_ref().map(|norm| norm.weights.clone());
        let record = move |r: &mut Recorder, copy: usize| match (kind, &norm) {
            (Kind::Normed, Some(norm)) => r.norm_linear(&input, &norm.operand, &layers[copy]),
            (Kind::Gated, _) => r.swiglu(&input, &layers[copy]),
            (Kind::Activated(activation), _) => r.linear_act(&input, &layers[copy], activation),
            _ => r.linear(&input, &layers[copy]),
        };
        let sample = sampled(depth, &rows, &columns, outputs);
        let values = move |rounds| {
            let seen: Vec<f64> = rows.iter().flat_map(|&row| wide(&x[(row * k) as usize..][..k as usize])).collect();
            let seen = gains.as_ref().map_or_else(|| seen.clone(), |gains| oracle::norm::rms_norm(&seen, gains, 1e-5));
            kind.finished(product(rounds, &seen, &weights, &bias, k))
        };
        let moved = weight_bytes + 4 * u64::from(m) * u64::from(k + outputs);
        Ok(Setup::new(record).gives_sample(sample, values).moving(moved).in_copies(copies))
    });
    let case = match (kind, depth) {
        // A tuning is timed as it is.
        (Kind::Normed, Quick | Small | Ragged) => case.with_caps(fusing_norms),
        _ => case,
    };
    let case = case.costing(2 * u64::from(m) * u64::from(n) * u64::from(k)).at(depth);
    match kind {
        Kind::Plain | Kind::Gated => case.of_layer(linear::Shape { m, n, k, format }),
        Kind::Activated(_) | Kind::Normed => case,
    }
}

/// Caps by which norms and layers are one dispatch where they can be.
pub(super) fn fusing_norms(caps: Caps) -> Caps {
    Caps { tuning: Tuning { fuse_norm: true, ..caps.tuning }, ..caps }
}

/// `x Wᵀ + b` over inputs `[_, k]`, which kernels by matrices divide by 16 and round to f16, with the weights.
pub(super) fn product(rounds: bool, x: &[f64], weights: &[f64], bias: &[f64], k: u32) -> Vec<f64> {
    let rounded = |values: &[f64], scale| if rounds { halves(values, scale) } else { values.to_vec() };
    let (k, x, weights) = (k as usize, rounded(x, 16.0), rounded(weights, 1.0));
    oracle::linear::linear(&x, &weights, bias, x.len() / k, weights.len() / k, k)
}

/// Weights over the binding limit are split by rows; with a limit of 16 KiB every one of these is.
fn split(case: Case) -> Case {
    case.with("split").on_bindings_of(16 << 10)
}

/// Layers in every form that can run, not only the first choice, with a norm and without. The second and the fourth take
/// `linear_vec` several turns, of which the last is no whole one.
fn by_every_form(format: WeightFormat) -> Vec<Case> {
    let mut cases = Vec::new();
    for (m, n, k) in [(1, 37, 96), (1, 6, 2336), (5, 65, 160), (6, 5, 2336), (21, 72, 96)] {
        for ((form, vec_workgroup), kind) in FORMS.into_iter().flat_map(|f| [(f, Kind::Plain), (f, Kind::Normed)]) {
            let case = layer(Ragged, kind, format, (m, n, k)).by(form).with(&format!("in {vec_workgroup}s"));
            let case = case.with_caps(move |caps| Caps { tuning: Tuning { vec_workgroup, ..caps.tuning }, ..caps });
            let shape = linear::Shape { m, n, k, format };
            cases.push(case.only(move |caps| forms(shape, caps).iter().any(|f| f.kernel.form == form)));
        }
    }
    cases
}

/// Layers in every tile of `linear_matrix`: with one buffer and with two where that fits, with and without shares of the
/// inputs, whole at the end and not.
fn by_every_tile() -> Vec<Case> {
    const TILES: [(u32, u32); 6] = [(32, 128), (64, 64), (64, 128), (96, 64), (96, 128), (128, 128)];
    let gelu = Kind::Activated(Activation::Gelu);
    let tiled =
        |tile, kib, (kind, format), (m, n, k): Shape| in_tiles(layer(Ragged, kind, format, (m, n, k)), tile, kib);
    let each = TILES.into_iter().flat_map(|tile| {
        let (whole, ragged) = (tile.0, tile.0 + 29);
        [
            tiled(tile, 32, (Kind::Plain, F16), (whole, 128, 672)),
            tiled(tile, 32, (gelu, F16), (ragged, 136, 680)),
            tiled(tile, 32, (Kind::Gated, WeightFormat::Q4), (ragged, 272, 704)),
        ]
    });
    let one = TILES[1];
    let more = [
        tiled(one, 16, (Kind::Plain, F16), (93, 136, 104)),
        tiled(one, 16, (gelu, WeightFormat::Q8), (93, 136, 96)),
        tiled(one, 32, (Kind::Gated, F16), (93, 144, 96)),
        tiled(one, 32, (Kind::Normed, WeightFormat::Q8), (93, 136, 32)),
    ];
    each.chain(more).collect()
}

/// A case in tiles of this many rows and columns, where that much workgroup memory can be had.
pub(super) fn in_tiles(case: Case, (rows, columns): (u32, u32), kib: u32) -> Case {
    let tuned = move |caps: Caps| {
        let tuning = Tuning { matrix_rows: rows, matrix_columns: columns, ..caps.tuning };
        Caps { tuning, max_workgroup_bytes: kib << 10, ..caps }
    };
    // A device gives no more than it has.
    let can_run = move |caps: &Caps| caps.matrix.is_some() && caps.max_workgroup_bytes >= kib << 10;
    case.with_caps(tuned).only(can_run).with(&format!("in tiles of {rows}x{columns} and {kib} KiB"))
}

/// A product added into some rows of a larger tensor, which keeps the others.
fn added(depth: Depth, format: WeightFormat, (rows, first, (m, n, k)): (u32, u32, Shape)) -> Case {
    let op = if format == F16 { "linear_add".into() } else { format!("linear_add {format}") };
    let case = Case::new(op, format!("{m}x{n}x{k} rows from {first} of {rows}"), move |o| {
        let Known { operand, weights, bias } = o.linear(format, (n, k), &(0..n).collect::<Vec<_>>(), true)?;
        let ((source, x), (sum, y0)) = (o.noise(rows, k)?, o.noise(rows, n)?);
        let (y, before) = (sum.clone(), y0.clone());
        let record = move |r: &mut Recorder, _| {
            r.linear_add(&mut y.slice_rows(first, m), &source.slice_rows(first, m), &operand);
            y.clone()
        };
        let values = move |rounds| {
            let part = wide(&x[(first * k) as usize..][..(m * k) as usize]);
            let mut want = wide(&y0);
            let changed = want[(first * n) as usize..].iter_mut();
            changed.zip(product(rounds, &part, &weights, &bias, k)).for_each(|(y, more)| *y += more);
            want
        };
        Ok(Setup::new(record).over(&sum, before).gives_sample(None, values))
    });
    case.at(depth)
}

/// Inputs above the range of f16, which matrices keep at its ends: infinite, they would take their rows along.
fn beyond_f16() -> Case {
    Case::new("linear", "16x8x8 beyond f16", |o| {
        let weight = o.uninit(F16, (8, 8))?;
        o.write_rows(&weight, 0, &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0].repeat(8));
        let layer = Linear { weight, bias: None };
        let x: Vec<f32> = (0..128).map(|i| if i % 8 == 0 { 1e6 + 1e5 * i as f32 } else { -1e9 }).collect();
        let input = o.tensor(16, 8, &x)?;
        let values = move |rounds| {
            let first: Vec<f64> = x.iter().step_by(8).map(|&v| v.into()).collect();
            product(rounds, &first, &[1.0; 8], &[], 1)
        };
        Ok(Setup::new(move |r, _| r.linear(&input, &layer)).gives_sample(None, values))
    })
    .at(Ragged)
}

fn embeddings() -> Vec<Case> {
    let mut cases: Vec<Case> = [
        (1, 8, vec![0]),
        (640, 192, vec![639, 0, 5, 5]),
        (7, 136, vec![6, 3]),
        (101, 37, vec![100, 3]),
        (3, 1, vec![2, 1]),
    ]
    .into_iter()
    .map(|(rows, d, ids)| embed(Ragged, rows, d, ids).with("by hand"))
    .collect();
    // Rows on both sides of every border.
    cases.push(split(embed(Ragged, 330, 64, vec![0, 127, 128, 255, 256, 329])));
    cases.push(embed(Published, 32_064, 4096, (0..64).map(|i| i * 7919 % 15_000).collect()));
    cases
}

/// `count` rows of a table of `rows`, the last one twice if there are two.
fn counted(rows: u32, count: u32) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..count).map(|i| i * 7919 % rows).collect();
    ids[0] = rows - 1;
    ids[count as usize - 1] = rows - 1;
    ids
}

fn embed(depth: Depth, rows: u32, d: u32, ids: Vec<u32>) -> Case {
    let case = Case::new("embed", format!("{} of {rows}x{d}", ids.len()), move |o| {
        let mut known = ids.clone();
        known.sort_unstable();
        known.dedup();
        let known = if depth == Published { known } else { (0..rows).collect() };
        let Known { operand: table, weights, .. } = o.matrix(F16, (rows, d), &known)?;
        let (on_device, ids) = (o.ids(&ids)?, ids.clone());
        let row = move |id: &u32| {
            let at = known.binary_search(id).expect("ids are known");
            weights[at * d as usize..][..d as usize].to_vec()
        };
        let moved = 6 * u64::from(on_device.len()) * u64::from(d);
        let setup = Setup::new(move |r, _| r.embed(&on_device, &table));
        Ok(setup.gives(move || ids.iter().flat_map(&row).collect()).moving(moved))
    });
    case.within(0.0).at(depth)
}

fn fill(depth: Depth, (rows, k): (u32, u32)) -> Case {
    let case = Case::new("fill", format!("{rows}x{k}"), move |o| {
        let matrix = o.uninit(F16, (rows, k))?;
        let compared = if depth == Published { vec![0, rows / 2, rows - 1] } else { (0..rows).collect() };
        let (output, bytes) = (Output::Rows(matrix.clone(), compared.clone()), matrix.bytes());
        let record = move |r: &mut Recorder, _| {
            r.fill(&matrix, 7, 0.5);
            output.clone()
        };
        let row = move |&row: &u32| oracle::fill::fill(row * k / 2..(row + 1) * k / 2, 7, 0.5);
        Ok(Setup::new(record).gives(move || compared.iter().flat_map(row).collect()).moving(bytes))
    });
    // How halves are rounded is the driver's choice: half a unit or a whole one of 11 bits.
    case.within(1e-3).at(depth)
}
