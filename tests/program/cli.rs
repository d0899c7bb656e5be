//! The program as its users run it: what goes to stdout and stderr, JSON keys, exit codes.

use crate::support;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::fixtures::Fixture;
use crate::support::golden::{Golden, checkpoint_folder, golden_image, tests_folder};
use crate::support::program::{program, refused, run, sample, text};
use serde_json::Value;

#[test]
fn ask_puts_the_answer_alone_on_stdout() {
    if support::device().is_none() {
        return;
    }
    let output = run(&["ask", &sample("11.png"), "Which is the smallest shape?"]);
    assert_eq!(text(&output.stdout), "green star\n");
    let stderr = text(&output.stderr);
    assert_eq!(stderr.matches("coloured shapes").count(), 1, "what the embedded model knows: {stderr}");
    let last = stderr.lines().last().expect("a line");
    for part in ["3 tokens in ", " s, ", " tokens/s; instructblip-shapes (embedded) on "] {
        assert!(last.contains(part), "no {part:?} in {last}");
    }
    let counts = ["kernels compiled", "loading:"];
    assert!(counts.iter().all(|count| !stderr.contains(count)), "no count is half of something: {stderr}");
    let quiet = run(&["ask", &sample("11.png"), "Which is the smallest shape?", "--quiet"]);
    assert_eq!((text(&quiet.stdout), text(&quiet.stderr)), ("green star\n", ""));
    let empty = run(&["ask", &sample("11.png"), "", "--max-new-tokens", "1"]);
    for part in ["the prompt is empty", "1 token in "] {
        assert!(text(&empty.stderr).contains(part), "no {part:?} in {}", text(&empty.stderr));
    }
}

#[test]
fn ask_gives_the_same_answer_portably_and_checked() {
    if support::device().is_none() {
        return;
    }
    for flags in [&["--portable"][..], &["--checked"], &["--portable", "--checked"]] {
        let output = run(&[&["ask", &sample("02.png"), "Write a short caption for the picture."], flags].concat());
        assert_eq!(text(&output.stdout), "a blue circle, a purple circle and a white ring\n", "{flags:?}");
    }
}

