//! Every way in which a checkpoint, a prompt or a picture can be wrong: which error, and what it tells.

use crate::support;
use std::path::Path;
use std::sync::Arc;

use crate::support::fixtures::{Fixture, Stored};
use crate::support::models::load;
use instructblip::model::{ForwardOptions, Parts};
use instructblip::runtime::{Category, Device};
use instructblip::weights::{Loader, Placement, TensorFiles};
use instructblip::{Checkpoint, Error, GenerateOptions, Image, InstructBlip, Question};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

/// Loads a folder that must be refused; nothing of it may stay on the device.
fn refusal(device: &Device, folder: &Path) -> Error {
    let checkpoint = Checkpoint::directory(folder).expect("a folder");
    let Err(error) = InstructBlip::load(device, &checkpoint) else { panic!("loaded") };
    assert_eq!(device.counters().bytes(Category::Weights), 0, "weights stayed on the device after {error}");
    error
}

/// Requires an `Error::Checkpoint` about `file` whose text has all of `parts`, and no text of a library.
fn expect_checkpoint(error: &Error, file: &str, parts: &[&str]) {
    let (Error::Checkpoint { file: named, .. } | Error::NotTheFile { file: named, .. }) = error else {
        panic!("not a checkpoint error: {error:?}")
    };
    assert!(named.ends_with(file), "{} is named, not {file}", named.display());
    let text = error.to_string();
    parts.iter().for_each(|part| assert!(text.contains(part), "no {part:?} in: {text}"));
    for foreign in ["serde", "expected", "Serde", "SafeTensorError", "panicked", "Err("] {
        assert!(!text.contains(foreign), "a library's words in: {text}");
    }
}

fn with(damage: impl Fn(&Fixture)) -> Fixture {
    let fixture = Fixture::new();
    damage(&fixture);
    fixture
}

#[test]
fn an_undamaged_copy_loads() {
    let Some(device) = support::device() else { return };
    let fixture = Fixture::new();
    let checkpoint = Checkpoint::directory(fixture.path()).expect("a folder");
    InstructBlip::load(&device, &checkpoint).expect("a model");
}

#[test]
fn missing_directory_and_missing_config_are_named() {
    let Some(device) = support::device() else { return };
    match Checkpoint::directory("/no/such/folder") {
        Err(e) => expect_checkpoint(&e, "folder", &["no such directory", "config.json"]),
        Ok(_) => panic!("opened"),
    }
    let fixture = with(|f| f.remove("config.json"));
    let file = fixture.path().join("tokenizer.json");
    let adapter =
        [Path::new("/no/such/folder"), &file].map(|path| Checkpoint::adapter_directory(path).expect_err("none"));
    expect_checkpoint(&adapter[0], "folder", &["no such directory; give the folder that holds adapter_config.json"]);
    expect_checkpoint(&adapter[1], "tokenizer.json", &["is a file, not a folder", "adapter_config.json"]);
    let empty = Checkpoint::directory("").expect_err("none").to_string();
    assert_eq!(empty, "the path of the model is empty; give the folder that holds config.json");
    expect_checkpoint(&refusal(&device, fixture.path()), "config.json", &["missing"]);
}

#[test]
fn garbled_configurations_are_located() {
    let Some(device) = support::device() else { return };
    let deep = format!("{{\"x\": {}", "[".repeat(100_000));
    for (text, part) in [
        ("", "line 1"),
        ("{\"model_type\": \"instruct", "not valid JSON"),
        ("{\"model_type\": \"instructblip\",\n \"num_query_tokens\": \"many\"}", "line 2"),
        ("{\"model_type\": \"instructblip\", \"num_query_tokens\": -1}", "out of range"),
        ("{\"model_type\": \"instructblip\", \"num_query_tokens\": 1e400}", "line 1"),
        ("\u{0}\u{1}", "not valid JSON"),
        ("[]", "line 1"),
        ("{\"num_query_tokens\": 1,\n\"num_query_tokens\": 2}", "line 2"),
        (
            "{\"model_type\": \"instructblip\",\n\"text_config\": {\"eos_token_id\": \"</s>\"}}",
            "text_config.eos_token_id",
        ),
        (deep.as_str(), "not valid JSON"),
    ] {
        let fixture = with(|f| f.write("config.json", text));
        expect_checkpoint(&refusal(&device, fixture.path()), "config.json", &[part]);
    }
}

