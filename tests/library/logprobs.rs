//! Log-probabilities of an answer's tokens: the recorded ones of each family, those of a forward pass's logits, streams.

use instructblip::engine::{Event, Outcome, Picture, Request};
use instructblip::generate::processors::log_softmax;
use instructblip::model::{AnswerText, ForwardOptions, NamedTensor};
use instructblip::{Engine, EngineOptions, Error, GenerateOptions, Image, InstructBlip, Question, Reply, TokenLogprob};
use serde_json::Value;

use crate::support;
use crate::support::golden::{checkpoint_folder, golden_image, tests_folder, values};
use crate::support::models::load;

const PROMPT: &str = "Please describe the photo in detail.";

fn sample() -> Image {
    Image::open(tests_folder().join("shapes/samples/01.png")).expect("a picture")
}

fn list<T: serde::de::DeserializeOwned>(row: &Value, name: &str) -> Vec<T> {
    serde_json::from_value(row[name].clone()).unwrap_or_else(|_| panic!("no {name}"))
}

/// The options of a recorded call, and the five likeliest tokens.
fn options(json: &Value, model: &InstructBlip) -> GenerateOptions {
    let mut params = json.as_object().expect("options").clone();
    if let Some(prefix) = params.remove("prefix") {
        params.insert("prefix_ids".into(), prefix);
    }
    let eos_token_ids = Some(model.config().text.generation().eos_token_ids.clone());
    let plain = GenerateOptions { logprobs: Some(5), eos_token_ids, ..GenerateOptions::default() };
    plain.with_params(&params).expect("options")
}

fn is_close(got: f32, want: f64) -> bool {
    (f64::from(got) - want).abs() <= 2e-4
}

/// The reference's, whatever penalties, bans and beginnings did to the scores.
#[test]
fn tokens_have_the_recorded_log_probabilities() {
    let Some(device) = support::shared_device() else { return };
    let text = std::fs::read_to_string(tests_folder().join("golden/logprobs.jsonl")).expect("the goldens");
    let rows: Vec<Value> = text.lines().skip(1).map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    assert!(rows.len() >= 15, "{} calls", rows.len());
    for rows in rows.chunk_by(|one, next| one["checkpoint"] == next["checkpoint"]) {
        let name = rows[0]["checkpoint"].as_str().expect("a name");
        let mut model = load(&device, &checkpoint_folder(name));
        let image = Image::open(golden_image(rows[0]["image"].as_str().expect("a file"))).expect("a picture");
        for row in rows {
            let what = format!("{name}, {}", row["options"]);
            let asked = options(&row["options"], &model);
            let prompt = row["prompt"].as_str().expect("a prompt");
            let reply = model.ask(&image, prompt, &asked).expect("an answer");
            assert_eq!(reply.token_ids, list::<u32>(row, "ids"), "{what}");
            let told = &reply.sequences[0].logprobs;
            assert_eq!(told.iter().map(|told| told.token_id).collect::<Vec<_>>(), reply.token_ids, "{what}");
            let (top_ids, top) = (list::<Vec<u32>>(row, "top_ids"), list::<Vec<f64>>(row, "top_logprobs"));
            for (i, want) in list::<f64>(row, "logprobs").into_iter().enumerate() {
                let TokenLogprob { logprob, top: got, .. } = &told[i];
                assert!(is_close(*logprob, want), "{what}: token {i} has {logprob}, not {want}");
                assert_eq!(got.iter().map(|(id, _)| *id).collect::<Vec<_>>(), top_ids[i], "{what}: token {i}");
                assert!(got.iter().zip(&top[i]).all(|((_, got), want)| is_close(*got, *want)), "{what}: {got:?}");
            }
        }
    }
}

