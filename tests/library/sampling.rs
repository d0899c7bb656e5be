//! Choosing tokens: the processors against transformers' own, draws against their distribution. No device.

use crate::support::Rng;
use crate::support::golden::tests_folder;
use instructblip::generate::Limits;
use instructblip::generate::processors::{CANDIDATES, Processors, draw, softmax};
use instructblip::generate::scores::Scores;
use instructblip::{Error, GenerateOptions};
use serde_json::{Map, Value, json};

const EOS: [u32; 2] = [2, 5];

fn number(value: &Value) -> f32 {
    value.as_f64().expect("a number") as f32
}

fn options(json: &Value) -> GenerateOptions {
    let mut options = GenerateOptions { do_sample: true, ..GenerateOptions::default() };
    for (name, value) in json.as_object().expect("an object") {
        match name.as_str() {
            "num_beams" => options.num_beams = number(value) as u32,
            "repetition_penalty" => options.repetition_penalty = number(value),
            "no_repeat_ngram_size" => options.no_repeat_ngram_size = number(value) as u32,
            "min_length" => options.min_length = number(value) as u32,
            "min_new_tokens" => options.min_new_tokens = number(value) as u32,
            "exponential_decay_length_penalty" => {
                options.exponential_decay_length_penalty = Some((number(&value[0]) as u32, number(&value[1])));
            }
            "temperature" => options.temperature = number(value),
            "top_k" => options.top_k = number(value) as u32,
            "top_p" => options.top_p = number(value),
            "min_p" => options.min_p = Some(number(value)),
            "typical_p" => options.typical_p = number(value),
            "epsilon_cutoff" => options.epsilon_cutoff = number(value),
            "eta_cutoff" => options.eta_cutoff = number(value),
            "bad_words_ids" | "prefix" => {} // of the limits
            other => panic!("no option {other}"),
        }
    }
    options
}

/// The words that may not come, and those that must.
fn limits(json: &Value) -> Limits {
    let or_none = |value: &Value| if value.is_null() { Value::Array(Vec::new()) } else { value.clone() };
    Limits {
        bad_words: serde_json::from_value(or_none(&json["bad_words_ids"])).expect("lists of ids"),
        prefix: serde_json::from_value(or_none(&json["prefix"])).expect("ids"),
        ..Limits::new(99, &EOS)
    }
}

#[test]
fn processors_leave_the_distribution_that_transformers_leaves() {
    let text = std::fs::read_to_string(tests_folder().join("golden/processors.jsonl")).expect("the goldens");
    let mut narrowed = 0;
    for line in text.lines().skip(1) {
        let row: Value = serde_json::from_str(line).expect("a JSON line");
        let list = |name: &str| row[name].as_array().expect("a list").clone();
        let sequence: Vec<u32> = list("sequence").iter().map(|id| number(id) as u32).collect();
        let mut scores: Vec<f32> = list("scores").iter().map(number).collect();
        let prompt = number(&row["prompt"]) as usize;
        Processors::new(&options(&row["options"]), &limits(&row["options"]), prompt).process(&sequence, 0, &mut scores);
        let got = softmax(&scores);
        for (i, (got, want)) in got.iter().zip(list("probabilities")).enumerate() {
            let want = want.as_f64().expect("a probability");
            assert!((got - want).abs() <= 1e-5, "{}: token {i} has {got}, not {want}", row["options"]);
            assert_eq!(*got == 0.0, want == 0.0, "{}: token {i}", row["options"]);
            narrowed += usize::from(want == 0.0);
        }
    }
    assert!(text.lines().count() > 200 && narrowed > 2000, "{narrowed} tokens are impossible");
}