#[test]
fn ask_json_has_the_promised_keys() {
    if support::device().is_none() {
        return;
    }
    let output = run(&["ask", &sample("00.png"), "Which shape does the purple thing have?", "--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let keys = |v: &Value| v.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    let wanted = "device finish_reason model prompt_tokens sequences text timings_ms token_ids tokens_per_second";
    assert_eq!(keys(&json).join(" "), wanted);
    assert_eq!(keys(&json["sequences"][0]), ["finish_reason", "score", "text", "token_ids"]);
    assert_eq!(keys(&json["timings_ms"]), ["decode", "image", "load", "prefill", "qformer", "vision"]);
    assert!(json["timings_ms"].as_object().expect("an object").values().all(|v| v.as_f64().is_some_and(|ms| ms > 0.0)));
    let golden = Golden::read(&tests_folder().join("shapes/golden.safetensors"));
    let ids: Vec<u64> = golden.ids("0.greedy_ids").iter().map(|&id| id.into()).collect();
    assert_eq!(json["token_ids"].as_array().expect("ids").iter().filter_map(Value::as_u64).collect::<Vec<_>>(), ids);
    assert_eq!((json["text"].as_str(), json["finish_reason"].as_str()), (Some("circle"), Some("eos")));
    assert_eq!(json["prompt_tokens"].as_u64(), Some(golden.ids("0.input_ids").len() as u64));
    assert!(json["tokens_per_second"].as_f64().is_some_and(|speed| speed > 0.0));
}

#[test]
fn max_new_tokens_ends_the_answer() {
    if support::device().is_none() {
        return;
    }
    let prompt = "Please describe the photo in detail.";
    let output = run(&["ask", &sample("01.png"), prompt, "--max-new-tokens", "1", "--json", "--logprobs", "2"]);
    let json: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(json["finish_reason"].as_str(), Some("length"));
    assert_eq!(json["token_ids"].as_array().map(Vec::len), Some(1));
    let told = &json["sequences"][0]["logprobs"][0];
    assert_eq!((&told["token_id"], &told["top"][0][0]), (&json["token_ids"][0], &json["token_ids"][0]));
    assert!(told["logprob"] == told["top"][0][1] && told["top"].as_array().is_some_and(|top| top.len() == 2), "{told}");
    assert!(json["tokens_per_second"].is_null(), "one token has no decode step");
    refused(&["ask", &sample("01.png"), prompt, "--max-new-tokens", "0"], 2, &["--max-new-tokens"]);
    refused(&["ask", &sample("01.png"), prompt, "--logprobs", "2"], 2, &["--json"]);
}

#[test]
fn a_picture_may_come_from_standard_input() {
    if support::device().is_none() {
        return;
    }
    let mut child = program()
        .args(["ask", "-", "Which is the smallest shape?", "-q"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let picture = std::fs::read(sample("11.png")).expect("a picture");
    child.stdin.take().expect("a pipe").write_all(&picture).expect("written");
    let output = child.wait_with_output().expect("an output");
    assert_eq!(text(&output.stdout), "green star\n");
}

#[test]
fn a_checkpoint_directory_works_like_the_embedded_model() {
    if support::device().is_none() {
        return;
    }
    let folder = checkpoint_folder("gqa-tied-theta");
    let golden = Golden::of("gqa-tied-theta");
    let image = golden_image(golden.about("0.image")).display().to_string();
    let output = program()
        .args(["ask", &image, golden.about("0.prompt"), "--json", "--max-new-tokens", golden.about("max_new_tokens")])
        .env("INSTRUCTBLIP_MODEL", &folder)
        .output()
        .expect("the program runs");
    let json: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let ids = json["token_ids"].as_array().expect("ids").iter().filter_map(Value::as_u64).map(|id| id as u32);
    assert_eq!(ids.collect::<Vec<_>>(), golden.ids("0.greedy_ids"));
    assert_eq!(json["model"].as_str().map(Path::new), Some(folder.as_path()));
}

#[test]
fn forward_writes_every_stage_and_the_taps() {
    if support::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out.safetensors");
    let taps = "vision_model.encoder.layers.0.mlp.fc1,qformer.encoder.layer.2.cross_attention,language_model.model.layers.1.mlp.gate_up";
    let arguments = ["forward", &sample("00.png"), "Which shape does the purple thing have?", "--taps", taps, "-o"];
    let output = program().args(arguments).arg(&out).output().expect("the program runs");
    assert!(output.status.success() && output.stdout.is_empty(), "{}", text(&output.stderr));
    let bytes = std::fs::read(&out).expect("the file");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a valid file");
    let f32s: [(&str, &[usize]); 9] = [
        ("pixel_values", &[1, 3, 96, 96]),
        ("vision_last_hidden_state", &[1, 145, 192]),
        ("vision_pooler_output", &[1, 192]),
        ("qformer_last_hidden_state", &[1, 26, 160]),
        ("language_model_inputs", &[1, 16, 192]),
        ("logits", &[1, 27, 640]),
        ("vision_model.encoder.layers.0.mlp.fc1", &[1, 145, 384]),
        ("qformer.encoder.layer.2.cross_attention", &[1, 16, 160]),
        ("language_model.model.layers.1.mlp.gate_up", &[1, 27, 384]),
    ];
    let i32s: [(&str, &[usize]); 4] = [
        ("input_ids", &[1, 27]),
        ("attention_mask", &[1, 27]),
        ("qformer_input_ids", &[1, 10]),
        ("qformer_attention_mask", &[1, 10]),
    ];
    for (dtype, tensors) in [(safetensors::Dtype::F32, &f32s[..]), (safetensors::Dtype::I32, &i32s[..])] {
        for (name, shape) in tensors {
            let view = file.tensor(name).unwrap_or_else(|_| panic!("no {name}"));
            assert_eq!((view.dtype(), view.shape()), (dtype, *shape), "{name}");
        }
    }
    assert_eq!(file.len(), 13);
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 1, "no half file is left");
    refused(&["forward", &sample("00.png"), "a", "-o", "/no/such/folder/x.safetensors"], 3, &["no such folder"]);
    refused(
        &["forward", &sample("00.png"), "a", "--taps", "nonsense", "-o", &out.display().to_string()],
        3,
        &["nonsense"],
    );
}

#[test]
fn weights_used_twice_are_tapped_twice() {
    if support::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out.safetensors").display().to_string();
    let norm = "vision_model.post_layernorm";
    let output = run(&["forward", &sample("00.png"), "a", "--taps", norm, "-o", &out]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let bytes = std::fs::read(out).expect("the file");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a valid file");
    let data = |name: &str| file.tensor(name).unwrap_or_else(|_| panic!("no {name}")).data().to_vec();
    assert_eq!(data(norm), data("vision_last_hidden_state"));
    assert_eq!(data(&format!("{norm}#2")), data("vision_pooler_output"));
}

#[test]
fn the_order_of_the_resize_passes_can_be_chosen() {
    if support::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let image = tests_folder().join("golden/images/portrait-61x143.png").display().to_string();
    let pixels = |order: &str| {
        let out = folder.path().join(order).display().to_string();
        assert!(run(&["forward", &image, "a", "--resize", order, "-o", &out]).status.success());
        let bytes = std::fs::read(out).expect("the file");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a valid file");
        file.tensor("pixel_values").expect("pixels").data().to_vec()
    };
    assert_ne!(pixels("pillow12"), pixels("pillow13"));
}

#[test]
fn devices_lists_adapters_and_marks_one() {
    if support::device().is_none() {
        return;
    }
    let output = run(&["devices"]);
    assert_eq!(text(&output.stdout).lines().filter(|line| line.starts_with("* ")).count(), 1);
    let json: Value = serde_json::from_slice(&run(&["devices", "--json"]).stdout).expect("a JSON array");
    let adapters = json.as_array().expect("an array");
    assert_eq!(adapters.iter().filter(|a| a["chosen"] == Value::Bool(true)).count(), 1);
    for adapter in adapters {
        for key in ["name", "backend", "type", "driver"] {
            assert!(adapter[key].is_string(), "{key} of {adapter}");
        }
        assert!(adapter["limits"]["max_binding_bytes"].as_u64().is_some_and(|bytes| bytes >= 128 << 20));
        assert!(adapter["features"]["shader_f16"].is_boolean());
        assert!([Value::Null, 8.into(), 16.into()].contains(&adapter["features"]["matrix_edge"]), "{adapter}");
    }
}

#[test]
fn demo_answers_as_recorded() {
    if support::device().is_none() {
        return;
    }
    let rows = std::fs::read_to_string(tests_folder().join("shapes/samples.jsonl")).expect("the samples");
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).expect("a row")).collect();
    let json: Value = serde_json::from_slice(&run(&["demo", "--json"]).stdout).expect("a JSON array");
    let answers = json.as_array().expect("an array");
    assert!(answers.len() >= 8);
    for answer in answers {
        let row = rows.iter().find(|row| {
            answer["image"].as_str().is_some_and(|path| path.ends_with(row["image"].as_str().expect("a name")))
                && answer["question"] == row["prompt"]
        });
        assert_eq!(answer["text"], row.expect("a recorded question")["hf_greedy"]);
    }
    let shown = run(&["demo"]);
    for answer in answers {
        for key in ["image", "question", "text"] {
            assert!(text(&shown.stdout).contains(answer[key].as_str().expect("text")), "{key}");
        }
    }
}

#[test]
fn exit_codes_tell_what_was_wrong() {
    if support::device().is_none() {
        return;
    }
    refused(&[], 2, &["Usage"]);
    refused(&["ask", "only-a-picture.png"], 2, &["PROMPT"]);
    refused(&["ask", "no-such-file.png", "a"], 3, &["no-such-file.png"]);
    refused(&["ask", &sample("00.png"), "a", "--model", "/no/such/model"], 3, &["/no/such/model", "no such directory"]);
    let folder = tests_folder().display().to_string();
    let adapter = ["ask", &sample("00.png"), "a", "--model", &folder, "--lora", "/no/such/adapter"];
    refused(&adapter, 3, &["/no/such/adapter", "adapter_config.json"]);
    let published = ["ask", &sample("00.png"), "a", "--model", "flan-t5-xl@no-such"];
    refused(&published, 3, &["instructblip pull Salesforce/instructblip-flan-t5-xl --revision no-such"]);
    for verb in ["ask", "score", "forward"] {
        let rest: &[&str] = match verb {
            "score" => &["--choice", "a"],
            "forward" => &["-o", "x.safetensors"],
            _ => &[],
        };
        refused(&[&[verb, "What is it?", &sample("00.png")], rest].concat(), 3, &["picture first, question second"]);
    }
    refused(&["ask", &sample("00.png"), "What", "is", "it"], 2, &["put the question in quotes"]);
    refused(&["ask", &sample("00.png"), &"very ".repeat(500)], 3, &["too long", "128"]);
    refused(
        &["ask", &sample("00.png"), "a", "--adapter", "no such adapter"],
        4,
        &["no such adapter", "found:", "doctor"],
    );
    let fixture = Fixture::new();
    fixture.write("model.safetensors", b"garbage");
    let folder = fixture.path().display().to_string();
    refused(&["ask", &sample("00.png"), "a", "--model", &folder], 3, &["model.safetensors", "truncated"]);
    fixture.write("picture.png", b"garbage");
    let picture: PathBuf = fixture.file("picture.png");
    refused(&["ask", &picture.display().to_string(), "a"], 3, &["picture.png"]);
    let fixture = Fixture::new();
    fixture.edit_tensors(|name, tensor| (!name.starts_with("qformer.")).then_some(tensor));
    let folder = fixture.path().display().to_string();
    refused(&["ask", &sample("00.png"), "a", "--model", &folder], 3, &["missing", "tensors: qformer.", "more"]);
}

#[test]
fn completions_and_manual_pages_come_from_the_program() {
    for (shell, part) in [
        ("bash", "complete -F _instructblip"),
        ("zsh", "#compdef instructblip"),
        ("fish", "complete -c instructblip"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let script = run(&["completions", shell]);
        assert!(script.status.success() && script.stderr.is_empty(), "{}", text(&script.stderr));
        for part in [part, "num-beams", "eval"] {
            assert!(text(&script.stdout).contains(part), "{shell}: no {part:?}");
        }
    }
    let page = run(&["man"]);
    assert!(page.status.success() && text(&page.stdout).contains(".TH instructblip 1"), "{}", text(&page.stdout));
    let page = run(&["man", "bench", "kernels"]);
    assert!(text(&page.stdout).contains("MxNxK") && text(&page.stdout).contains("257x1408x1408"));
    refused(&["man", "nothing"], 3, &["nothing is no command"]);
}

#[test]
fn the_reason_of_the_operating_system_is_told_once() {
    let output = run(&["ask", "no-such-file.png", "a"]);
    let stderr = text(&output.stderr);
    assert_eq!(stderr.matches("no-such-file.png").count(), 1, "{stderr}");
    assert_eq!(stderr.matches("os error").count(), 1, "{stderr}");
}

#[test]
fn an_unreadable_standard_input_is_refused() {
    refused(&["ask", "-", "a"], 3, &["standard input", "empty"]);
    if cfg!(unix) {
        let folder = std::fs::File::open(std::env::temp_dir()).expect("a folder");
        let output = program().args(["ask", "-", "a"]).stdin(folder).output().expect("the program runs");
        assert_eq!(output.status.code(), Some(3));
        assert!(text(&output.stderr).contains("standard input: "), "{}", text(&output.stderr));
    }
}

/// The target is refused before the device is looked for, or the exit code would be that of the adapter.
#[test]
fn a_target_that_cannot_be_written_is_refused_before_the_work() {
    let folder = tempfile::tempdir().expect("a folder");
    let forward = |target: &Path, part: &str| {
        let target = target.display().to_string();
        let nowhere = ["forward", &sample("00.png"), "a", "--adapter", "no such adapter", "-o", &target];
        refused(&nowhere, 3, &[part]);
    };
    forward(Path::new("/no/such/folder/x.safetensors"), "no such folder");
    forward(folder.path(), "not a regular file");
    if cfg!(unix) {
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()));
        forward(&pipe, "not a regular file");
    }
}

#[test]
fn switches_in_the_environment_take_the_usual_words() {
    for (value, quiet) in [("1", true), ("true", true), ("yes", true), ("0", false), ("false", false), ("", false)] {
        let arguments = ["ask", &sample("11.png"), "Which is the smallest shape?"];
        if support::device().is_none() {
            return;
        }
        let output = program().args(arguments).env("INSTRUCTBLIP_QUIET", value).output().expect("the program runs");
        assert!(output.status.success(), "{value:?}: {}", text(&output.stderr));
        assert_eq!(output.stderr.is_empty(), quiet, "{value:?}");
    }
}

#[test]
fn no_adapter_at_all_is_exit_code_4() {
    let output = program()
        .args(["ask", &sample("00.png"), "a"])
        .env("VK_DRIVER_FILES", "/no/such/driver.json")
        .env("VK_ICD_FILENAMES", "/no/such/driver.json")
        .env("WGPU_BACKEND", "vulkan")
        .output()
        .expect("the program runs");
    if cfg!(target_os = "linux") {
        assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
        for part in ["mesa-vulkan-drivers", "instructblip doctor"] {
            assert!(text(&output.stderr).contains(part), "{}", text(&output.stderr));
        }
    }
}

#[test]
fn colours_only_where_wanted() {
    let coloured = |arguments: &[&str]| run(arguments).stderr.contains(&0x1b);
    assert!(!coloured(&["ask", "no-such-file.png", "a"]), "stderr is no terminal");
    assert!(coloured(&["ask", "no-such-file.png", "a", "--color", "always"]));
    assert!(!coloured(&["ask", "no-such-file.png", "a", "--color", "never"]));
}

#[test]
fn a_closed_stderr_changes_nothing() {
    let run = |arguments: &[&str]| {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        program().args(arguments).stderr(writer).output().expect("the program runs")
    };
    assert_eq!(run(&["ask", "no-such-file.png", "a"]).status.code(), Some(3));
    if support::device().is_none() {
        return;
    }
    let output = run(&["ask", &sample("11.png"), "Which is the smallest shape?"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "green star\n"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_stdout_is_told() {
    if support::device().is_none() {
        return;
    }
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("the full device");
    let arguments = ["ask", &sample("11.png"), "Which is the smallest shape?"];
    let output = program().args(arguments).stdout(full).output().expect("the program runs");
    assert_eq!(output.status.code(), Some(75));
    assert!(text(&output.stderr).contains("standard output: "), "{}", text(&output.stderr));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    if support::device().is_none() {
        return;
    }
    let mut child =
        program().args(["demo", "-q"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut stderr).expect("text");
    assert!(child.wait().expect("an exit code").success(), "{stderr}");
    assert_eq!(stderr, "");
}
