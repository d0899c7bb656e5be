//! The default variants: what models of published shapes record on a device, each kernel with its constants once.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use instructblip::config::Config;
use instructblip::generate::session::{Capacity, Room, SessionPlan};
use instructblip::hash::fnv1a;
use instructblip::model::Parts;
use instructblip::runtime::kernels::Kernel;
use instructblip::runtime::recorder::Dispatch;
use instructblip::runtime::{Caps, Mask, Recorder, Segments, Tensor, WeightFormat};
use instructblip::shapes::{Layers, Shape};
use instructblip::weights::{Formats, Loader, Placement};

/// A kernel and the values of its constants.
pub struct Variant {
    pub kernel: &'static Kernel,
    pub constants: Vec<(&'static str, f64)>,
    /// The first model part that runs it.
    pub used_by: String,
}

/// Language models that are recorded; each brings ViT-g and a Q-Former.
const MODELS: [&str; 2] = ["instructblip-vicuna-7b", "instructblip-flan-t5-xl"];

/// Tokens of the prompts.
const PROMPTS: [u32; 2] = [64, 300];

/// Sequences side by side in a step of decoding.
const ROWS: [u32; 3] = [1, 5, 8];

/// Every variant that a device with these facts runs, by its name.
pub fn of(caps: Caps) -> Result<BTreeMap<String, Variant>> {
    let mut found = BTreeMap::new();
    let mut take = |used_by: String, r: &Recorder| {
        for Dispatch { kernel, constants, .. } in r.dispatches() {
            let variant = || Variant { kernel, constants: constants.clone(), used_by: used_by.clone() };
            found.entry(name(kernel, constants)).or_insert_with(variant);
        }
    };
    for model in MODELS {
        let config = config(model)?;
        for format in WeightFormat::ALL {
            let of = |what: &str| format!("{model} {} {what}", format.name());
            let placement = Placement { formats: Formats::usual(format), ..Placement::default() };
            let parts = Parts::load(&mut Loader::survey(None, placement), &config).context("shapes")?;
            let side = config.vision.image_size;
            let mut r = Recorder::new(caps);
            let image = parts.vision.record(&mut r, &Tensor::unbacked(3 * side, side), Mask::None);
            let several = Segments::unbacked(&parts.vision.segments(4));
            parts.vision.record(&mut r, &Tensor::unbacked(12 * side, side), several.as_mask());
            take(of("vision"), &r);
            let mut r = Recorder::new(caps);
            let words = Tensor::unbacked(1, 9);
            parts.qformer.record_one(&mut r, &image, Some(&words));
            take(of("qformer"), &r);
            for rows in ROWS {
                for tokens in PROMPTS {
                    let need = Capacity::of(&[Room::of(&parts.language, tokens, rows, 256)]);
                    let plan = SessionPlan::new(caps, &parts.language, need, (1, tokens), config.num_query_tokens);
                    take(of(&format!("prompt of {tokens}")), &plan.prefill);
                    take(of(&format!("step of {rows}")), &plan.decode);
                }
            }
        }
    }
    Ok(found)
}

/// A published configuration with two layers in each part: the others run the same kernels.
fn config(model: &str) -> Result<Config> {
    let mut document = Shape::named(model).context("a published shape")?.document();
    let two = Some(2);
    Layers { language: two, vision: two, qformer: two }.put_into(&mut document);
    Ok(Config::parse(Path::new("config.json"), document.to_string().as_bytes())?)
}

/// `linear_vec_q4 WG=64,ROWS=1`.
fn name(kernel: &Kernel, constants: &[(&'static str, f64)]) -> String {
    let constants: Vec<String> = constants.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{} {}", kernel.name, constants.join(",")).trim_end().to_string()
}

/// The hash of a kernel's text. With the constants, which a variant's name has, it says what was compiled.
pub fn hash(kernel: &Kernel) -> u64 {
    fnv1a(kernel.source().bytes())
}