/// Options that draw among few, with everything that narrows further.
fn narrow(rng: &mut Rng) -> GenerateOptions {
    let mut options = GenerateOptions { do_sample: true, top_k: 1 + rng.below(CANDIDATES - 1), ..Default::default() };
    options.temperature = [1.0, 0.7, 1.9, 1e-20][rng.below(4) as usize];
    match rng.below(6) {
        0 => options.top_p = 0.9,
        1 => options.min_p = Some(0.05),
        2 => options.typical_p = 0.8,
        3 => options.epsilon_cutoff = 0.02,
        4 => options.eta_cutoff = 0.1,
        _ => {}
    }
    options
}

/// Rows without order, of scores in steps (so that equals lie on both sides of the end), peaked, of one score, of few
/// tokens, with zeros of both signs, and with what is no number.
fn row(kind: u32, rng: &mut Rng) -> Vec<f32> {
    let n = if kind == 4 { 1 + rng.below(100) } else { 500 };
    let mut row = rng.normals(n);
    match kind {
        1 => row.iter_mut().for_each(|v| *v = (*v * 8.0).round() / 8.0),
        2 => row.iter_mut().for_each(|v| *v = *v * 12.0 - 100.0),
        3 => row.fill(2.5),
        5 => row.iter_mut().for_each(|v| *v = if *v > 1.5 { *v } else { 0.0 * *v }),
        6 => row[rng.below(n) as usize] = [f32::NAN, -f32::NAN, f32::INFINITY][rng.below(3) as usize],
        _ => {}
    }
    row
}

#[test]
fn draws_from_the_largest_scores_are_the_draws_from_all() {
    let mut rng = Rng::new(21);
    let mut short = [[0; 2]; 7];
    for i in 0..2800 {
        let kind = i % 7;
        let (options, row) = (narrow(&mut rng), row(kind, &mut rng));
        let processors = Processors::new(&options, &Limits::new(99, &EOS), 1);
        assert!(processors.draw_among_few());
        let (n, k) = (row.len(), row.len().min(CANDIDATES as usize));
        let largest = Scores::of_largest(&instructblip::lab::oracle::top_k::top_k(&row, n, k), n, &processors);
        short[kind as usize][usize::from(largest.is_some())] += 1;
        let Some(largest) = largest else { continue };
        for seed in 0..20 {
            let draw = |scores: &Scores| {
                let mut random = fastrand::Rng::with_seed(seed);
                let tokens = [(); 3].map(|()| scores.clone().choose(&processors, &[7, 8], 0, &mut random));
                (tokens, random.u64(..))
            };
            assert_eq!(draw(&largest), draw(&Scores::of_all(row.clone())), "{options:?}: {row:?}");
        }
    }
    // Numbers in any order do; of scores in steps some have equals past the end; of one score all do.
    let [any, steps, peaked, one, tiny, zeros, odd] = short;
    assert!(any[1] > 380 && peaked[1] > 280 && tiny[1] > 380, "{short:?}");
    assert!(steps[0] > 20 && steps[1] > 100 && zeros[0] > 100 && zeros[1] > 50, "{short:?}");
    assert_eq!((one[1], odd[1]), (0, 0), "{short:?}");
}

#[test]
fn all_scores_count_where_single_tokens_are_treated() {
    let base = || GenerateOptions { do_sample: true, ..Default::default() };
    let few = |options: GenerateOptions| Processors::new(&options, &Limits::new(99, &EOS), 3).draw_among_few();
    assert!(few(base()) && few(GenerateOptions { top_k: CANDIDATES - 1, min_length: 3, ..base() }));
    for options in [
        GenerateOptions::default(),
        GenerateOptions { top_k: 0, ..base() },
        GenerateOptions { top_k: CANDIDATES, ..base() },
        GenerateOptions { num_beams: 2, ..base() },
        GenerateOptions { repetition_penalty: 1.1, ..base() },
        GenerateOptions { presence_penalty: 0.1, ..base() },
        GenerateOptions { frequency_penalty: -0.1, ..base() },
        GenerateOptions { logprobs: Some(0), ..base() },
        GenerateOptions { no_repeat_ngram_size: 2, ..base() },
        GenerateOptions { min_length: 4, ..base() },
        GenerateOptions { min_new_tokens: 1, ..base() },
        GenerateOptions { exponential_decay_length_penalty: Some((9, 1.1)), ..base() },
    ] {
        assert!(!few(options.clone()), "{options:?}");
    }
}

