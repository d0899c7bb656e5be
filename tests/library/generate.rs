//! Whole answers: the recorded ones of the embedded model, the cache against one long prompt, stopping, streaming.

use crate::support;
use crate::support::golden::{Golden, checkpoint_folder, max_difference, relative_l2, tests_folder, values};
use instructblip::generate::processors::{CANDIDATES, Processors, log_softmax};
use instructblip::generate::scores::Scores;
use instructblip::generate::session::{Placed, Request};
use instructblip::generate::{Capacity, Limits, PromptInputs, Prompted, Room, Session, Slots};
use instructblip::model::{ForwardOptions, Parts};
use instructblip::runtime::{Category, Device};
use instructblip::{Checkpoint, FinishReason, GenerateOptions, Image, InstructBlip, Question, Reply};
use serde_json::Value;

fn rows(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(tests_folder().join("shapes").join(file)).expect("a question file");
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

fn field<'a>(row: &'a Value, name: &str) -> &'a str {
    row[name].as_str().unwrap_or_else(|| panic!("no {name}"))
}

/// Answers to every question of a file, in order.
fn answers(model: &mut InstructBlip, rows: &[Value]) -> Vec<String> {
    let options = GenerateOptions::up_to(80);
    let answer = |row: &Value| {
        let image = Image::open(tests_folder().join("shapes").join(field(row, "image"))).expect("a picture");
        model.ask(&image, field(row, "prompt"), &options).expect("an answer").text
    };
    rows.iter().map(answer).collect()
}

/// The answers to all rows as one batch.
fn answers_at_once(model: &mut InstructBlip, rows: &[Value]) -> Vec<String> {
    let open = |row| Image::open(tests_folder().join("shapes").join(field(row, "image"))).expect("a picture");
    let images: Vec<Image> = rows.iter().map(open).collect();
    let questions = rows.iter().zip(&images).map(|(row, image)| Question::new(image, field(row, "prompt")));
    let questions: Vec<Question<'_>> = questions.collect();
    let replies = model.answer(&questions, &GenerateOptions::up_to(80)).expect("answers");
    replies.into_iter().map(|reply| reply.text).collect()
}

fn embedded(device: &Device) -> InstructBlip {
    InstructBlip::embedded(device).expect("the embedded model")
}

fn sample(name: &str) -> Image {
    Image::open(tests_folder().join("shapes/samples").join(name)).expect("a picture")
}

#[test]
fn samples_are_answered_as_recorded() {
    let Some(device) = support::shared_device() else { return };
    let rows = rows("samples.jsonl");
    for (row, answer) in rows.iter().zip(answers(&mut embedded(&device), &rows)) {
        assert_eq!(answer, field(row, "hf_greedy"), "{} {:?}", field(row, "image"), field(row, "prompt"));
    }
}

#[test]
fn samples_are_answered_as_recorded_with_default_limits_and_no_features() {
    let Some(device) = support::portable_device() else { return };
    let rows = rows("samples.jsonl");
    let answers = answers(&mut embedded(&device), &rows);
    assert!(rows.iter().zip(answers).all(|(row, answer)| answer == field(row, "hf_greedy")));
}

#[test]
fn evaluation_accuracy_is_no_lower_than_recorded() {
    let Some(device) = support::shared_device() else { return };
    let rows = rows("eval.jsonl");
    let mut model = embedded(&device);
    let batches: Vec<Vec<String>> = rows.chunks(16).map(|rows| answers_at_once(&mut model, rows)).collect();
    let answers = batches.concat();
    let right = rows.iter().zip(&answers).filter(|(row, answer)| *answer == field(row, "expected")).count();
    let recorded = rows.iter().filter(|row| field(row, "hf_greedy") == field(row, "expected")).count();
    let same = rows.iter().zip(&answers).filter(|(row, answer)| *answer == field(row, "hf_greedy")).count();
    println!("{right} of {} right (recorded {recorded}), {same} equal to the recorded answers", rows.len());
    assert!(right >= recorded, "{right} right, recorded {recorded}");
}