/// Log-softmax of the rows that predict an answer's tokens.
fn check_against(logits: &NamedTensor, first: usize, answer: &AnswerText) {
    let rows: Vec<&[f32]> = logits.rows().collect();
    assert_eq!(answer.logprobs.len(), answer.token_ids.len());
    for (i, told) in answer.logprobs.iter().enumerate().take(rows.len() - first) {
        let all = log_softmax(rows[first + i]);
        assert!(is_close(told.logprob, all[told.token_id as usize].into()), "token {i}: {told:?}");
        assert!(
            told.top.iter().all(|&(id, logprob)| is_close(logprob, all[id as usize].into())),
            "token {i}: {told:?}"
        );
        let beaten = all.iter().filter(|&&p| p > told.top[0].1 + 2e-4).count();
        assert!(beaten == 0 && told.top.is_sorted_by(|a, b| a.1 >= b.1), "token {i}: {told:?}");
    }
}

fn logits(model: &mut InstructBlip, question: &Question<'_>, options: &ForwardOptions) -> (Vec<u32>, NamedTensor) {
    let tensors = model.forward(question, options).expect("a forward pass");
    let ids = values(tensors.iter().find(|t| t.name == "input_ids").expect("ids"));
    let logits = tensors.into_iter().find(|t| t.name == "logits").expect("logits");
    (ids.iter().map(|&id| id as u32).collect(), logits)
}

/// Drawn, taken with a penalty, and after a beginning: always those of the logits of one pass over prompt and answer.
#[test]
fn they_are_the_log_softmax_of_a_forward_passs_logits() {
    let Some(device) = support::shared_device() else { return };
    let plain = GenerateOptions { logprobs: Some(4), ..GenerateOptions::up_to(10) };
    let drawn = GenerateOptions { do_sample: true, temperature: 3.0, top_k: 20, seed: 5, ..plain.clone() };
    let penalized = GenerateOptions { repetition_penalty: 1.8, prefix: "a red".into(), ..plain.clone() };
    let mut model = InstructBlip::embedded(&device).expect("a model");
    let mut t5 = load(&device, &checkpoint_folder("ib-t5-tanh"));
    let image = sample();
    for options in [plain, drawn, penalized] {
        let reply = model.ask(&image, PROMPT, &options).expect("an answer");
        let answer = &reply.sequences[0];
        // The prompt is asked with the answer in it: the rows before the answer's tokens predict them.
        let whole = format!("{PROMPT} {}", reply.text);
        let asked = Question { images: std::slice::from_ref(&image), prompt: &whole, qformer_prompt: Some(PROMPT) };
        let (ids, logits_of_all) = logits(&mut model, &asked, &ForwardOptions::default());
        let start = reply.prompt_tokens;
        let same = ids[start..].iter().zip(&answer.token_ids).take_while(|(id, token)| id == token).count();
        assert!(same >= 4, "{:?} begins like {:?}", &ids[start..], answer.token_ids);
        let answer = AnswerText {
            logprobs: answer.logprobs[..same].to_vec(),
            token_ids: answer.token_ids[..same].to_vec(),
            ..answer.clone()
        };
        check_against(&logits_of_all, start - 1, &answer);

        let options = GenerateOptions { prefix: String::new(), prefix_ids: vec![40, 41], ..options };
        let answer = t5.ask(&image, PROMPT, &options).expect("an answer").sequences.swap_remove(0);
        let decoder_input_ids = [&[0], &answer.token_ids[..answer.token_ids.len() - 1]].concat();
        let given = ForwardOptions { decoder_input_ids, ..ForwardOptions::default() };
        check_against(&logits(&mut t5, &Question::new(&image, PROMPT), &given).1, 0, &answer);
    }
}

fn without(reply: &Reply) -> Vec<(Vec<u32>, String)> {
    reply.sequences.iter().map(|answer| (answer.token_ids.clone(), answer.text.clone())).collect()
}