#[test]
fn draws_follow_the_distribution() {
    let p = [0.4, 0.0, 0.3, 0.15, 0.1, 0.05];
    let mut random = fastrand::Rng::with_seed(5);
    let draws = 20_000;
    let mut counts = [0u32; 6];
    (0..draws).for_each(|_| counts[draw(&p, &mut random) as usize] += 1);
    assert_eq!(counts[1], 0, "what has no probability is never drawn");
    let expected = p.iter().map(|p| p * f64::from(draws));
    let chi_square: f64 = counts
        .iter()
        .zip(expected)
        .filter(|(_, want)| *want > 0.0)
        .map(|(&got, want)| (f64::from(got) - want).powi(2) / want)
        .sum();
    // Four degrees of freedom: 18.5 is passed once in a thousand times.
    assert!(chi_square < 18.5, "{chi_square}: {counts:?}");
}

/// HF #23460's other half: `</s>` starts Vicuna's prompts and ends its answers, and the penalty sees it in the prompt.
#[test]
fn trap_repetition_penalty_touches_the_prompt_unless_told_otherwise() {
    let options = GenerateOptions { repetition_penalty: 2.0, ..GenerateOptions::default() };
    let processors = Processors::new(&options, &Limits::new(99, &[2]), 3);
    let mut scores = vec![1.0, -1.0, 4.0, 1.0];
    processors.process(&[1, 1, 2], 0, &mut scores);
    assert_eq!(scores, [1.0, -2.0, 2.0, 1.0]);
    let mut scores = vec![1.0, -1.0, 4.0, 1.0];
    processors.process(&[1, 1, 2], 3, &mut scores);
    assert_eq!(scores, [1.0, -1.0, 4.0, 1.0]);
}

/// OpenAI's formula: each new token costs its presence once and its frequency each time, the prompt's cost nothing, and
/// the temperature comes after.
#[test]
fn presence_and_frequency_count_new_tokens() {
    let penalties = |presence_penalty, frequency_penalty| GenerateOptions {
        presence_penalty,
        frequency_penalty,
        ..GenerateOptions::default()
    };
    let processed = |options: GenerateOptions| {
        let mut scores = vec![1.0, -1.0, 4.0, 1.0, 0.0];
        // 4 and 2 are the prompt's; of the new ones 1 came once, 2 twice, and 9 has no score.
        Processors::new(&options, &Limits::new(99, &EOS), 2).process(&[4, 2, 1, 2, 9, 2], 0, &mut scores);
        scores
    };
    assert_eq!(processed(penalties(0.5, 0.0)), [1.0, -1.5, 3.5, 1.0, 0.0]);
    assert_eq!(processed(penalties(0.0, 0.25)), [1.0, -1.25, 3.5, 1.0, 0.0]);
    assert_eq!(processed(penalties(-0.5, 2.0)), [1.0, -2.5, 0.5, 1.0, 0.0]);
    let both = GenerateOptions { repetition_penalty: 2.0, ..penalties(0.5, 0.25) };
    assert_eq!(processed(both), [1.0, -2.75, 1.0, 1.0, 0.0], "after the penalty of repetition");
    let drawn = GenerateOptions { do_sample: true, temperature: 0.5, top_k: 0, ..penalties(0.5, 0.0) };
    assert_eq!(processed(drawn), [2.0, -3.0, 7.0, 2.0, 0.0], "before the temperature");
}