#[test]
fn generation_stops_at_max_new_tokens() {
    let Some(device) = support::shared_device() else { return };
    let mut model = embedded(&device);
    let (image, prompt) = (sample("01.png"), "Please describe the photo in detail.");
    let whole = model.ask(&image, prompt, &GenerateOptions::default()).expect("an answer");
    assert_eq!(whole.finish_reason, FinishReason::Eos);
    assert_eq!(whole.token_ids.last(), Some(&2));
    for n in [1, 2, 3] {
        let cut = model.ask(&image, prompt, &GenerateOptions::up_to(n)).expect("an answer");
        assert_eq!(
            (cut.finish_reason, cut.token_ids.as_slice()),
            (FinishReason::Length, &whole.token_ids[..n as usize])
        );
    }
}

#[test]
fn an_answer_left_halfway_does_not_disturb_the_next() {
    let Some(device) = support::shared_device() else { return };
    let mut model = embedded(&device);
    let (image, prompt) = (sample("01.png"), "Please describe the photo in detail.");
    let options = GenerateOptions::default();
    let whole = model.ask(&image, prompt, &options).expect("an answer").text;
    let first = model.generate(&image, prompt, &options).expect("an answer").next().expect("a piece").expect("text");
    assert!(whole.starts_with(first.trim_start()));
    assert_eq!(model.ask(&image, prompt, &options).expect("an answer").text, whole);
}

#[test]
fn streamed_pieces_join_to_the_text() {
    let Some(device) = support::shared_device() else { return };
    let mut model = embedded(&device);
    let mut answer = model
        .generate(&sample("02.png"), "Write a short caption for the picture.", &GenerateOptions::default())
        .expect("an answer");
    let pieces: Vec<String> = answer.by_ref().map(|piece| piece.expect("a piece")).collect();
    assert!(pieces.len() > 5, "one piece per word or so: {pieces:?}");
    assert_eq!(pieces.concat().trim(), answer.into_reply().text);
}

#[test]
fn a_second_answer_creates_no_session() {
    let Some(device) = support::device() else { return };
    let mut model = embedded(&device);
    let (image, options) = (sample("00.png"), GenerateOptions::up_to(8));
    model.ask(&image, "What shape is it?", &options).expect("an answer");
    let cache = device.counters().bytes(Category::KvCache);
    model.ask(&image, "What color is the circle?", &options).expect("an answer");
    assert_eq!(device.counters().bytes(Category::KvCache), cache);
}

#[test]
fn a_decode_step_creates_no_buffers_and_no_bind_groups() {
    let Some(device) = support::device() else { return };
    let mut model = embedded(&device);
    let image = sample("01.png");
    let mut answer =
        model.generate(&image, "Please describe the photo in detail.", &GenerateOptions::default()).expect("an answer");
    answer.next().expect("a first piece").expect("text");
    let counters = device.counters();
    let before = (counters.buffers_created(), counters.bind_groups_created());
    assert!(answer.by_ref().take(20).filter(|piece| piece.is_ok()).count() >= 15, "a long answer");
    assert_eq!((counters.buffers_created(), counters.bind_groups_created()), before);
}

/// A picture and a question of every row of a question file.
fn questions(rows: &[Value]) -> Vec<(Image, String)> {
    let picture =
        |row: &Value| Image::open(tests_folder().join("shapes").join(field(row, "image"))).expect("a picture");
    rows.iter().map(|row| (picture(row), field(row, "prompt").to_string())).collect()
}

#[test]
fn beam_answers_are_those_recorded() {
    let Some(device) = support::shared_device() else { return };
    let rows = rows("samples.jsonl");
    let asked = questions(&rows);
    let asked: Vec<Question<'_>> = asked.iter().map(|(image, prompt)| Question::new(image, prompt)).collect();
    let options = GenerateOptions { num_beams: 5, ..GenerateOptions::up_to(80) };
    let mut model = embedded(&device);
    for (row, question) in rows.iter().zip(&asked) {
        let reply = model.answer(std::slice::from_ref(question), &options).expect("an answer").remove(0);
        assert_eq!(reply.text, field(row, "hf_beam5"), "{} {:?}", field(row, "image"), field(row, "prompt"));
    }
    let golden = Golden::read(&tests_folder().join("shapes/golden.safetensors"));
    for case in 0..2 {
        let about = |key: &str| golden.about(&format!("{case}.{key}")).to_string();
        let image = Image::open(tests_folder().join("shapes").join(about("image"))).expect("a picture");
        let options = GenerateOptions { num_return_sequences: 5, ..options.clone() };
        let reply = model.ask(&image, &about("prompt"), &options).expect("an answer");
        assert_eq!(reply.token_ids, golden.ids(&format!("{case}.beam5_ids")));
        let scores = &golden.tensor(&format!("{case}.beam5_scores")).1;
        for (got, want) in reply.sequences.iter().zip(scores) {
            assert!((f64::from(got.score.expect("a score")) - want).abs() < 1e-3, "{got:?}, {want}");
        }
    }
}

