//! Features, attention maps, larger pictures and padding as the reference pads: what a model gives besides answers.

use crate::support;
use crate::support::Rng;
use crate::support::golden::{Golden, checkpoint_folder, golden_image, relative_l2, values};
use crate::support::models::load;
use instructblip::engine::{Outcome, Picture, Request};
use instructblip::generate::processors::log_softmax;
use instructblip::model::{AttentionMaps, ForwardOptions};
use instructblip::{Engine, EngineOptions, GenerateOptions, Image, InstructBlip, Question};

const COLORS: [(&str, [u8; 3]); 4] =
    [("red", [220, 40, 40]), ("blue", [40, 70, 220]), ("green", [40, 160, 60]), ("purple", [130, 50, 170])];

/// Side of the embedded model's pictures, and of a ninth of one.
const SIDE: u32 = 96;
const CELL: u32 = 32;

/// A white picture with squares of 22 pixels in two of nine cells, which are `(colour, cell)`.
fn scene(objects: &[(usize, u32)]) -> Image {
    let mut pixels = vec![250u8; (SIDE * SIDE * 3) as usize];
    for &(color, cell) in objects {
        let (left, top) = (cell % 3 * CELL + 5, cell / 3 * CELL + 5);
        for y in top..top + 22 {
            for x in left..left + 22 {
                pixels[((y * SIDE + x) * 3) as usize..][..3].copy_from_slice(&COLORS[color].1);
            }
        }
    }
    Image::from_rgb(SIDE, SIDE, pixels).expect("a picture")
}

/// The share of a map that lies in a cell of a ninth of the picture.
fn share(map: &[f32], patches: usize, cell: u32) -> f64 {
    let third = patches / 3;
    let (left, top) = (cell as usize % 3 * third, cell as usize / 3 * third);
    let rows = (top..top + third).flat_map(|y| map[y * patches + left..][..third].iter());
    rows.map(|&v| f64::from(v)).sum()
}

/// Two squares, the same picture asked about one and about the other: how much of the attention falls on the cell of
/// the asked one, where a ninth would be chance, and whether it is more than when the other is asked about.
#[test]
fn attention_falls_on_the_object_that_is_asked_about() {
    let Some(device) = support::shared_device() else { return };
    let mut model = InstructBlip::embedded(&device).expect("the embedded model");
    let mut rng = Rng::new(11);
    let (mut asked, mut other, mut more, count) = (0.0, 0.0, 0, 40);
    for _ in 0..count {
        let first = rng.below(9);
        let second = (first + 1 + rng.below(8)) % 9;
        let colour = rng.below(4) as usize;
        let objects = [(colour, first), ((colour + 1 + rng.below(3) as usize) % 4, second)];
        let image = scene(&objects);
        let mut look = |color: usize| {
            let prompt = format!("Where is the {} square?", COLORS[color].0);
            let maps = model.attention_maps(&image, &prompt).expect("maps");
            let map = maps.mean(maps.layers.last().copied(), None, None);
            assert!((map.iter().sum::<f32>() - 1.0).abs() < 1e-4);
            objects.map(|(_, cell)| share(&map, maps.patches, cell))
        };
        let (of_first, of_second) = (look(objects[0].0), look(objects[1].0));
        asked += of_first[0] + of_second[1];
        other += of_first[1] + of_second[0];
        more += usize::from(of_first[0] > of_second[0]) + usize::from(of_second[1] > of_first[1]);
    }
    let (asked, other) = (asked / f64::from(2 * count), other / f64::from(2 * count));
    println!(
        "{asked:.3} of the attention on the asked object's ninth (chance 0.111), {other:.3} on the other object's;"
    );
    println!("more than when the other is asked about in {more} of {}", 2 * count);
    assert!(asked > 2.0 * 0.111 && asked > other, "{asked} on the asked object, {other} on the other");
    assert!(more as f64 > 0.8 * f64::from(2 * count), "{more}");
}

#[test]
fn attention_maps_are_probabilities_of_every_layer_head_and_query() {
    let Some(device) = support::shared_device() else { return };
    let mut model = InstructBlip::embedded(&device).expect("the embedded model");
    let maps = model.attention_maps(&scene(&[(0, 4)]), "Which colour is it?").expect("maps");
    assert_eq!((maps.layers.as_slice(), maps.queries, maps.patches), (&[0, 2][..], 16, 12));
    for weights in &maps.weights {
        assert_eq!(weights.len(), maps.heads * maps.queries * 145);
        assert!(weights.chunks(145).all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-4));
    }
    let mean = maps.mean(None, None, None);
    let parts: Vec<Vec<f32>> = maps.layers.iter().map(|&layer| maps.mean(Some(layer), None, None)).collect();
    assert!(parts[0] != parts[1] && mean.len() == 144);
}