#[test]
fn options_out_of_range_and_at_odds_are_named() {
    let base = GenerateOptions::default;
    let refused = [
        (GenerateOptions { temperature: 0.0, ..base() }, "temperature"),
        (GenerateOptions { temperature: f32::NAN, ..base() }, "temperature"),
        (GenerateOptions { temperature: 1e-40, ..base() }, "temperature"),
        (GenerateOptions { top_p: 1.5, ..base() }, "top_p"),
        (GenerateOptions { min_p: Some(-0.1), ..base() }, "min_p"),
        (GenerateOptions { typical_p: 0.0, ..base() }, "typical_p"),
        (GenerateOptions { epsilon_cutoff: 1.0, ..base() }, "epsilon_cutoff"),
        (GenerateOptions { eta_cutoff: -1.0, ..base() }, "eta_cutoff"),
        (GenerateOptions { repetition_penalty: 0.0, ..base() }, "repetition_penalty"),
        (GenerateOptions { presence_penalty: 2.5, ..base() }, "presence_penalty is 2.5; it must be from -2 to 2"),
        (GenerateOptions { frequency_penalty: f32::NAN, ..base() }, "frequency_penalty"),
        (GenerateOptions { logprobs: Some(21), ..base() }, "logprobs is 21; it must be from 0 to 20"),
        (GenerateOptions { logprobs: Some(1), num_beams: 2, ..base() }, "num_beams 2"),
        (GenerateOptions { length_penalty: f32::INFINITY, ..base() }, "length_penalty"),
        (GenerateOptions { num_beams: 0, ..base() }, "num_beams"),
        (GenerateOptions { num_beams: 2, num_return_sequences: 3, ..base() }, "num_return_sequences 3 is more"),
        (GenerateOptions { num_return_sequences: 3, ..base() }, "do_sample"),
        (GenerateOptions { max_new_tokens: Some(0), ..base() }, "max_new_tokens"),
        (GenerateOptions { min_new_tokens: 9, max_new_tokens: Some(4), ..base() }, "min_new_tokens 9"),
        (GenerateOptions { min_length: 9, max_length: Some(4), ..base() }, "min_length 9"),
        (GenerateOptions { exponential_decay_length_penalty: Some((3, 0.0)), ..base() }, "exponential_decay"),
        (GenerateOptions { stop_strings: vec![String::new()], ..base() }, "stop string"),
    ];
    for (options, part) in refused {
        match options.check() {
            Err(Error::Request { problem }) => assert!(problem.contains(part), "no {part:?} in {problem}"),
            other => panic!("{part}: {other:?}"),
        }
    }
    base().check().expect("the defaults");
}

