//! `ask --attention DIR`: shows what the Q-Former's queries look at, as pictures and as numbers.
//!
//! Each picture shows the cross-attention weights averaged over what its name does not say (heads, queries, layers),
//! without the class token's, the largest at full strength, stretched over the whole picture as the model saw it: its own
//! colours are where the model looks, the rest is faded.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;
use instructblip::model::{AttentionMaps, NamedTensor, Values};
use instructblip::processor::SheetKind;
use instructblip::{Image, InstructBlip};

use crate::common::Common;
use crate::files::{write_bytes, write_tensors};
use crate::progress::say;

/// Pictures in a row of the sheet.
const COLUMNS: usize = 8;

/// Writes `mean.png`, one picture per layer and per head and query of the last layer, `sheet.png` with all of them in
/// this order, a kind in a row, and `weights.safetensors`.
pub fn write_attention(
    common: &Common,
    model: &mut InstructBlip,
    image: &Image,
    prompt: &str,
    folder: &Path,
) -> Result<()> {
    let maps = model.attention_maps(image, prompt)?;
    std::fs::create_dir_all(folder).map_err(|source| instructblip::Error::Io { path: folder.into(), source })?;
    let blind = blind_layers(&maps.layers, model.config().qformer.num_hidden_layers as usize);
    let mut sheet: Vec<SheetKind> = Vec::new();
    let mut count = 0;
    for (title, views) in views(&maps, blind.as_deref()) {
        let mut pictures = Vec::new();
        if sheet.is_empty() {
            pictures.push(("picture".into(), image.thumbnail()));
        }
        for (name, map) in views {
            let picture = image.overlaid(&map, maps.patches)?;
            write_bytes(&folder.join(format!("{name}.png")), &picture.to_png()?)?;
            pictures.push((name.replace('-', " "), picture));
            count += 1;
        }
        sheet.push(SheetKind { title, pictures });
    }
    write_bytes(&folder.join("sheet.png"), &Image::sheet(&sheet, COLUMNS)?.to_png()?)?;
    let tensors: Vec<NamedTensor> = maps.layers.iter().zip(&maps.weights).map(|(i, w)| tensor(&maps, *i, w)).collect();
    let about = HashMap::from([("prompt".to_string(), prompt.to_string())]);
    write_tensors(&folder.join("weights.safetensors"), &tensors, about)?;
    if !common.quiet {
        let folder = folder.display();
        say(&format!(
            "attention: {count} pictures in {folder}, all of them on sheet.png (mean, layers, heads, queries), and \
             weights.safetensors"
        ));
        blind.iter().for_each(|blind| say(blind));
    }
    Ok(())
}

/// Names the layers of which there is nothing to draw, and says why.
fn blind_layers(looking: &[usize], layers: usize) -> Option<String> {
    let blind: Vec<String> = (0..layers).filter(|i| !looking.contains(i)).map(|i| i.to_string()).collect();
    match blind.as_slice() {
        [] => None,
        [only] => Some(format!("layer {only} has no cross-attention: it does not look at the picture")),
        [first @ .., last] => {
            let first = first.join(", ");
            Some(format!("layers {first} and {last} have no cross-attention: they do not look at the picture"))
        }
    }
}

/// Maps by file name.
type Views = Vec<(String, Vec<f32>)>;

/// The maps that are drawn, by kind.
fn views(maps: &AttentionMaps, blind: Option<&str>) -> Vec<(String, Views)> {
    let last = maps.layers.last().copied();
    let layer = |i: usize| (format!("layer-{i:02}"), maps.mean(Some(i), None, None));
    let head = |h: usize| (format!("head-{h:02}"), maps.mean(last, Some(h), None));
    let query = |q: usize| (format!("query-{q:02}"), maps.mean(last, None, Some(q)));
    let of_last = last.map_or(String::new(), |last| format!(", in layer {last}"));
    let blind = blind.map_or(String::new(), |blind| format!(" ({blind})"));
    vec![
        ("the picture, and all layers, heads and queries".into(), vec![("mean".into(), maps.mean(None, None, None))]),
        (format!("by layer{blind}"), maps.layers.iter().map(|&i| layer(i)).collect()),
        (format!("by head{of_last}"), (0..maps.heads).map(head).collect()),
        (format!("by query{of_last}"), (0..maps.queries).map(query).collect()),
    ]
}

fn tensor(maps: &AttentionMaps, layer: usize, weights: &[f32]) -> NamedTensor {
    NamedTensor {
        name: format!("qformer.encoder.layer.{layer}.crossattention"),
        shape: vec![maps.heads, maps.queries, maps.patches * maps.patches + 1],
        values: Values::F32(weights.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_that_do_not_look_are_told() {
        assert_eq!(blind_layers(&[0, 1], 2), None);
        assert!(blind_layers(&[0], 2).is_some_and(|text| text.starts_with("layer 1 has no")));
        assert!(blind_layers(&[0, 2, 4], 6).is_some_and(|text| text.starts_with("layers 1, 3 and 5 have no")));
    }
}
