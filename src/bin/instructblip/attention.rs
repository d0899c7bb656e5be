//! `ask --attention DIR`: what the Q-Former's queries look at, as pictures and as numbers.
//!
//! Each picture shows the cross-attention weights averaged over what its name does not say (heads, queries, layers),
//! without the class token's, the largest at full strength, stretched over the whole picture as the model saw it.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;
use instructblip::model::{AttentionMaps, NamedTensor, Values};
use instructblip::{Image, InstructBlip};

use crate::args::Common;
use crate::files::{write_bytes, write_tensors};
use crate::progress::say;

/// Writes `mean.png`, one picture per layer and per head and query of the last layer, `sheet.png` with all of them in
/// this order, and `weights.safetensors`.
pub fn write_attention(
    common: &Common,
    model: &mut InstructBlip,
    image: &Image,
    prompt: &str,
    folder: &Path,
) -> Result<()> {
    let maps = model.attention_maps(image, prompt)?;
    std::fs::create_dir_all(folder).map_err(|source| instructblip::Error::Io { path: folder.into(), source })?;
    let mut sheet = Vec::new();
    for (name, map) in views(&maps) {
        let picture = image.overlaid(&map, maps.patches)?;
        write_bytes(&folder.join(format!("{name}.png")), &picture.to_png()?)?;
        sheet.push(picture);
    }
    write_bytes(&folder.join("sheet.png"), &Image::sheet(&sheet, 8)?.to_png()?)?;
    let tensors: Vec<NamedTensor> = maps.layers.iter().zip(&maps.weights).map(|(i, w)| tensor(&maps, *i, w)).collect();
    let about = HashMap::from([("prompt".to_string(), prompt.to_string())]);
    write_tensors(&folder.join("weights.safetensors"), &tensors, about)?;
    if !common.quiet {
        let (count, folder) = (sheet.len(), folder.display());
        say(&format!(
            "attention: {count} pictures in {folder}, all of them on sheet.png (mean, layers, heads, queries), and \
             weights.safetensors"
        ));
    }
    Ok(())
}

/// The maps that are drawn, by file name.
fn views(maps: &AttentionMaps) -> Vec<(String, Vec<f32>)> {
    let last = maps.layers.last().copied();
    let mut views = vec![("mean".to_string(), maps.mean(None, None, None))];
    views.extend(maps.layers.iter().map(|&i| (format!("layer-{i:02}"), maps.mean(Some(i), None, None))));
    views.extend((0..maps.heads).map(|h| (format!("head-{h:02}"), maps.mean(last, Some(h), None))));
    views.extend((0..maps.queries).map(|q| (format!("query-{q:02}"), maps.mean(last, None, Some(q)))));
    views
}

fn tensor(maps: &AttentionMaps, layer: usize, weights: &[f32]) -> NamedTensor {
    NamedTensor {
        name: format!("qformer.encoder.layer.{layer}.crossattention"),
        shape: vec![maps.heads, maps.queries, maps.patches * maps.patches + 1],
        values: Values::F32(weights.to_vec()),
    }
}
