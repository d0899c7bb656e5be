//! Generation with every option against transformers' `generate`, over tiny checkpoints of the whole family: greedily
//! with each processor, and with beams over early stopping, length penalty, repetition penalty and number of answers.

use crate::support;
use crate::support::golden::{Golden, checkpoint_folder, golden_image, relative_l2, tests_folder, values};
use crate::support::models::load;
use instructblip::model::{ForwardOptions, LoadOptions};
use instructblip::runtime::WeightFormat;
use instructblip::weights::Formats;
use instructblip::{Checkpoint, Device, EarlyStopping, Error, GenerateOptions, Image, InstructBlip, Question, Reply};
use serde_json::{Map, Value};

/// The reference's keyword arguments as our options.
fn options(json: &Value) -> GenerateOptions {
    let mut options = GenerateOptions::default();
    for (name, value) in json.as_object().expect("an object") {
        let number = value.as_f64().unwrap_or(f64::NAN);
        match name.as_str() {
            "max_new_tokens" => options.max_new_tokens = Some(number as u32),
            "max_length" => options.max_length = Some(number as u32),
            "min_length" => options.min_length = number as u32,
            "min_new_tokens" => options.min_new_tokens = number as u32,
            "num_beams" => options.num_beams = number as u32,
            "num_return_sequences" => options.num_return_sequences = number as u32,
            "repetition_penalty" => options.repetition_penalty = number as f32,
            "no_repeat_ngram_size" => options.no_repeat_ngram_size = number as u32,
            "length_penalty" => options.length_penalty = number as f32,
            "early_stopping" => {
                options.early_stopping = match value {
                    Value::Bool(true) => EarlyStopping::True,
                    Value::Bool(false) => EarlyStopping::False,
                    _ => EarlyStopping::Never,
                }
            }
            "exponential_decay_length_penalty" => {
                let part = |i: usize| value[i].as_f64().expect("a number");
                options.exponential_decay_length_penalty = Some((part(0) as u32, part(1) as f32));
            }
            "eos_token_id" => {
                let ids = value.as_array().expect("a list").iter();
                options.eos_token_ids = Some(ids.map(|id| id.as_u64().expect("an id") as u32).collect());
            }
            other => panic!("no option {other}"),
        }
    }
    options
}

fn stop_ids(model: &InstructBlip) -> Vec<u32> {
    model.config().text.generation().eos_token_ids.clone()
}

/// The calls recorded for a checkpoint, and how many of them had beams.
fn check(device: &Device, name: &str) -> (usize, usize) {
    let folder = checkpoint_folder(name);
    let golden = Golden::of(name);
    let mut model = load(device, &folder);
    let rows = std::fs::read_to_string(folder.join("generation.jsonl")).expect("recorded calls");
    let (mut calls, mut searches) = (0, 0);
    for row in rows.lines() {
        let row: Value = serde_json::from_str(row).expect("a JSON line");
        let open = |file| Image::open(golden_image(file)).expect("a picture");
        let images: Vec<Image> = golden.about(&format!("{}.image", row["case"])).split(',').map(open).collect();
        let prompt = golden.about(&format!("{}.prompt", row["case"]));
        let question = Question { images: &images, prompt, qformer_prompt: None };
        let mut options = options(&row["options"]);
        // The reference ends at the configuration's ids only.
        let ends = options.eos_token_ids.get_or_insert_with(|| stop_ids(&model)).clone();
        let reply = model.answer(&[question], &options).expect("an answer").swap_remove(0);
        let want: Vec<Vec<u32>> = serde_json::from_value(row["sequences"].clone()).expect("ids");
        let got: Vec<Vec<u32>> = reply.sequences.iter().map(|s| s.token_ids.clone()).collect();
        assert_eq!(got, want, "{name}, {} (ends {ends:?})", row["options"]);
        if let Some(scores) = row["scores"].as_array() {
            for (sequence, score) in reply.sequences.iter().zip(scores) {
                let (got, want) = (f64::from(sequence.score.expect("a score")), score.as_f64().expect("a number"));
                assert!((got - want).abs() <= 1e-3 * want.abs().max(1e-3), "{name}: score {got} for {want}");
            }
            searches += 1;
        }
        calls += 1;
    }
    (calls, searches)
}