#[test]
fn unsupported_models_are_named() {
    let Some(device) = support::device() else { return };
    for (pointer, value, parts) in [
        ("/model_type", json!("llava"), ["llava", "instructblip"]),
        ("/model_type", Value::Null, ["model_type is missing", "instructblip"]),
        ("/text_config/model_type", json!("gpt2"), ["\"gpt2\"", "\"llama\""]),
        ("/text_config/model_type", json!(7), ["not a name", "\"t5\""]),
        ("/text_config", json!({"do_layer_norm_before": false}), ["do_layer_norm_before", "OPT"]),
        ("/text_config", json!({"word_embed_proj_dim": 512}), ["word_embed_proj_dim", "512"]),
        ("/text_config", json!({"model_type": "t5", "feed_forward_proj": "gated-swish7"}), ["swish7", "gelu"]),
        ("/text_config/hidden_act", json!("gelu"), ["hidden_act", "\"silu\""]),
        ("/text_config/rope_parameters", json!({"rope_type": "yarn"}), ["yarn", "default"]),
        ("/text_config/rope_scaling", json!({"type": "linear", "factor": 2}), ["linear", "default"]),
        (
            "/text_config",
            json!({"model_type": "llama", "rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear", "factor": 2}}),
            ["linear", "default"],
        ),
        ("/text_config/rope_scaling", json!({"factor": 2}), ["unnamed", "default"]),
        ("/text_config/rope_scaling", json!("yarn"), ["unnamed", "default"]),
        ("/vision_config/hidden_act", json!("quick_gelu"), ["quick_gelu", "gelu"]),
    ] {
        let fixture = with(|f| {
            if pointer.starts_with("/text_config/rope") {
                f.set("config.json", "/text_config/rope_parameters", Value::Null);
            }
            f.set("config.json", pointer, value.clone());
        });
        expect_checkpoint(&refusal(&device, fixture.path()), "config.json", &parts);
    }
}

#[test]
fn hostile_sizes_are_refused_with_the_field_and_its_range() {
    let Some(device) = support::device() else { return };
    for (field, value) in [
        ("vision_config/num_attention_heads", json!(0)),
        ("vision_config/num_attention_heads", json!(3)),
        ("vision_config/num_hidden_layers", json!(1_000_000_000)),
        ("vision_config/image_size", json!(0)),
        ("vision_config/image_size", json!(2_147_483_647)),
        ("vision_config/patch_size", json!(0)),
        ("vision_config/hidden_size", json!(0)),
        ("vision_config/hidden_size", json!(177)), // two heads
        ("vision_config/intermediate_size", json!(4_294_967_288u32)),
        ("vision_config/layer_norm_eps", json!(-1.5)),
        ("qformer_config/cross_attention_frequency", json!(0)),
        ("qformer_config/num_attention_heads", json!(7)),
        ("qformer_config/num_attention_heads", json!(96)),
        ("qformer_config/max_position_embeddings", json!(0)),
        ("qformer_config/vocab_size", json!(4_000_000_000u32)),
        ("text_config/num_attention_heads", json!(0)),
        ("text_config/num_key_value_heads", json!(3)),
        ("text_config/num_key_value_heads", json!(8)),
        ("text_config/head_dim", json!(3)),
        ("text_config/head_dim", json!(4096)),
        ("text_config/max_position_embeddings", json!(4_000_000_000u32)),
        ("text_config/rms_norm_eps", json!(-0.5)),
        ("text_config/hidden_size", json!(0)),
        ("text_config/intermediate_size", json!(65_537)),
        ("num_query_tokens", json!(0)),
    ] {
        let fixture = with(|f| f.set("config.json", &format!("/{field}"), value.clone()));
        let error = refusal(&device, fixture.path());
        let part = field.split('_').next_back().expect("a word");
        expect_checkpoint(&error, "config.json", &[part]);
        assert!(error.to_string().contains(&value.to_string()), "the value is told: {error}");
    }
}

