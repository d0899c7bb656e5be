//! The results of calls.

use std::ffi::{c_char, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};

use instructblip::{Checkpoint, Device, DeviceOptions, Image, InstructBlip};
use instructblip_c::*;
use serde_json::Value;

use crate::support::{ask, c, collect, embedded, file, json, model, nothing_asked, open, root, sample, score};

/// Answers are the recorded ones of the embedded model, their pieces put together are their texts, whichever threads
/// ask.
#[test]
fn answers_are_those_of_transformers_from_four_threads() {
    let lines = std::fs::read_to_string(root().join("../tests/shapes/samples.jsonl")).expect("questions");
    let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    std::thread::scope(|threads| {
        for part in rows.chunks(rows.len().div_ceil(4)) {
            threads.spawn(move || part.iter().for_each(answer_is_right));
        }
    });
}

fn answer_is_right(row: &Value) {
    let text = |name: &str| row[name].as_str().expect("a text");
    let name = Path::new(text("image")).file_name().and_then(|name| name.to_str()).expect("a name");
    let bytes = std::fs::read(sample(name)).expect("a picture");
    let (picture, prompt, params) = (file(&bytes), c(text("prompt")), c("{\"max_new_tokens\": 60}"));
    let mut pieces = String::new();
    let question = Question {
        pictures: &raw const picture,
        picture_count: 1,
        prompt: prompt.as_ptr(),
        params: params.as_ptr(),
        on_text: Some(collect),
        user: (&raw mut pieces).cast::<c_void>(),
        ..nothing_asked()
    };
    let reply = ask(&question).expect("an answer");
    assert_eq!(reply["text"], text("hf_greedy"), "{row}");
    assert_eq!(pieces.trim_end(), text("hf_greedy"));
    assert_eq!(reply["sequences"][0]["token_ids"], reply["token_ids"]);
    assert!(reply["timings_ms"]["vision"].is_number() && reply["device"].is_string());
}

/// A picture's pixels are the same as its file; a task words the prompt; several answers come with their scores.
#[test]
fn pixels_tasks_beams_and_choices_are_heeded() {
    let image = Image::open(sample("10.png")).expect("a picture");
    let (width, height) = (image.width(), image.height());
    let picture = Picture { data: image.pixels().as_ptr(), length: image.pixels().len(), width, height };
    let texts =
        ["caption", "vqa-short", "How many things are there?", "{\"num_beams\": 3, \"num_return_sequences\": 2}"];
    let texts = texts.map(c);
    let [caption, short, prompt, beams] = texts.each_ref().map(|text| text.as_ptr());
    let shown = || Question { pictures: &raw const picture, picture_count: 1, ..nothing_asked() };
    let reply = ask(&Question { task: caption, ..shown() }).expect("a caption");
    assert!(reply["text"].as_str().is_some_and(|text| text.contains("blue cross")), "{reply}");
    let reply = ask(&Question { task: short, prompt, params: beams, ..shown() }).expect("an answer");
    assert_eq!(reply["sequences"].as_array().map(Vec::len), Some(2));
    assert!(reply["sequences"][1]["score"].is_number() && reply["text"] == "2", "{reply}");
    let choices = ["1", "2", "red"].map(c);
    let pointers = choices.each_ref().map(|choice| choice.as_ptr());
    let scores = score(&Question { prompt, choices: pointers.as_ptr(), choice_count: 3, ..shown() }).expect("scores");
    let mean = |i: usize| scores[i]["mean_log_probability"].as_f64().expect("a number");
    assert!(scores[1]["choice"] == "2" && mean(1) > mean(0) && mean(1) > mean(2), "{scores}");
}

/// The numbers of a result, freed.
fn taken(mut floats: Floats) -> (Vec<f32>, [usize; 4]) {
    // SAFETY: a call gave so many numbers.
    let values = unsafe { std::slice::from_raw_parts(floats.values, floats.count) }.to_vec();
    let shape = floats.shape;
    // SAFETY: a call gave them, and they are freed twice to see that this is allowed.
    unsafe {
        instructblip_floats_free(&raw mut floats);
        instructblip_floats_free(&raw mut floats);
    }
    assert!(floats.values.is_null());
    assert_eq!(shape.iter().product::<usize>(), values.len());
    (values, shape)
}

