//! Measurements: `bench` and `tune`.

use std::path::Path;
#[cfg(all(feature = "server", unix))]
use std::process::Stdio;

use serde_json::Value;

use super::{json, stdout, str_of};
use crate::support;
#[cfg(all(feature = "server", unix))]
use crate::support::program::{ask_to_end, messages};
use crate::support::program::{program, refused, run, sample, text};

#[test]
fn bench_model_times_every_stage() {
    if support::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("results").display().to_string();
    let model = ["bench", "model", "--runs", "1", "-q"];
    let lines = folder.path().join("runs.csv").display().to_string();
    let small = ["--rows", "1,2", "--keys", "16", "--prompt-tokens", "16", "--format", "json", "--output", &output];
    let results = json(&[&model[..], &small, &["--append", &lines]].concat());
    let lines = std::fs::read_to_string(&lines).expect("the file");
    assert!(lines.starts_with("date,version,commit,adapter,") && lines.contains(",embedded,f16,"), "{lines}");
    refused(&[&model[..], &["--append", &sample("11.png")]].concat(), 3, &["11.png"]);
    assert_eq!((&results["format"], results["date"].as_str().map(str::len)), (&1.into(), Some(10)));
    assert!(str_of(&results["command"]).starts_with("instructblip bench model --runs 1"), "{}", results["command"]);
    let list = |name: &str| results["model"][name].as_array().expect("a list").clone();
    let number = |row: &Value, name: &str| row[name].as_f64().unwrap_or_else(|| panic!("no number {name}: {row}"));
    let stages = list("stages");
    assert_eq!(stages.iter().map(|s| str_of(&s["name"])).collect::<Vec<_>>(), ["load", "image", "vision", "qformer"]);
    assert!(stages.iter().all(|s| number(s, "ms") > 0.0), "{stages:?}");
    let (prefill, decode) = (list("prefill"), list("decode"));
    // The embedded model's pictures take 16 places of a prompt.
    assert_eq!((prefill.len(), number(&prefill[0], "tokens")), (1, 32.0));
    assert_eq!(
        decode.iter().map(|d| (number(d, "rows"), number(d, "keys"))).collect::<Vec<_>>(),
        [(1.0, 16.0), (2.0, 16.0)]
    );
    for name in ["ms", "tokens_per_s", "encode_us", "dispatches", "bytes"] {
        assert!(decode.iter().all(|d| number(d, name) > 0.0), "{name}: {decode:?}");
    }
    // What two rows read beyond one are keys and values: of 16 positions, 3 layers and 2 heads of 32 channels in f32.
    assert_eq!(number(&decode[1], "bytes") - number(&decode[0], "bytes"), f64::from(16 * 2 * 3 * 2 * 32 * 4));
    let labels = list("labels");
    let of_stage = |stage: &str| labels.iter().filter(|l| l["stage"] == stage).cloned().collect::<Vec<_>>();
    if !labels.is_empty() {
        for stage in ["vision", "qformer", "prefill", "decode"] {
            assert!(of_stage(stage).is_sorted_by(|a, b| number(a, "us") >= number(b, "us")), "{stage}");
        }
        let launches: f64 = of_stage("decode").iter().map(|l| number(l, "count")).sum();
        assert_eq!(launches, number(&decode[0], "dispatches"));
        let qkv = of_stage("decode").into_iter().find(|l| l["label"] == "self_attn.qkv").expect("a label");
        assert_eq!(number(&qkv, "count"), 3.0);
    }
    let file = std::fs::read(Path::new(&output).join("results.json")).expect("a file");
    let written: Value = serde_json::from_slice(&file).expect("JSON");
    assert_eq!(written, results);
}

#[test]
fn bench_model_refuses_what_cannot_be_timed() {
    let context = "the language model's context";
    refused(&["bench", "model", "--keys", "513"], 3, &[context, "513", "512"]);
    refused(&["bench", "model", "--prompt-tokens", "496"], 3, &[context, "513", "512"]);
    refused(&["bench", "model", "--model", "no/such folder"], 3, &["no/such folder"]);
    refused(&["bench", "model", "--shape", "no-such-shape"], 2, &["vicuna-7b", "embedded"]);
    refused(&["bench", "model", "--shape", "vicuna-7b", "--model", "."], 2, &["--shape"]);
}