#[test]
fn numbers_that_would_make_activations_infinite_are_refused() {
    let Some(device) = support::device() else { return };
    for (field, value, part) in [
        ("/vision_config/layer_norm_eps", json!(1e39), "layer_norm_eps is inf"),
        ("/text_config/rms_norm_eps", json!(1e300), "rms_norm_eps is inf"),
        ("/text_config/rope_parameters", json!({"rope_theta": 0.0}), "rope_theta is 0; it must be at least 1"),
        ("/text_config/rope_parameters", json!({"rope_theta": 1e-300}), "rope_theta"),
        ("/text_config/rope_parameters", json!({"rope_theta": -10000.0}), "rope_theta is -10000"),
    ] {
        let fixture = with(|f| f.set("config.json", field, value.clone()));
        expect_checkpoint(&refusal(&device, fixture.path()), "config.json", &[part]);
    }
}

#[test]
fn damaged_weight_files_are_told_apart() {
    let Some(device) = support::device() else { return };
    let whole = Fixture::new().read("model.safetensors");
    let header = u64::from_le_bytes(whole[..8].try_into().expect("8 bytes")) as usize;
    let with_header = |text: &str, data: usize| {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes.extend(vec![0; data]);
        bytes
    };
    let tensor = |name: &str, begin: usize, end: usize| {
        format!(
            "\"{name}\":{{\"dtype\":\"F16\",\"shape\":[{}],\"data_offsets\":[{begin},{end}]}}",
            end.abs_diff(begin) / 2
        )
    };
    let huge = "{\"a\":{\"dtype\":\"F16\",\"shape\":[4294967296,4294967296,4294967296],\"data_offsets\":[0,8]}}";
    // Eight adjoining tensors of 2^61 - 2 bytes end just below 2^64, so that adding the header's length overflows.
    const STEP: usize = (1 << 61) - 2;
    let endless: Vec<String> = (0..8).map(|i| tensor(&format!("t{i}"), i * STEP, (i + 1) * STEP)).collect();
    let cut = (whole.len() - 1000).to_string();
    let cases: Vec<(Vec<u8>, Vec<&str>)> = vec![
        (Vec::new(), vec!["truncated", "8", "0"]),
        (whole[..4].to_vec(), vec!["truncated"]),
        (whole[..header / 2].to_vec(), vec!["truncated"]),
        (whole[..whole.len() - 1000].to_vec(), vec!["truncated", &cut]),
        ([&whole[..], &[0; 9]].concat(), vec!["damaged"]),
        ([&u64::MAX.to_le_bytes()[..], &whole[8..]].concat(), vec!["18446744073709551615"]),
        (with_header("hello, this is no JSON", 0), vec!["damaged"]),
        (with_header(&format!("{{{},{}}}", tensor("a", 0, 8), tensor("a", 8, 16)), 16), vec!["a twice"]),
        (with_header(&format!("{{{},{}}}", tensor("a", 0, 8), tensor("b", 4, 12)), 12), vec!["damaged"]),
        (with_header(&format!("{{{},{}}}", tensor("a", 0, 8), tensor("b", 12, 20)), 20), vec!["damaged"]),
        (with_header(&format!("{{{}}}", tensor("a", 8, 0)), 8), vec!["damaged"]),
        (with_header(huge, 8), vec!["damaged"]),
        (with_header(&format!("{{{}}}", endless.join(",")), 8), vec!["truncated"]),
        (b"PK\x03\x04 a zip file with a longer tail".to_vec(), vec!["not a safetensors file"]),
    ];
    for (bytes, parts) in cases {
        let fixture = with(|f| f.write("model.safetensors", &bytes));
        expect_checkpoint(&refusal(&device, fixture.path()), "model.safetensors", &parts);
    }
}