/// Prompts of all lengths in one batch, greedily, drawn and with beams: every answer is the one given alone.
#[test]
fn trap_an_answer_in_a_batch_is_the_answer_alone() {
    let Some(device) = support::shared_device() else { return };
    let asked = questions(&rows("samples.jsonl")[..12]);
    let asked: Vec<Question<'_>> = asked.iter().map(|(image, prompt)| Question::new(image, prompt)).collect();
    let mut model = embedded(&device);
    let plain = GenerateOptions::up_to(20);
    let drawn =
        GenerateOptions { do_sample: true, temperature: 3.0, seed: 7, num_return_sequences: 2, ..plain.clone() };
    let beams = GenerateOptions { num_beams: 3, num_return_sequences: 2, ..plain.clone() };
    // Leaves the longest prompt a few tokens, and the others theirs.
    let whole = GenerateOptions { max_length: Some(56), max_new_tokens: None, ..plain.clone() };
    for options in [plain, drawn, beams, whole] {
        let together = model.answer(&asked, &options).expect("answers");
        for (question, reply) in asked.iter().zip(together) {
            let alone = model.answer(std::slice::from_ref(question), &options).expect("an answer");
            let ids = |reply: &Reply| reply.sequences.iter().map(|s| s.token_ids.clone()).collect::<Vec<_>>();
            assert_eq!(ids(&reply), ids(&alone[0]), "{:?}", question.prompt);
        }
    }
}

#[test]
fn the_same_seed_draws_the_same_answer_and_another_one_others() {
    let Some(device) = support::shared_device() else { return };
    let mut model = embedded(&device);
    let (image, prompt) = (sample("01.png"), "Please describe the photo in detail.");
    let mut draw = |seed| {
        let options = GenerateOptions { do_sample: true, temperature: 2.0, seed, ..GenerateOptions::up_to(30) };
        let streamed = model.generate(&image, prompt, &options).expect("an answer");
        let streamed: String = streamed.map(|piece| piece.expect("a piece")).collect();
        let whole = model.ask(&image, prompt, &options).expect("an answer").text;
        assert_eq!(streamed.trim(), whole, "seed {seed}");
        whole
    };
    let (first, again) = (draw(1), draw(1));
    assert_eq!(first, again);
    assert!((2..6).any(|seed| draw(seed) != first));
}

#[test]
fn stop_strings_end_answers() {
    let Some(device) = support::shared_device() else { return };
    let mut model = embedded(&device);
    let (image, prompt) = (sample("01.png"), "Please describe the photo in detail.");
    let whole = model.ask(&image, prompt, &GenerateOptions::default()).expect("an answer").text;
    let word = whole.split_whitespace().nth(3).expect("a long answer");
    let options = GenerateOptions { stop_strings: vec![word.into()], ..GenerateOptions::default() };
    let cut = model.ask(&image, prompt, &options).expect("an answer");
    assert_eq!(cut.finish_reason, FinishReason::Stop);
    assert!(whole.starts_with(&cut.text) && cut.text.ends_with(word), "{:?}", cut.text);
    let beams = GenerateOptions { num_beams: 3, ..options };
    assert!(model.ask(&image, prompt, &beams).expect("an answer").text.contains(word));
}

