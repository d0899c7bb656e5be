//! Choosing tokens: the processors against transformers' own, draws against their distribution. No device.

mod support;

use instructblip::generate::processors::{Processors, draw, softmax};
use instructblip::{Error, GenerateOptions};
use serde_json::Value;
use support::golden::tests_folder;

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
            other => panic!("no option {other}"),
        }
    }
    options
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
        Processors::new(&options(&row["options"]), &EOS, prompt).process(&sequence, 0, &mut scores);
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
    let processors = Processors::new(&options, &[2], 3);
    let mut scores = vec![1.0, -1.0, 4.0, 1.0];
    processors.process(&[1, 1, 2], 0, &mut scores);
    assert_eq!(scores, [1.0, -2.0, 2.0, 1.0]);
    let mut scores = vec![1.0, -1.0, 4.0, 1.0];
    processors.process(&[1, 1, 2], 3, &mut scores);
    assert_eq!(scores, [1.0, -1.0, 4.0, 1.0]);
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
    Processors::new(&cold, &[3], 1).process(&[7, 8], 0, &mut scores);
    assert_eq!(softmax(&scores), [0.0, 0.0, 1.0, 0.0]);
    let ending =
        GenerateOptions { do_sample: true, exponential_decay_length_penalty: Some((0, 3e38)), ..Default::default() };
    let mut scores = vec![-1.0, 2.0, 5.0, -3.0];
    Processors::new(&ending, &[3], 1).process(&[7, 8, 9], 0, &mut scores);
    assert_eq!(softmax(&scores), [0.0, 0.0, 0.0, 1.0]);
}