/// A file in whose place git, a browser or a script saved something else is not called damaged: the error names what it
/// is.
#[test]
fn pointers_and_pages_in_place_of_files_are_told() {
    let Some(device) = support::device() else { return };
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 15789\n";
    let page = "\n<!DOCTYPE html>\n<html><head><title>404</title></head></html>\n";
    let answers = [
        (pointer, "git lfs pull"),
        (page, "web page"),
        ("Entry not found", "server's refusal"),
        ("../../blobs/4d7a", "text of a link"),
    ];
    for name in [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "qformer_tokenizer/tokenizer.json",
        "processor_config.json",
    ] {
        for (text, part) in answers {
            let fixture = with(|f| f.write(name, text));
            expect_checkpoint(&refusal(&device, fixture.path()), name, &[part, "fetch the model with Hub::pull"]);
        }
    }
}

#[test]
fn missing_tensors_are_listed_together() {
    let Some(device) = support::device() else { return };
    let gone = |name: &str| name.contains("qformer.encoder.layer.1.intermediate") || name == "query_tokens";
    let fixture = with(|f| f.edit_tensors(|name, tensor| (!gone(name)).then_some(tensor)));
    let error = refusal(&device, fixture.path());
    let Error::MissingTensors { names, need, .. } = &error else { panic!("{error:?}") };
    assert_eq!(names.len(), 5);
    assert!(*need > 100 && names.iter().all(|name| gone(name)));
    let text = error.to_string();
    assert!(text.contains("missing 5 of") && text.contains("query_tokens"), "{text}");
    // Many are counted, not all spelled out.
    let fixture = with(|f| f.edit_tensors(|name, tensor| (!name.starts_with("vision_model")).then_some(tensor)));
    let text = refusal(&device, fixture.path()).to_string();
    assert!(text.contains(" more") && text.len() < 1000, "{text}");
    // What the file has instead is told, too: here the names that the model has inside another.
    let fixture = with(|f| {
        let bytes = f.read("model.safetensors");
        let tensors = SafeTensors::deserialize(&bytes).expect("a valid file");
        let inside = tensors.tensors().into_iter().map(|(name, view)| (format!("model.{name}"), view));
        f.write("model.safetensors", safetensors::serialize(inside, None).expect("a file"));
    });
    let text = refusal(&device, fixture.path()).to_string();
    assert!(text.contains("does not need: model.language_model") && text.len() < 1500, "{text}");
}

#[test]
fn extra_tensors_are_ignored() {
    let Some(device) = support::device() else { return };
    let fixture = with(|f| {
        f.edit_tensors(|name, tensor| {
            Some(if name == "query_tokens" { Stored { dtype: Dtype::F32, ..tensor } } else { tensor })
        });
        let bytes = f.read("model.safetensors");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("a valid file");
        let mut views = file.tensors();
        let extra = safetensors::tensor::TensorView::new(Dtype::I64, vec![1], &[0; 8]).expect("a view");
        views.push(("vision_model.embeddings.position_ids".into(), extra));
        f.write("model.safetensors", safetensors::serialize(views, None).expect("a file"));
    });
    let checkpoint = Checkpoint::directory(fixture.path()).expect("a folder");
    InstructBlip::load(&device, &checkpoint).expect("a model");
}