/// A choice's score is what the logits of one long prompt say, and the best of yes and no is right as often as the
/// generated answer.
#[test]
fn scores_are_log_probabilities_and_rank_as_well_as_answers() {
    let Some(device) = support::shared_device() else { return };
    let mut model = embedded(&device);
    let rows = rows("eval.jsonl");
    let yes_no: Vec<&Value> = rows.iter().filter(|row| ["yes", "no"].contains(&field(row, "expected"))).collect();
    assert!(yes_no.len() > 30, "{}", yes_no.len());
    let (mut ranked, mut generated) = (0, 0);
    for row in &yes_no {
        let image = Image::open(tests_folder().join("shapes").join(field(row, "image"))).expect("a picture");
        let scores = model.score(&Question::new(&image, field(row, "prompt")), &["yes", "no"]).expect("scores");
        let best = if scores[0].mean > scores[1].mean { "yes" } else { "no" };
        ranked += usize::from(best == field(row, "expected"));
        generated += usize::from(field(row, "hf_greedy") == field(row, "expected"));
    }
    println!("{} yes/no questions: {ranked} right by ranking, {generated} by generation", yes_no.len());
    assert!(ranked >= generated);

    let (image, prompt) = (sample("02.png"), "Write a short caption for the picture.");
    let choices = ["a white ring", "red", "a white ring above a blue square"];
    let question = Question::new(&image, prompt);
    for (choice, score) in choices.iter().zip(model.score(&question, &choices).expect("scores")) {
        // The prompt is asked with the choice in it: the rows before the choice's tokens predict them.
        let whole = format!("{prompt} {choice}");
        let asked = Question { images: std::slice::from_ref(&image), prompt: &whole, qformer_prompt: Some(prompt) };
        let tensors = model.forward(&asked, &ForwardOptions::default()).expect("a forward pass");
        let ids = tensors.iter().find(|t| t.name == "input_ids").expect("ids");
        let ids: Vec<u32> = values(ids).iter().map(|&id| id as u32).collect();
        assert!(ids.ends_with(&score.token_ids), "{choice}: the same tokens inside the prompt");
        let logits = tensors.iter().find(|t| t.name == "logits").expect("logits");
        let first = ids.len() - score.token_ids.len() - 1;
        let rows: Vec<&[f32]> = logits.rows().collect();
        let want: Vec<f64> = (0..score.token_ids.len())
            .map(|i| f64::from(log_softmax(rows[first + i])[score.token_ids[i] as usize]))
            .collect();
        assert!(max_difference(&score.log_probabilities, &want) < 1e-3, "{choice}: {score:?}, {want:?}");
        assert!(
            (score.sum - want.iter().sum::<f64>()).abs() < 1e-2
                && (score.mean * want.len() as f64 - score.sum).abs() < 1e-9
        );
    }
    assert!(model.score(&question, &[]).is_err() && model.score(&question, &["yes", ""]).is_err());
}

/// Candidates found on the device give the answers that all scores give, alone, with company, and piece by piece. A growth
/// of 1 changes no score, but it looks at single tokens, so that all scores are read.
#[test]
fn drawn_answers_are_the_same_from_few_and_from_all_scores() {
    for device in [support::shared_device(), support::portable_device()] {
        let Some(device) = device else { continue };
        let mut model = embedded(&device);
        let few = GenerateOptions {
            do_sample: true,
            temperature: 3.0, // or the likeliest token would be drawn nearly always
            top_p: 0.95,
            eos_token_ids: Some(Vec::new()),
            ..GenerateOptions::up_to(12)
        };
        let all = GenerateOptions { exponential_decay_length_penalty: Some((0, 1.0)), ..few.clone() };
        let image = sample("11.png");
        let mut different = std::collections::BTreeSet::new();
        for seed in 0..4 {
            let mut ask = |options: &GenerateOptions, num_return_sequences| {
                let options = GenerateOptions { seed, num_return_sequences, ..options.clone() };
                let reply = model.ask(&image, "Which is the smallest shape?", &options).expect("an answer");
                reply.sequences.into_iter().map(|answer| answer.token_ids).collect::<Vec<_>>()
            };
            let (one, three) = (ask(&few, 1), ask(&few, 3));
            assert_eq!((&one, &three), (&ask(&all, 1), &ask(&all, 3)), "seed {seed}");
            assert_eq!(one[0], three[0]);
            different.extend(three);
            let mut stream = |options: &GenerateOptions| {
                let options = GenerateOptions { seed, ..options.clone() };
                let pieces = model.generate(&image, "Which is the smallest shape?", &options).expect("an answer");
                pieces.map(|piece| piece.expect("a piece")).collect::<String>()
            };
            assert_eq!(stream(&few), stream(&all), "seed {seed}");
        }
        assert!(different.len() > 3, "{different:?}");
    }
}