/// Names of the checkpoints with recorded calls.
fn family() -> Vec<String> {
    let root = tests_folder().join("golden/checkpoints");
    let folders = std::fs::read_dir(&root).expect("golden checkpoints").map(|e| e.expect("an entry").path());
    let recorded = folders.filter(|folder| folder.join("generation.jsonl").exists());
    let mut names: Vec<String> = recorded.map(|f| f.file_name().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    assert!(names.len() >= 10, "the whole family: {names:?}");
    names
}

#[test]
fn every_call_of_generate_gives_the_recorded_answers() {
    let Some(device) = support::shared_device() else { return };
    for name in family() {
        let (calls, searches) = check(&device, &name);
        assert!(calls >= 59 && searches >= 48, "{name}: {calls} calls, {searches} with beams");
    }
}

/// Rows are as many as are asked for; one run holds 256 of them.
#[test]
fn more_rows_than_one_run_holds_are_answered() {
    let Some(device) = support::shared_device() else { return };
    let mut model = load(&device, &checkpoint_folder("b2-opt"));
    let image = Image::from_rgb(2, 1, vec![9, 200, 30, 7, 7, 7]).expect("a picture");
    let asked: Vec<Question<'_>> = (0..70).map(|_| Question::new(&image, "What is it?")).collect();
    let options = GenerateOptions { num_beams: 4, ..GenerateOptions::up_to(2) };
    let replies = model.answer(&asked, &options).expect("answers");
    assert!(replies.len() == 70 && replies.iter().all(|reply| reply.token_ids == replies[0].token_ids));
}

/// The configuration's end-of-text id and the tokenizer's are one where they agree: how many there are decides how many
/// tokens beams draw.
#[test]
fn one_end_of_text_id_counts_once() {
    let Some(device) = support::shared_device() else { return };
    let mut model = load(&device, &checkpoint_folder("b2-t5"));
    let image = Image::from_rgb(2, 1, vec![9, 200, 30, 7, 7, 7]).expect("a picture");
    assert_eq!((stop_ids(&model), model.processor().tokenizers().eos_token_id()), (vec![1], Some(1)));
    let mut possible = |eos: Option<Vec<u32>>| {
        let options = GenerateOptions {
            do_sample: true,
            num_beams: 3,
            num_return_sequences: 3,
            top_k: 1,
            eos_token_ids: eos,
            ..GenerateOptions::up_to(1)
        };
        let reply = model.ask(&image, "What is it?", &options).expect("answers");
        reply.sequences.iter().filter(|s| s.score.is_some_and(|score| score > -1e8)).count()
    };
    // As the reference: two of the likeliest stay, and three where there are two ids.
    assert_eq!((possible(None), possible(Some(vec![1, 1])), possible(Some(vec![1, 40]))), (2, 2, 3));
}

/// HF #34223: prompts of a batch were expanded as if they were one. Here each has its own beams: the answers of a batch
/// are those given alone.
#[test]
fn trap_a_batch_is_expanded_prompt_by_prompt() {
    let Some(device) = support::shared_device() else { return };
    for name in family() {
        let folder = checkpoint_folder(&name);
        let golden = Golden::of(&name);
        let mut model = load(&device, &folder);
        let open = |file| Image::open(golden_image(file)).expect("a picture");
        let images: Vec<Vec<Image>> = (0..golden.cases())
            .map(|case| golden.about(&format!("{case}.image")).split(',').map(open).collect())
            .collect();
        let asked: Vec<Question<'_>> = (0..golden.cases())
            .map(|case| Question {
                images: &images[case],
                prompt: golden.about(&format!("{case}.prompt")),
                qformer_prompt: None,
            })
            .collect();
        for (beams, answers) in [(1, 1), (3, 2)] {
            let options =
                GenerateOptions { num_beams: beams, num_return_sequences: answers, ..GenerateOptions::up_to(12) };
            let together = model.answer(&asked, &options).expect("answers");
            for (case, (question, reply)) in asked.iter().zip(together).enumerate() {
                let alone = model.answer(std::slice::from_ref(question), &options).expect("an answer");
                let ids = |reply: &Reply| reply.sequences.iter().map(|s| s.token_ids.clone()).collect::<Vec<_>>();
                assert_eq!(ids(&reply), ids(&alone[0]), "{name}, case {case}, {beams} beams");
                if beams == 1 {
                    assert_eq!(reply.token_ids, golden.ids(&format!("{case}.greedy_ids")), "{name}, case {case}");
                }
            }
        }
    }
}

/// Checkpoints whose dimensions are no multiples of anything; `tests/library/stages.rs` compares their stages.
const RAGGED: [&str; 6] =
    ["ragged-llama", "ragged-b2-llama", "ragged-video", "ragged-t5", "ragged-t5-tied", "ragged-opt"];

/// The pictures and prompts that a checkpoint's golden file is about.
fn cases(golden: &Golden) -> Vec<(Vec<Image>, String)> {
    let open = |file| Image::open(golden_image(file)).expect("a picture");
    let case = |case| {
        let images = golden.about(&format!("{case}.image")).split(',').map(open).collect();
        (images, golden.about(&format!("{case}.prompt")).to_string())
    };
    (0..golden.cases()).map(case).collect()
}

/// Tests what the stage tests do not reach, on one device: its kernels are compiled once.
#[test]
fn ragged_models_answer_in_every_way_and_show_what_others_show() {
    let Some(device) = support::shared_device() else { return };
    for name in RAGGED {
        let golden = Golden::of(name);
        let mut model = load(&device, &checkpoint_folder(name));
        let cases = cases(&golden);
        let ask = |case: usize| Question { images: &cases[case].0, prompt: &cases[case].1, qformer_prompt: None };
        let asked: Vec<Question<'_>> = (0..cases.len()).map(ask).collect();
        beams_batches_and_chance(name, &golden, &mut model, &asked);
        if !model.config().takes_frames() {
            features_and_attention(name, &golden, &mut model, &asked[0]);
        }
        if name == "ragged-b2-llama" || name == "ragged-opt" {
            quantised(name, &golden, &device, &asked[0]);
        }
    }
}

fn beams_batches_and_chance(name: &str, golden: &Golden, model: &mut InstructBlip, asked: &[Question<'_>]) {
    let ends = Some(stop_ids(model));
    let beams = GenerateOptions { num_beams: 3, eos_token_ids: ends.clone(), ..GenerateOptions::up_to(8) };
    let found = model.answer(&asked[..1], &beams).expect("an answer");
    assert_eq!(found[0].token_ids, golden.ids("0.beam_ids"), "{name}: beams");
    let greedy = GenerateOptions { eos_token_ids: ends, ..GenerateOptions::up_to(12) };
    let batch = model.answer(asked, &greedy).expect("answers");
    for (case, reply) in batch.iter().enumerate() {
        assert_eq!(reply.token_ids, golden.ids(&format!("{case}.greedy_ids")), "{name}: case {case} of a batch");
    }
    // Every token may come, none that is not there.
    let chance = GenerateOptions {
        do_sample: true,
        top_k: 0,
        temperature: 5.0,
        num_return_sequences: 9,
        seed: 1,
        ..GenerateOptions::up_to(9)
    };
    let drawn = model.answer(&asked[..1], &chance).expect("answers").swap_remove(0);
    let vocabulary = model.config().text.vocab_size();
    assert!(drawn.sequences.iter().flat_map(|s| &s.token_ids).all(|&id| id < vocabulary), "{name}: {drawn:?}");
}

fn features_and_attention(name: &str, golden: &Golden, model: &mut InstructBlip, question: &Question<'_>) {
    let (image, bound) = (&question.images[0], support::stage_bound(model.device()));
    let features = model.features(image, question.prompt, &[]).expect("features");
    let error = relative_l2(&values(&features.projected), &golden.tensor("0.language_model_inputs").1);
    assert!(error <= bound, "{name}: features are off by {error:e}");
    let maps = model.attention_maps(image, question.prompt).expect("maps");
    let keys = maps.patches * maps.patches + 1;
    for row in maps.weights.iter().flat_map(|layer| layer.chunks(keys)) {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{name}: {row:?}");
    }
}

/// Rows that are no whole groups stay f16.
fn quantised(name: &str, golden: &Golden, device: &Device, question: &Question<'_>) {
    let checkpoint = Checkpoint::directory(checkpoint_folder(name)).expect("a folder");
    let options = LoadOptions { formats: Formats::usual(WeightFormat::Q8), ..LoadOptions::default() };
    let mut model = InstructBlip::load_with(device, &checkpoint, &options).expect("a model");
    let tensors = model.forward(question, &ForwardOptions::default()).expect("a forward pass");
    let logits = values(tensors.iter().find(|t| t.name == "logits").expect("logits"));
    let error = relative_l2(&logits, &golden.tensor("0.logits").1);
    assert!(error < 0.03, "{name} in 8 bits is off by {error}");
}

/// Answers that begin as they are told and do without some words, greedy and with beams, of each language model.
#[test]
fn answers_begin_as_they_are_told_and_do_without_words() {
    let Some(device) = support::shared_device() else { return };
    let text = std::fs::read_to_string(tests_folder().join("golden/words.jsonl")).expect("the goldens");
    let rows: Vec<Value> = text.lines().skip(1).map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    assert!(rows.len() >= 24, "{} calls", rows.len());
    for rows in rows.chunk_by(|one, next| one["checkpoint"] == next["checkpoint"]) {
        let name = rows[0]["checkpoint"].as_str().expect("a name");
        let mut model = load(&device, &checkpoint_folder(name));
        let image = Image::open(golden_image(rows[0]["image"].as_str().expect("a file"))).expect("a picture");
        let question = Question::new(&image, rows[0]["prompt"].as_str().expect("a prompt"));
        for row in rows {
            let mut json = row["options"].clone();
            let forced: Vec<u32> = serde_json::from_value(json["prefix"].take()).unwrap_or_default();
            let words: Vec<Vec<u32>> = serde_json::from_value(json["bad_words_ids"].take()).unwrap_or_default();
            let kept = json.as_object().expect("options").iter().filter(|(_, value)| !value.is_null());
            let given = options(&kept.map(|(key, value)| (key.clone(), value.clone())).collect::<Map<_, _>>().into());
            let asked = GenerateOptions {
                bad_words_ids: words,
                prefix_ids: forced,
                eos_token_ids: Some(stop_ids(&model)),
                ..given
            };
            let reply = model.answer(&[question], &asked).expect("an answer").swap_remove(0);
            let got: Vec<Vec<u32>> = reply.sequences.iter().map(|s| s.token_ids.clone()).collect();
            let want: Vec<Vec<u32>> = serde_json::from_value(row["sequences"].clone()).expect("ids");
            assert_eq!(got, want, "{name}, {}", row["options"]);
        }
    }
}

/// A beginning in words is part of the answer and of what is streamed, and a banned word is gone.
#[test]
fn prefixes_and_bad_words_are_given_as_text() {
    let Some(device) = support::shared_device() else { return };
    let mut model = InstructBlip::embedded(&device).expect("a model");
    let image = Image::open(tests_folder().join("shapes/samples/10.png")).expect("a picture");
    let prompt = "Write a short caption for the picture.";
    let plain = GenerateOptions::up_to(30);
    assert_eq!(model.ask(&image, prompt, &plain).expect("an answer").text, "a blue cross above a green triangle");
    let begun = GenerateOptions { prefix: "a green triangle".into(), ..plain.clone() };
    let reply = model.ask(&image, prompt, &begun).expect("an answer");
    assert!(reply.text.starts_with("a green triangle ") && reply.text.len() > 20, "{}", reply.text);
    let pieces = model.generate(&image, prompt, &begun).expect("an answer").collect::<Result<String, _>>();
    assert_eq!(pieces.expect("text").trim(), reply.text);
    let banned = GenerateOptions { bad_words: vec!["blue".into(), "cross".into()], ..plain.clone() };
    let without = model.ask(&image, prompt, &banned).expect("an answer").text;
    assert!(!without.contains("blue") && !without.contains("cross") && !without.is_empty(), "{without}");
    for wrong in [
        GenerateOptions { bad_words: vec![String::new()], ..plain.clone() },
        GenerateOptions { bad_words_ids: vec![vec![1_000_000]], ..plain.clone() },
        GenerateOptions { prefix_ids: vec![1_000_000], ..plain },
    ] {
        assert!(matches!(model.ask(&image, prompt, &wrong), Err(Error::Request { .. })));
    }
}