#[test]
fn bench_kernels_times_the_variants_that_are_asked_for() {
    if support::device().is_none() {
        return;
    }
    let shape = ["--shape", "33,64,96", "--runs", "2", "--format", "json", "-q"];
    let bench = |variant: &str| -> Vec<(String, String)> {
        let results = json(&[&["bench", "kernels", "--variant", variant][..], &shape].concat());
        let rows = results["kernels"].as_array().expect("a list").iter();
        rows.map(|row| (str_of(&row["variant"]).to_owned(), str_of(&row["kernel"]).to_owned())).collect()
    };
    let named = |variant: &str| -> Vec<(String, String)> {
        ["linear_tile", "linear_tile_q8", "linear_tile_q4"].map(|kernel| (variant.into(), kernel.into())).into()
    };
    for variant in ["portable", "linear_tile"] {
        assert_eq!(bench(variant), named(variant));
    }
    // The adapter's own choice has its name, too.
    let own: Vec<String> = bench("auto").into_iter().map(|(_, kernel)| kernel).collect();
    let again = bench(&own[0]);
    assert!(again.len() == 3 && again.iter().all(|(variant, _)| variant == &own[0]), "{again:?}");
    refused(&["bench", "kernels", "--variant", "fast"], 3, &["\"fast\"", "linear_tile"]);
}

#[test]
fn bench_kernels_of_all_adapters_has_a_folder_for_each() {
    if support::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let lab = folder.path().join("lab");
    let given = lab.display().to_string();
    let bench = ["bench", "kernels", "--all-adapters", "--filter", "argmax", "--runs", "2", "-q", "--output", &given];
    stdout(&bench);
    let entries = || std::fs::read_dir(&lab).expect("the folder").map(|entry| entry.expect("an entry").path());
    let adapters = json(&["devices", "--json"]);
    let usable = adapters.as_array().expect("a list").iter().filter(|adapter| adapter["problem"].is_null());
    assert_eq!(entries().count(), usable.count());
    for of_one in entries() {
        let name = of_one.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{name}");
        assert!(of_one.join("results.json").is_file() && of_one.join("report.html").is_file(), "{name}");
    }
    // A file in the place of such a folder is told before anything is measured.
    let of_one = entries().next().expect("one adapter");
    std::fs::remove_dir_all(&of_one).expect("removed");
    std::fs::write(&of_one, "").expect("written");
    let output = run(&bench);
    assert!(!output.status.success() && output.stdout.is_empty(), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("is not a folder"), "{}", text(&output.stderr));
}