#[test]
fn wrong_shapes_types_and_values_are_refused_by_name() {
    let Some(device) = support::device() else { return };
    type Edit = fn(Stored) -> Stored;
    let cases: [(&str, Edit, &[&str]); 8] = [
        (
            "vision_model.post_layernorm.weight",
            |t| Stored { shape: vec![t.shape[0] / 2, 2], ..t },
            &["[88, 2]", "[176]"],
        ),
        (
            "language_model.model.norm.weight",
            |t| Stored { shape: vec![32], bytes: t.bytes[..64].to_vec(), ..t },
            &["[32]", "[64]"],
        ),
        ("language_projection.bias", |t| Stored { dtype: Dtype::I16, ..t }, &["I16", "F16, BF16 and F32"]),
        (
            "query_tokens",
            |t| Stored { dtype: Dtype::I64, bytes: vec![0; t.shape.iter().product::<usize>() * 8], ..t },
            &["I64", "F16, BF16 and F32"],
        ),
        (
            "language_projection.weight",
            |t| {
                let values = std::iter::once(1e5f32).chain(std::iter::repeat(0.0)).take(t.bytes.len() / 2);
                Stored { dtype: Dtype::F32, bytes: values.flat_map(f32::to_le_bytes).collect(), ..t }
            },
            &["65504"],
        ),
        ("vision_model.encoder.layers.1.mlp.fc1.weight", |t| poke(t, [0x00, 0x7e]), &["1 values that are not finite"]),
        ("language_projection.bias", |t| poke(t, [0x00, 0x7c]), &["1 values that are not finite"]),
        // 1e5 as bf16.
        ("language_projection.weight", |t| poke(Stored { dtype: Dtype::BF16, ..zeros(t) }, [0xc3, 0x47]), &["65504"]),
    ];
    for (tensor, edit, parts) in cases {
        let fixture = with(|f| f.edit_tensors(|name, stored| Some(if name == tensor { edit(stored) } else { stored })));
        let error = refusal(&device, fixture.path());
        expect_checkpoint(&error, "model.safetensors", &[&[tensor], parts].concat());
    }
}

fn zeros(mut t: Stored) -> Stored {
    t.bytes.fill(0);
    t
}

fn poke(mut t: Stored, value: [u8; 2]) -> Stored {
    t.bytes[2..4].copy_from_slice(&value);
    t
}

#[test]
fn an_index_may_name_plain_files_beside_it_only() {
    let Some(device) = support::device() else { return };
    const INDEX: &str = "model.safetensors.index.json";
    for name in
        ["../model.safetensors", "/etc/passwd", "C:\\x.safetensors", "a/b.safetensors", ".x.safetensors", "x.bin", ""]
    {
        let fixture = with(|f| {
            f.remove("model.safetensors");
            f.write(INDEX, json!({"weight_map": {"query_tokens": name}}).to_string());
        });
        expect_checkpoint(&refusal(&device, fixture.path()), INDEX, &["not a plain file name"]);
    }
    let fixture = with(|f| {
        f.remove("model.safetensors");
        f.write(INDEX, json!({"weight_map": {"a": "gone.safetensors"}}).to_string());
    });
    expect_checkpoint(
        &refusal(&device, fixture.path()),
        "gone.safetensors",
        &["named by model.safetensors.index.json"],
    );
    let fixture = with(|f| {
        f.write("first.safetensors", f.read("model.safetensors"));
        f.write("second.safetensors", f.read("model.safetensors"));
        f.remove("model.safetensors");
        f.write(INDEX, json!({"weight_map": {"a": "first.safetensors", "b": "second.safetensors"}}).to_string());
    });
    expect_checkpoint(&refusal(&device, fixture.path()), "second.safetensors", &["a second time"]);
    for text in ["{", "[]", "{\"weight_map\": 3}"] {
        let fixture = with(|f| {
            f.remove("model.safetensors");
            f.write(INDEX, text);
        });
        expect_checkpoint(&refusal(&device, fixture.path()), INDEX, &[]);
    }
}