/// An engine gives, with other questions about, the maps that a model gives.
#[test]
fn engines_give_a_models_attention_maps() {
    let Some(device) = support::shared_device() else { return };
    let mut model = InstructBlip::embedded(&device).expect("the embedded model");
    let (image, prompt) = (scene(&[(0, 4), (2, 7)]), "Where is the circle?");
    let alone = model.attention_maps(&image, prompt).expect("maps");
    let config = model.config().clone();
    let plain = model.features(&image, prompt, &[]).expect("features");
    let missing = AttentionMaps::of(&config, &plain).expect_err("no weights").to_string();
    assert!(missing.contains("layer.0.cross_attention.weights") && missing.contains("taps"), "{missing}");
    let engine = Engine::start(model, &EngineOptions::default()).expect("an engine");
    let options = GenerateOptions::up_to(4);
    let request =
        |features| Request { features, ..Request::new(Picture::Image(image.clone()), prompt, options.clone()) };
    let answers = [(); 2].map(|()| engine.submit(request(None)));
    let asked = engine.submit(request(Some(AttentionMaps::taps(&config))));
    let Outcome::Features(features) = asked.wait().expect("features") else { panic!("features were asked for") };
    answers.into_iter().for_each(|pending| assert!(pending.wait().is_ok()));
    assert_eq!(AttentionMaps::of(&config, &features).expect("maps"), alone);
    let mut others = config;
    others.num_query_tokens += 1;
    let odd = AttentionMaps::of(&others, &features).expect_err("another shape").to_string();
    assert!(odd.contains("another model's"), "{odd}");
}

#[test]
fn features_are_the_stages_of_a_forward_pass() {
    let Some(device) = support::shared_device() else { return };
    let mut model = InstructBlip::embedded(&device).expect("the embedded model");
    let (image, prompt) = (scene(&[(1, 2), (2, 6)]), "Can you count the things?");
    let features = model.features(&image, prompt, &[]).expect("features");
    let stages = model.forward(&Question::new(&image, prompt), &ForwardOptions::default()).expect("stages");
    let stage = |name: &str| values(stages.iter().find(|t| t.name == name).expect("a stage"));
    assert_eq!(values(&features.projected), stage("language_model_inputs"));
    let queries = values(&features.queries);
    assert_eq!(queries, stage("qformer_last_hidden_state")[..queries.len()]);
    let class = values(&features.image);
    assert_eq!(class, stage("vision_last_hidden_state")[..class.len()]);
}

fn ib_llama(device: &instructblip::Device) -> (InstructBlip, Golden) {
    (load(device, &checkpoint_folder("ib-llama")), Golden::of("ib-llama"))
}

#[test]
fn larger_pictures_have_interpolated_positions() {
    let Some(device) = support::shared_device() else { return };
    for (name, side) in [("ib-llama", 28), ("ragged-llama", 21)] {
        interpolates(load(&device, &checkpoint_folder(name)), &Golden::of(name), side);
    }
}

fn interpolates(model: InstructBlip, golden: &Golden, side: u32) {
    let bound = support::stage_bound(model.device());
    let mut model = model.with_image_size(side + 23).expect("a size");
    let image = Image::open(golden_image(golden.about("0.image"))).expect("a picture");
    let question = Question::new(&image, golden.about("0.prompt"));
    let tensors = model.forward(&question, &ForwardOptions::default()).expect("a forward pass");
    let logits = tensors.iter().find(|t| t.name == "logits").expect("logits");
    let error = relative_l2(&values(logits), &golden.tensor("interpolated_logits").1);
    assert!(error <= bound, "off by {error:e}");
    // Positions are always interpolated from the trained ones.
    let mut model = model.with_image_size(side).expect("a size");
    let question = Question::new(&image, golden.about("0.prompt"));
    let tensors = model.forward(&question, &ForwardOptions::default()).expect("a forward pass");
    let logits = tensors.iter().find(|t| t.name == "logits").expect("logits");
    let error = relative_l2(&values(logits), &golden.tensor("0.logits").1);
    assert!(error <= bound, "off by {error:e}");
    assert!(model.with_image_size(3).is_err());
}

/// The reference pads the Q-Former's words on the left where the language model's tokenizer says so, which moves their
/// positions: with padding as there the answer is the reference's, without it is the answer alone.
#[test]
fn trap_left_padding_reaches_the_qformer_in_the_reference() {
    let Some(device) = support::shared_device() else { return };
    let (mut model, golden) = ib_llama(&device);
    let image = Image::open(golden_image(golden.about("0.image"))).expect("a picture");
    let prompt = golden.about("0.prompt");
    let words = model.processor().tokenizers().encode(prompt, prompt, 1).expect("ids").qformer_input_ids.len();
    // A neighbour whose words are three more.
    let mut longer = prompt.to_string();
    while model.processor().tokenizers().encode(prompt, &longer, 1).expect("ids").qformer_input_ids.len() < words + 3 {
        longer.push_str(" a");
    }
    let images = [image];
    let questions = [
        Question { images: &images, prompt, qformer_prompt: None },
        Question { images: &images, prompt, qformer_prompt: Some(&longer) },
    ];
    let one = GenerateOptions { num_beams: 2, ..GenerateOptions::up_to(1) };
    let width = golden.tensor("0.logits").0[2];
    // Log-probability of the likeliest first token.
    let best = |name: &str| {
        let logits: Vec<f32> = golden.tensor(name).1.iter().map(|&v| v as f32).collect();
        log_softmax(&logits[logits.len() - width..]).into_iter().fold(f32::MIN, f32::max)
    };
    let (alone, padded) = (best("0.logits"), best("left_padded_logits"));
    assert!((alone - padded).abs() > 1e-3, "padding changes the scores");
    let first = |model: &mut InstructBlip| {
        let replies = model.answer(&questions, &one).expect("answers");
        replies[0].sequences[0].score.expect("a score")
    };
    assert!((first(&mut model) - alone).abs() < 1e-4);
    assert!((first(&mut model.with_left_padding(true)) - padded).abs() < 1e-4);
}