#[test]
fn features_and_attention_are_the_librarys() {
    let Ok(device) = Device::open(&DeviceOptions::default()) else { panic!("tests need an adapter") };
    let mut alone = InstructBlip::embedded(&device).expect("a model");
    let (image, text) = (Image::open(sample("10.png")).expect("a picture"), "Where is the cross?");
    let features = alone.features(&image, text, &[]).expect("features");
    let maps = alone.attention_maps(&image, text).expect("maps");
    let bytes = std::fs::read(sample("10.png")).expect("a picture");
    let (picture, prompt) = (file(&bytes), c(text));
    let question =
        Question { pictures: &raw const picture, picture_count: 1, prompt: prompt.as_ptr(), ..nothing_asked() };
    let [mut pooled, mut queries, mut projected, mut weights] = [const { Floats::NONE }; 4];
    // SAFETY: all pointers are valid or NULL.
    unsafe {
        let (pooled, queries, projected) = (&raw mut pooled, &raw mut queries, &raw mut projected);
        assert_eq!(instructblip_embed(model(), &raw const question, pooled, queries, projected), Status::Ok);
        assert_eq!(instructblip_attention(model(), &raw const question, &raw mut weights), Status::Ok);
        assert_eq!(instructblip_embed(model(), &raw const question, null_mut(), null_mut(), null_mut()), Status::Ok);
    }
    for (found, tensor) in [(pooled, features.image), (queries, features.queries), (projected, features.projected)] {
        let (values, shape) = taken(found);
        let right: Vec<f32> = tensor.rows().flatten().copied().collect();
        assert_eq!(shape[4 - tensor.shape.len()..], tensor.shape);
        assert!(values == right, "other numbers than the library's");
    }
    let (values, shape) = taken(weights);
    let keys = 1 + maps.patches * maps.patches;
    assert_eq!(shape, [maps.layers.len(), maps.heads, maps.queries, keys]);
    assert!(values == maps.weights.concat(), "other numbers than the library's");
    for row in values.chunks(keys) {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-4);
    }
}

#[test]
fn adapters_are_told_and_the_chosen_one_opens() {
    // SAFETY: all pointers are valid or NULL.
    let adapters = json(|list| unsafe { instructblip_adapters(null(), list) }).expect("a list");
    let chosen = |list: &Value| {
        let mut all = list.as_array().expect("a list").iter();
        all.find(|adapter| adapter["chosen"] == true)
            .map(|adapter| adapter["name"].as_str().expect("a name").to_string())
    };
    let name = chosen(&adapters).expect("tests need an adapter");
    let adapter = c(&name.to_uppercase());
    let opened = open(&Load { adapter: adapter.as_ptr(), ..embedded() }).expect("a model");
    // SAFETY: nobody else has it.
    unsafe { instructblip_close(opened) };
    let nobody = c("no such GPU");
    // SAFETY: all pointers are valid or NULL.
    let adapters = json(|list| unsafe { instructblip_adapters(nobody.as_ptr(), list) }).expect("a list");
    assert_eq!(chosen(&adapters), None);
}

/// A model of files in memory answers as the one of the folder, in other formats, too.
#[test]
fn files_in_memory_are_a_model() {
    let Checkpoint::Embedded { files, .. } = &instructblip::embedded::SHAPES else { panic!("it is in the program") };
    let read: Vec<_> = files.iter().map(|(name, bytes)| (c(name), bytes.to_vec())).collect();
    let file_of = |(name, bytes): &(std::ffi::CString, Vec<u8>)| File {
        name: name.as_ptr(),
        data: bytes.as_ptr(),
        length: bytes.len(),
    };
    let files: Vec<File> = read.iter().map(file_of).collect();
    let options = c("{\"weights\": \"q8\", \"slots\": 1, \"new_tokens\": 32, \"kernel_cache\": \"\"}");
    let load = Load { files: files.as_ptr(), file_count: files.len(), options: options.as_ptr(), ..embedded() };
    let opened = open(&load).expect("a model");
    drop((files, read));
    let bytes = std::fs::read(sample("10.png")).expect("a picture");
    let (picture, prompt, params) = (file(&bytes), c("Can you count the things?"), c("{\"max_new_tokens\": 30}"));
    let (prompt, params) = (prompt.as_ptr(), params.as_ptr());
    let question = Question { pictures: &raw const picture, picture_count: 1, prompt, params, ..nothing_asked() };
    // SAFETY: all pointers are valid.
    let ask = |reply: *mut *mut c_char| unsafe { instructblip_ask(opened, &raw const question, reply) };
    let reply = json(ask).expect("an answer");
    assert_eq!((&reply["text"], &reply["model"]), (&"2".into(), &"the model in memory".into()));
    // SAFETY: nobody else has it.
    unsafe { instructblip_close(opened) };
}

/// Every call fits on a stack of 256 KiB, as the header says: kernels are compiled on other threads.
#[test]
fn calls_take_little_stack() {
    let all = || {
        let options = c("{\"kernel_cache\": \"\"}");
        let opened = open(&Load { options: options.as_ptr(), ..embedded() }).expect("a model");
        let bytes = std::fs::read(sample("10.png")).expect("a picture");
        let (picture, prompt) = (file(&bytes), c("Can you count the things?"));
        let prompt = prompt.as_ptr();
        let question = Question { pictures: &raw const picture, picture_count: 1, prompt, ..nothing_asked() };
        let mut features = Floats::NONE;
        // SAFETY: all pointers are valid or NULL; nobody else has the model.
        unsafe {
            json(|reply| instructblip_ask(opened, &raw const question, reply)).expect("an answer");
            json(|list| instructblip_adapters(null(), list)).expect("a list");
            let image = &raw mut features;
            assert_eq!(instructblip_embed(opened, &raw const question, image, null_mut(), null_mut()), Status::Ok);
            instructblip_floats_free(image);
            instructblip_close(opened);
        }
    };
    let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(all).expect("a thread");
    thread.join().expect("no panic");
}