#[test]
fn shards_load_like_one_file() {
    let Some(device) = support::device() else { return };
    let image = Image::from_rgb(3, 2, vec![9; 18]).expect("a picture");
    let ask = |fixture: &Fixture| {
        let mut model = load(&device, fixture.path());
        model.ask(&image, "What is this?", &GenerateOptions::up_to(5)).expect("an answer").token_ids
    };
    let whole = ask(&Fixture::new());
    let fixture = with(|f| {
        let all = f.read("model.safetensors");
        let vision = |name: &str| name.starts_with("vision_model.");
        f.edit_tensors(|name, tensor| vision(name).then_some(tensor));
        f.write("first.safetensors", f.read("model.safetensors"));
        f.write("model.safetensors", &all);
        f.edit_tensors(|name, tensor| (!vision(name)).then_some(tensor));
        f.write("second.safetensors", f.read("model.safetensors"));
        f.remove("model.safetensors");
        let map = json!({"weight_map": {"a": "first.safetensors", "b": "second.safetensors"}});
        f.write("model.safetensors.index.json", map.to_string());
    });
    assert_eq!(ask(&fixture), whole);
    // What no shard has is missing from the checkpoint, whichever shard the index names.
    let map = json!({"weight_map": {"vision_model.post_layernorm.weight": "second.safetensors"}});
    fixture.write("model.safetensors.index.json", map.to_string());
    match refusal(&device, fixture.path()) {
        Error::MissingTensors { names, .. } => assert!(names.iter().all(|name| name.starts_with("vision_model."))),
        other => panic!("{other:?}"),
    }
}

/// A file that is mapped and one that is read: either becomes shorter after its header was looked at.
#[test]
fn a_file_that_is_cut_while_it_is_read_is_named() {
    let Some(device) = support::device() else { return };
    for mmap in [false, true] {
        let fixture = Fixture::new();
        let checkpoint = Checkpoint::directory(fixture.path()).expect("a folder");
        let files = Arc::new(TensorFiles::open(&checkpoint, mmap).expect("tensor files"));
        let file = std::fs::OpenOptions::new().write(true).open(fixture.file("model.safetensors")).expect("a file");
        file.set_len(200_000).expect("cut");
        let mut ignore = |_| Ok(());
        let mut loader = Loader::load(&files, &device, Placement::default(), std::iter::empty(), &mut ignore);
        let result = Parts::load(&mut loader, &support::models::config(&checkpoint));
        let Err(error) = result else { panic!("loaded") };
        let text = error.to_string();
        assert!(matches!(error, Error::Io { .. }), "{error:?}");
        assert!(text.contains("model.safetensors: ") && text.contains("while it was being read"), "{text}");
        drop(loader);
        assert_eq!(device.counters().bytes(Category::Weights), 0);
    }
}

#[cfg(unix)]
#[test]
fn folders_and_pipes_in_the_place_of_files_are_refused_at_once() {
    let Some(device) = support::device() else { return };
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        let fixture = with(|f| {
            f.remove(file);
            std::fs::create_dir(f.file(file)).expect("a folder");
        });
        expect_checkpoint(&refusal(&device, fixture.path()), file, &["not a regular file"]);
        let fixture = with(|f| {
            f.remove(file);
            let made = std::process::Command::new("mkfifo").arg(f.file(file)).status();
            assert!(made.is_ok_and(|status| status.success()), "mkfifo");
        });
        expect_checkpoint(&refusal(&device, fixture.path()), file, &["not a regular file"]);
    }
}

#[test]
fn pickled_weights_are_refused_with_the_way_to_convert_them() {
    let Some(device) = support::device() else { return };
    let fixture = with(|f| {
        f.remove("model.safetensors");
        f.write("pytorch_model.bin", b"\x80\x02");
    });
    let error = refusal(&device, fixture.path());
    assert!(error.to_string().contains("save_pretrained"), "{error}");
    let fixture = with(|f| f.remove("model.safetensors"));
    assert!(refusal(&device, fixture.path()).to_string().contains("neither model.safetensors nor"));
}