/// The host chooses where the device did, and draws from all scores where it drew from few: the same tokens.
#[test]
fn asking_for_them_changes_no_answer() {
    let Some(device) = support::shared_device() else { return };
    let mut model = InstructBlip::embedded(&device).expect("a model");
    let plain = GenerateOptions::up_to(40);
    let drawn =
        GenerateOptions { do_sample: true, temperature: 2.0, seed: 3, num_return_sequences: 3, ..plain.clone() };
    for options in [plain.clone(), drawn] {
        for n in [0, 20] {
            let told = GenerateOptions { logprobs: Some(n), ..options.clone() };
            let reply = model.ask(&sample(), PROMPT, &told).expect("an answer");
            let usual = model.ask(&sample(), PROMPT, &options).expect("an answer");
            assert_eq!(without(&reply), without(&usual));
            assert!(usual.sequences.iter().all(|answer| answer.logprobs.is_empty()));
            for answer in &reply.sequences {
                let ids: Vec<u32> = answer.logprobs.iter().map(|told| told.token_id).collect();
                assert_eq!(ids, answer.token_ids);
                assert!(answer.logprobs.iter().all(|told| told.top.len() == n as usize && told.logprob <= 0.0));
            }
        }
    }
    let told = GenerateOptions { logprobs: Some(2), ..plain };
    let whole = model.ask(&sample(), PROMPT, &told).expect("an answer");
    let mut streamed = model.generate(&sample(), PROMPT, &told).expect("an answer");
    assert!(streamed.by_ref().all(|piece| piece.is_ok()));
    assert_eq!(streamed.into_reply().sequences, whole.sequences);
    let json = whole.to_json("model", "device");
    let first = &whole.sequences[0].logprobs[0];
    let pairs = serde_json::json!([[first.top[0].0, first.top[0].1], [first.top[1].0, first.top[1].1]]);
    let object = serde_json::json!({"token_id": first.token_id, "logprob": first.logprob, "top": pairs});
    assert_eq!(json["sequences"][0]["logprobs"][0], object);
    assert_eq!(json["sequences"][0]["logprobs"].as_array().map(Vec::len), Some(whole.token_ids.len()));
}

/// An engine tells every token before its text; with several answers the reply alone has them.
#[test]
fn engines_tell_tokens_before_their_text() {
    let Some(device) = support::shared_device() else { return };
    let model = InstructBlip::embedded(&device).expect("a model");
    let tokenizers = model.processor().shared_tokenizers();
    let engine = Engine::start(model, &EngineOptions::default()).expect("an engine");
    let options = GenerateOptions { logprobs: Some(1), ..GenerateOptions::up_to(40) };
    let request = |options: GenerateOptions| Request::new(Picture::Image(sample()), PROMPT, options);
    let (mut tokens, mut text) = (Vec::new(), String::new());
    for event in engine.submit(request(options.clone())) {
        match event.expect("an answer") {
            Event::Token(told) => tokens.push(told),
            Event::Text(piece) => {
                text += &piece;
                let bytes: Vec<u8> = tokens.iter().flat_map(|told| tokenizers.token_bytes(told.token_id)).collect();
                let so_far = String::from_utf8(bytes).expect("whole characters");
                assert_eq!(so_far.trim_start(), text.trim_start());
            }
            Event::Done(Outcome::Reply(reply)) => assert_eq!(reply.sequences[0].logprobs, tokens),
            Event::Done(_) => panic!("an answer was asked for"),
        }
    }
    assert!(tokens.len() > 5, "{tokens:?}");
    let two = GenerateOptions { do_sample: true, num_return_sequences: 2, ..options.clone() };
    for event in engine.submit(request(two)) {
        let Event::Done(Outcome::Reply(reply)) = event.expect("an answer") else { panic!("one event") };
        assert!(reply.sequences.iter().all(|answer| answer.logprobs.len() == answer.token_ids.len()));
    }
    for (wrong, part) in [
        (GenerateOptions { logprobs: Some(21), ..options.clone() }, "logprobs is 21"),
        (GenerateOptions { num_beams: 2, ..options }, "num_beams 2"),
    ] {
        match engine.submit(request(wrong)).wait() {
            Err(Error::Request { problem }) => assert!(problem.contains(part), "{problem}"),
            other => panic!("{part}: {other:?}"),
        }
    }
}
