//! Values of the model's stages: `embed`, `forward` and the drawn attention.

use super::{stdout, tensor};
use crate::support;
use crate::support::golden::{Golden, checkpoint_folder, golden_image};
use crate::support::program::{program, refused, sample, text};

#[test]
fn embed_writes_what_forward_writes() {
    if support::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (forward, embed) = (folder.path().join("forward"), folder.path().join("embed"));
    let (one, two, question) = (sample("02.png"), sample("10.png"), "Which shape is red?");
    stdout(&["forward", &two, question, "-o", &forward.display().to_string()]);
    let weights = "qformer.encoder.layer.0.cross_attention.weights";
    let taps = ["--taps", weights, "-o", &embed.display().to_string()];
    stdout(&[&["embed", &one, &two, "--prompt", question][..], &taps].concat());
    assert_eq!(tensor(&embed, weights).0, [2, 5 * 16, 145]);
    refused(&["embed", &one, "--taps", "language_model.model.norm", "-o", taps[3]], 3, &["language_model.model.norm"]);
    for (name, stage, row) in [
        ("image_features", "vision_last_hidden_state", 192),
        ("query_features", "qformer_last_hidden_state", 16 * 160),
        ("projected_features", "language_model_inputs", 16 * 192),
    ] {
        let (shape, values) = tensor(&embed, name);
        assert_eq!((shape[0], values.len()), (2, 2 * row), "{name}");
        // Of the vision tower's rows the first is the class token's, of the Q-Former's the first sixteen are queries.
        assert_eq!(values[row..], tensor(&forward, stage).1[..row], "{name}");
    }
}

#[test]
fn forward_gives_the_recorded_loss() {
    if support::device().is_none() {
        return;
    }
    let out = tempfile::tempdir().expect("a folder");
    for name in ["ib-t5-erf", "ib-llama"] {
        let folder = checkpoint_folder(name);
        let golden = Golden::of(name);
        let image = golden_image(golden.about("0.image"));
        let list = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        let target = out.path().join(name);
        let mut command = program();
        command.arg("forward").arg(&image).arg(golden.about("0.prompt")).arg("--model").arg(&folder);
        command.arg("--labels").arg(list(&golden.tensor("0.labels").1)).arg("-o").arg(&target);
        if let Some((_, ids)) = golden.find("0.decoder_input_ids") {
            command.arg("--decoder-input-ids").arg(list(ids));
        }
        let output = command.output().expect("the program runs");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let (got, want) = (f64::from(tensor(&target, "loss").1[0]), golden.tensor("0.loss").1[0]);
        assert!((got - want).abs() <= 1e-4 * want, "{name}: {got} for {want}");
        assert!(text(&output.stderr).contains("loss "));
    }
    let target = out.path().join("none").display().to_string();
    refused(&["forward", &sample("00.png"), "a", "--labels", "1,2", "-o", &target], 3, &["labels"]);
    refused(&["forward", &sample("00.png"), "a", "--decoder-input-ids", "1", "-o", &target], 3, &["decoder"]);
}

#[test]
fn attention_is_drawn_and_written() {
    if support::device().is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("new");
    let arguments = ["ask", &sample("11.png"), "Which is the smallest shape?", "--attention"];
    assert_eq!(stdout(&[&arguments[..], &[&target.display().to_string()]].concat()), "green star\n");
    for name in ["mean", "layer-00", "layer-02", "head-04", "query-15", "sheet"] {
        let picture = instructblip::Image::open(target.join(format!("{name}.png"))).expect("a picture");
        assert!(name == "sheet" || (picture.width(), picture.height()) == (96, 96), "{name}");
    }
    let (shape, weights) = tensor(&target.join("weights.safetensors"), "qformer.encoder.layer.2.crossattention");
    assert_eq!(shape, [5, 16, 145]);
    weights.chunks(145).for_each(|row| assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-4, "weights sum to one"));
}