#[test]
fn tokenizers_and_settings_are_checked() {
    let Some(device) = support::device() else { return };
    for file in ["tokenizer.json", "qformer_tokenizer/tokenizer.json"] {
        let fixture = with(|f| f.remove(file));
        expect_checkpoint(&refusal(&device, fixture.path()), file, &["missing", "save_pretrained"]);
        let fixture = with(|f| f.write(file, "{\"model\": 3}"));
        expect_checkpoint(&refusal(&device, fixture.path()), file, &[]);
    }
    let fixture = with(|f| f.set("processor_config.json", "/image_processor/size", json!({"height": 32, "width": 32})));
    let error = refusal(&device, fixture.path()).to_string();
    assert!(error.contains("32x32") && error.contains("image_size") && error.contains("56"), "{error}");
}

/// Cuts a table to its first rows.
fn first_rows(t: Stored, rows: usize) -> Stored {
    let row_bytes = t.bytes.len() / t.shape[0];
    Stored { shape: vec![rows, t.shape[1]], bytes: t.bytes[..rows * row_bytes].to_vec(), ..t }
}

#[test]
fn ids_past_an_embedding_are_refused() {
    let Some(device) = support::device() else { return };
    let image = Image::from_rgb(1, 1, vec![1, 2, 3]).expect("a picture");
    // Tokenizers of other models, as it were: their ids go beyond the rows that are left.
    for (table, rows, what) in [
        ("language_model.model.embed_tokens.weight", 200, "the language model has only 200"),
        ("qformer.embeddings.word_embeddings.weight", 40, "the Q-Former has only 40"),
    ] {
        let fixture = with(|f| {
            f.edit_tensors(|name, t| {
                let cut = name == table || (rows == 200 && name == "language_model.lm_head.weight");
                Some(if cut { first_rows(t, rows) } else { t })
            });
        });
        let mut model = load(&device, fixture.path());
        match model.ask(&image, "What is in the image?", &GenerateOptions::default()) {
            Err(Error::Request { problem }) => assert!(problem.contains(what), "{problem}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn vocabularies_need_rows_and_every_output_an_embedding() {
    let Some(device) = support::device() else { return };
    let (embedding, head) = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight");
    let cut = |table: &str, rows| {
        with(|f| f.edit_tensors(|name, t| Some(if name == table { first_rows(t, rows) } else { t })))
    };
    let fixture = cut(embedding, 200);
    let folder = fixture.path().file_name().and_then(|name| name.to_str()).expect("a name");
    let parts = ["language_model.lm_head.weight has 640 rows", embedding, "has 200 rows"];
    expect_checkpoint(&refusal(&device, fixture.path()), folder, &parts);
    for table in [embedding, head, "qformer.embeddings.word_embeddings.weight"] {
        let error = refusal(&device, cut(table, 0).path());
        expect_checkpoint(&error, "model.safetensors", &[table, "has 0 rows"]);
    }
}

#[test]
fn a_choice_past_the_output_layer_is_refused() {
    let Some(device) = support::device() else { return };
    // Outputs may be fewer than embeddings; a choice that needs another has no score.
    let fixture = with(|f| {
        f.edit_tensors(|name, t| Some(if name == "language_model.lm_head.weight" { first_rows(t, 40) } else { t }))
    });
    let mut model = load(&device, fixture.path());
    let image = Image::from_rgb(1, 1, vec![1, 2, 3]).expect("a picture");
    match model.score(&Question::new(&image, "What is it?"), &["circle"]) {
        Err(Error::Request { problem }) => assert!(problem.contains("never gives"), "{problem}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_start_token_without_a_row_is_refused() {
    let Some(device) = support::device() else { return };
    let fixture = Fixture::of("ib-t5-erf");
    fixture.set("config.json", "/text_config/vocab_size", json!(1000));
    fixture.set("config.json", "/text_config/decoder_start_token_id", json!(999));
    expect_checkpoint(&refusal(&device, fixture.path()), "config.json", &["decoder_start_token_id is 999", "184"]);
    fixture.set("config.json", "/text_config/vocab_size", json!(0));
    expect_checkpoint(&refusal(&device, fixture.path()), "config.json", &["vocab_size is 0"]);
}

#[test]
fn prompts_that_do_not_fit_are_refused_with_both_numbers() {
    let Some(device) = support::device() else { return };
    let fixture = with(|f| f.set("config.json", "/text_config/max_position_embeddings", json!(24)));
    let mut model = load(&device, fixture.path());
    let image = Image::from_rgb(3, 2, vec![9; 18]).expect("a picture");
    let options = GenerateOptions::default();
    match model.ask(&image, &"word ".repeat(200), &options) {
        Err(Error::PromptTooLong { need, have, .. }) => assert!(need > have && have == 64, "{need} of {have}"),
        other => panic!("the Q-Former has 64 positions: {other:?}"),
    }
    match model.ask(&image, "one two three four five six seven eight nine", &options) {
        Err(Error::PromptTooLong { what, need, have }) => {
            assert!(what.contains("context") && need > 24 && have == 24, "{need} of {have}");
        }
        other => panic!("the context has 24 positions: {other:?}"),
    }
    match model
        .forward(&Question::new(&image, "one two three four five six seven eight nine"), &ForwardOptions::default())
    {
        Err(Error::PromptTooLong { need, have, .. }) => assert!(need > 24 && have == 24, "{need} of {have}"),
        other => panic!("the context has 24 positions: {:?}", other.map(|_| ())),
    }
    // What fits may use up the context, and ends there.
    let reply = model.ask(&image, "a", &options).expect("an answer");
    assert!(reply.prompt_tokens + reply.token_ids.len() <= 24, "{reply:?}");
    assert!(matches!(model.ask(&image, "a", &GenerateOptions::up_to(0)), Err(Error::Request { .. })));
    assert!(matches!(
        model.ask(&image, &"a".repeat(2 << 20), &options),
        Err(Error::Request { .. } | Error::PromptTooLong { .. })
    ));
}

#[cfg(feature = "embedded-model")]
#[test]
fn a_refused_request_leaves_the_model_as_it_was() {
    let Some(device) = support::device() else { return };
    let mut model = InstructBlip::embedded(&device).expect("the embedded model");
    let image = Image::from_rgb(3, 2, vec![9; 18]).expect("a picture");
    let options = GenerateOptions::up_to(8);
    let before = model.ask(&image, "What is this?", &options).expect("an answer").token_ids;
    assert!(model.ask(&image, &"word ".repeat(500), &options).is_err());
    let unknown_tap = ForwardOptions { taps: vec!["no.such.label".into()], ..Default::default() };
    assert!(model.forward(&Question::new(&image, "a"), &unknown_tap).is_err());
    drop(model.generate(&image, "Describe the picture.", &options).expect("an answer nobody reads"));
    assert_eq!(model.ask(&image, "What is this?", &options).expect("an answer").token_ids, before);
}

#[cfg(feature = "embedded-model")]
#[test]
fn an_unknown_tap_is_refused() {
    let Some(device) = support::device() else { return };
    let mut model = InstructBlip::embedded(&device).expect("the embedded model");
    let image = Image::from_rgb(3, 2, vec![9; 18]).expect("a picture");
    let unknown_tap = ForwardOptions { taps: vec!["no.such.label".into()], ..Default::default() };
    match model.forward(&Question::new(&image, "a"), &unknown_tap) {
        Err(Error::Request { problem }) => assert!(problem.contains("no.such.label")),
        other => panic!("{:?}", other.map(|_| ())),
    }
}