/// Every option is known by its name, and what it must be is told in plain words.
#[test]
fn params_of_another_kind_are_told_what_they_must_be() {
    let told = |name: &str, value: Value| {
        let params = Map::from_iter([(name.to_string(), value)]);
        GenerateOptions::default().with_params(&params).expect_err("a refusal").to_string()
    };
    let Ok(Value::Object(all)) = serde_json::to_value(GenerateOptions::default()) else { panic!("an object") };
    for name in all.keys() {
        let text = told(name, json!({}));
        assert!(text.starts_with(&format!("params: {name}: must be ")) && text.ends_with("; it is {}"), "{text}");
    }
    for (name, value, words) in [
        ("num_beams", json!(-1), "params: num_beams: must be a whole number from 0 to 4294967295; it is -1"),
        ("seed", json!(0.5), "seed: must be a whole number from 0 to 18446744073709551615; it is 0.5"),
        (
            "eos_token_id",
            json!(-1),
            "must be a token id, which is a whole number from 0 to 4294967295, or a list of them",
        ),
        ("early_stopping", json!("never."), "early_stopping: must be true, false or \"never\""),
        ("exponential_decay_length_penalty", json!([1.5]), "must be a list of a whole number and a number, such as"),
        ("bad_words_ids", json!([1]), "must be a list of lists of token ids"),
        ("beams", json!(1), "params: beams is unknown; there are max_new_tokens, max_length, "),
        ("temperature", json!(1e300), "temperature is inf; it must be a finite number above 0"),
    ] {
        let text = told(name, value);
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    let base = GenerateOptions { top_k: 9, num_beams: 3, ..GenerateOptions::default() };
    let Value::Object(params) = json!({"num_beams": null, "eos_token_id": 7}) else { panic!("an object") };
    let right = GenerateOptions { top_k: 9, eos_token_ids: Some(vec![7]), ..GenerateOptions::default() };
    assert_eq!(base.with_params(&params).expect("options"), right);
    let endless = GenerateOptions { temperature: f32::INFINITY, ..base };
    assert!(endless.with_params(&params).is_err(), "JSON has no word for it");
}

/// The reference warns of a least length that cannot be reached, and gives less; here it is refused.
#[test]
fn a_least_length_beyond_the_answer_is_refused() {
    let base = GenerateOptions::default;
    for (options, prompt, most, told) in [
        (
            GenerateOptions { min_new_tokens: 257, ..base() },
            9,
            256,
            "min_new_tokens is 257, but by max_new_tokens the answer",
        ),
        (
            GenerateOptions { min_new_tokens: 50, ..base() },
            9,
            49,
            "min_new_tokens is 50, but by the model's context the answer",
        ),
        (
            GenerateOptions { min_new_tokens: 50, max_length: Some(58), ..base() },
            9,
            49,
            "by max_length the answer has at most 49",
        ),
        (
            GenerateOptions { min_length: 20, ..GenerateOptions::up_to(10) },
            9,
            10,
            "min_length is 20, but by max_new_tokens prompt",
        ),
    ] {
        let error = options.check_least(prompt, most).expect_err("too long").to_string();
        assert!(error.contains(told), "no {told:?} in {error}");
    }
    let reached = GenerateOptions { min_length: 19, min_new_tokens: 10, ..GenerateOptions::up_to(10) };
    reached.check_least(9, 10).expect("just enough");
}

/// HF #29438, #29296: lengths count what the reference counts, the image's places included.
#[test]
fn trap_max_length_counts_the_prompt_and_max_new_tokens_wins() {
    let options = |max_new_tokens, max_length| GenerateOptions { max_new_tokens, max_length, ..Default::default() };
    assert_eq!(options(None, Some(50)).new_tokens(42).expect("room"), 8);
    assert_eq!(options(Some(5), Some(10)).new_tokens(42).expect("room"), 5);
    assert_eq!(options(None, None).new_tokens(42).expect("room"), 256);
    assert_eq!(options(None, Some(u32::MAX)).new_tokens(1).expect("room"), 65_536, "no more than could be kept");
    assert!(options(Some(u32::MAX), None).check().is_err());
    let error = options(None, Some(42)).new_tokens(42).expect_err("no room").to_string();
    assert!(error.contains("max_length 42") && error.contains("42 tokens"), "{error}");
}

/// Scores that leave the range of numbers still choose, and never something else.
#[test]
fn scores_beyond_all_numbers_are_certain() {
    let cold = GenerateOptions { do_sample: true, temperature: 1e-20, ..Default::default() };
    let mut scores = vec![-1.0, 2.0, 5.0, -3.0];
    Processors::new(&cold, &Limits::new(99, &[3]), 1).process(&[7, 8], 0, &mut scores);
    assert_eq!(softmax(&scores), [0.0, 0.0, 1.0, 0.0]);
    let ending =
        GenerateOptions { do_sample: true, exponential_decay_length_penalty: Some((0, 3e38)), ..Default::default() };
    let mut scores = vec![-1.0, 2.0, 5.0, -3.0];
    Processors::new(&ending, &Limits::new(99, &[3]), 1).process(&[7, 8, 9], 0, &mut scores);
    assert_eq!(softmax(&scores), [0.0, 0.0, 0.0, 1.0]);
}