/// The cache filled by a prompt and continued token by token gives the logits of the whole text at once.
#[test]
fn prefill_and_decode_equal_one_long_prefill() {
    let Some(device) = support::shared_device() else { return };
    let folder = checkpoint_folder("gqa-tied-theta");
    let checkpoint = Checkpoint::directory(folder).expect("a folder");
    let parts = support::models::load_parts(&device, &checkpoint);
    let language = &parts.language;
    let capacity = Capacity::of(&[Room::of(language, 13, 1, 6)]);
    let mut slots = Slots::new(Session::new(&device, language, capacity).expect("a session"));
    let features = vec![0.25f32; 96];
    let prompt: Vec<u32> = vec![4, 7, 300, 41, 5, 99, 12];
    let forward = |session: &Session, ids: &[u32]| {
        let inputs = PromptInputs { ids, features: &features };
        let placed = Placed::first(language, ids.len() as u32, &[]);
        let request = Request { rows: ids.len() as u32, ..Request::default() };
        let pass = session.prefill(language, &inputs, &placed, request).expect("a recording");
        pass.submit().expect("a forward pass");
        pass.logits
    };
    let inputs = PromptInputs { ids: &prompt, features: &features };
    let prompted = Prompted { inputs, history: prompt.clone(), counted: 0 };
    let tokens = slots.start(language, &prompted, &GenerateOptions::default(), Limits::new(6, &[])).expect("a start");
    let generated: Vec<u32> = tokens.map(|token| token.expect("a token")).collect();
    let session = slots.session();
    let logits = forward(session, &[&prompt[..], &generated[..5]].concat());
    let values: Vec<f32> = device.read(&logits).expect("logits");
    let columns = logits.cols() as usize;
    let argmax = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a)));
    for (i, &token) in generated.iter().enumerate() {
        let at = (prompt.len() - 1 + i) * columns;
        assert_eq!(argmax(&values[at..at + columns]), Some(token as usize), "token {i}");
    }
    // A step's largest logits are what is read back for draws among few, and all where one of them may not be enough.
    let logits = session.read_logits(&[0]).expect("logits").swap_remove(0);
    let processors = |options: GenerateOptions| Processors::new(&options, &Limits::new(99, &[]), 1);
    let read = |p: &Processors| Scores::read(session, &[(0, p)]).expect("scores").swap_remove(0);
    let drawn = GenerateOptions { do_sample: true, ..GenerateOptions::default() };
    let few = processors(drawn.clone());
    let pairs = instructblip::lab::oracle::top_k::top_k(&logits, columns, CANDIDATES as usize);
    let want = Scores::of_largest(&pairs, columns, &few).expect("no equals");
    assert_ne!(want, Scores::of_all(logits.clone()));
    assert_eq!(read(&few), want);
    // So cold that all the largest are infinite, and equal.
    let cold = processors(GenerateOptions { temperature: 1e-39, ..drawn.clone() });
    for all in [cold, processors(GenerateOptions { top_k: 0, ..drawn })] {
        assert_eq!(read(&all), Scores::of_all(logits.clone()));
    }
    // And the same rows come out whatever follows them.
    let short = forward(session, &prompt);
    let short: Vec<f64> = device.read::<f32>(&short).expect("logits").iter().map(|&v| v.into()).collect();
    let long: Vec<f64> = values[..short.len()].iter().map(|&v| v.into()).collect();
    assert!(relative_l2(&long, &short) <= 1e-6);
}

#[test]
fn parts_without_files_or_device_have_shapes() {
    let config = support::models::config(&instructblip::embedded::SHAPES);
    let parts = Parts::load(&mut instructblip::weights::Loader::shapes(), &config).expect("shapes");
    assert_eq!(parts.language.vocab_rows(), config.text.vocab_size());
}

#[test]
fn a_model_can_move_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<InstructBlip>();
    is_send::<Image>();
}