#[test]
#[cfg(feature = "server")]
fn bench_serve_has_clients_ask() {
    if support::device().is_none() {
        return;
    }
    let short = ["bench", "serve", "-q", "--seconds", "1", "--new-tokens", "4", "--json"];
    let result = json(
        &[&short[..], &["--clients", "3", "--logprobs", "2", "--", "--slots", "2", "--host", "0.0.0.0", "--insecure"]]
            .concat(),
    );
    assert_eq!((&result["model"], &result["compared_with"]), (&"instructblip-shapes".into(), &"recorded".into()));
    let runs = result["runs"].as_array().expect("a list");
    assert_eq!(runs.iter().map(|run| run["clients"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(3), Some(1)]);
    for run in runs {
        let number = |name: &str| run[name].as_f64().unwrap_or_else(|| panic!("no number {name}: {run}"));
        assert!(number("tokens_per_s") > 0.0 && number("worst_s") >= number("median_s"), "{run}");
        assert_eq!((number("told_to_wait"), number("other_words")), (0.0, 0.0), "{run}");
    }
    refused(&[&short[..], &["--", "--model", "no/such folder"]].concat(), 3, &["no/such folder", "the server ended"]);
    refused(&[&short[..], &["--", "--bogus"]].concat(), 2, &["--bogus"]);
    refused(&[&short[..], &["--", "--api-key", "k"]].concat(), 3, &["the server says 401"]);
}

#[test]
#[cfg(all(feature = "server", unix))]
fn bench_serve_ends_at_once_with_its_server() {
    if support::device().is_none() {
        return;
    }
    let mut bench = program();
    bench.args(["bench", "serve", "--seconds", "600"]).stderr(Stdio::piped());
    let mut bench = bench.spawn().expect("it runs");
    let mut lines = messages(&mut bench);
    assert!(lines.any(|line| line.starts_with("1 at once")), "it ends before anybody asks");
    ask_to_end(&bench);
    assert_eq!(lines.last().as_deref(), Some("error: stopped as asked"));
    assert_eq!(bench.wait().expect("it ends").code(), Some(75));
}

#[test]
#[ignore = "takes a minute; make test-lab runs it"]
fn tune_keeps_what_it_finds_and_answers_stay_the_same() {
    if support::device().is_none() {
        return;
    }
    let cache = tempfile::tempdir().expect("a folder");
    let with_cache = |arguments: &[&str]| {
        let output = program().env("INSTRUCTBLIP_CACHE", cache.path()).args(arguments).output().expect("it runs");
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout).to_owned()
    };
    let adapters = json(&["devices", "--json"]);
    let chosen = adapters.as_array().expect("a list").iter().find(|a| a["chosen"] == true).expect("one is chosen");
    if chosen["type"] == "Cpu" {
        assert!(stdout(&["tune"]).contains("software adapters are not tuned"));
        assert_eq!(json(&["tune", "--json"])["tuned"], false);
    }
    refused(&["tune", "--portable"], 3, &["--portable"]);
    let (image, prompt) = (sample("11.png"), "Which is the smallest shape?");
    let ask = || with_cache(&["ask", &image, prompt, "-q"]);
    assert_eq!(ask(), "green star\n");
    let found: Value = serde_json::from_str(&with_cache(&["tune", "--force", "--json"])).expect("one JSON object");
    let steps = found["steps"].as_array().expect("a list");
    assert_eq!(
        steps.iter().map(|s| str_of(&s["name"])).collect::<Vec<_>>(),
        ["linear_vec", "rows", "norm", "attention", "linear_matrix", "robust access"]
    );
    // A machine that does other things as well may have no time for all.
    let is_timed = |step: &Value| step["candidates"][0]["relative"] == 1.0 || step["note"].is_string();
    assert!(steps.iter().all(is_timed), "{steps:?}");
    let file = str_of(&found["file"]);
    let kept = std::fs::read_to_string(file).expect("the file");
    let doctor = || -> Value { serde_json::from_str(&with_cache(&["doctor", "--json"])).expect("one JSON object") };
    assert_eq!(doctor()["tuned"]["tuning"], found["tuning"]);
    assert!(with_cache(&["doctor"]).contains(&format!("tuned on {}: linear_vec", str_of(&found["date"]))));
    assert_eq!(ask(), "green star\n");
    // Sizes that are not the usual ones: they are used, and change nothing.
    let mut other: Value = serde_json::from_str(&kept).expect("JSON");
    other["tuning"] = serde_json::json!({
        "vec_subgroup": false, "vec_workgroup": 32, "vec_rows": 4, "fuse_norm": true, "decode_splits": 4,
    });
    std::fs::write(file, other.to_string()).expect("written");
    assert_eq!(doctor()["tuned"]["tuning"]["vec_workgroup"], 32);
    assert_eq!(ask(), "green star\n");
    for damage in [&kept[..kept.len() / 2], "", &kept.replace("\"vec_workgroup\": ", "\"vec_workgroup\": 1")] {
        std::fs::write(file, damage).expect("written");
        assert!(doctor()["tuned"].is_null(), "{damage:?}");
        assert_eq!(ask(), "green star\n");
    }
}
