//! Maps of what the Q-Former's queries look at in a picture.

use super::{Features, InstructBlip, NamedTensor, Values};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::processor::Image;

/// The weights of the Q-Former's cross-attention: where in a picture its queries look.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionMaps {
    /// The layers that look at the image.
    pub layers: Vec<usize>,
    /// H.
    pub heads: usize,
    /// Q.
    pub queries: usize,
    /// Patches across the image; row 0 of the keys is the class token.
    pub patches: usize,
    /// Per layer: `[H, Q, 1 + patches²]`, each row adding up to 1.
    pub weights: Vec<Vec<f32>>,
}

/// The layers that look at the picture.
fn looking_layers(config: &Config) -> impl Iterator<Item = usize> {
    let qformer = &config.qformer;
    (0..qformer.num_hidden_layers as usize).step_by(qformer.cross_attention_frequency as usize)
}

fn tap(layer: usize) -> String {
    format!("qformer.encoder.layer.{layer}.cross_attention.weights")
}

impl AttentionMaps {
    /// The layers of a model's Q-Former that look at the picture.
    pub fn layers(config: &Config) -> Vec<usize> {
        looking_layers(config).collect()
    }

    /// The labels of the outputs that a model's maps are made of: what a [`Request`](crate::engine::Request) for features
    /// asks an engine for.
    pub fn taps(config: &Config) -> Vec<String> {
        looking_layers(config).map(tap).collect()
    }

    /// The maps in a picture's features that were made with the outputs of [`AttentionMaps::taps`], by a model of this
    /// configuration.
    ///
    /// # Errors
    /// [`Error::Request`] for features that lack one of these outputs, or have it in another shape.
    pub fn of(config: &Config, features: &Features) -> Result<AttentionMaps> {
        let (heads, queries) = (config.qformer.num_attention_heads as usize, config.num_query_tokens as usize);
        let patches = (config.vision.image_size / config.vision.patch_size) as usize;
        let layers = AttentionMaps::layers(config);
        let weights = |&layer: &usize| {
            let label = tap(layer);
            match features.taps.iter().find(|tensor| tensor.name == label) {
                Some(NamedTensor { shape, values: Values::F32(values), .. })
                    if shape.ends_with(&[heads * queries, patches * patches + 1]) =>
                {
                    Ok(values.clone())
                }
                Some(NamedTensor { shape, .. }) => Err(Error::request(format!(
                    "{label} has the shape {shape:?}, not {heads} heads of {queries} queries over {patches} x {patches} \
                     patches and the picture: the features are another model's"
                ))),
                None => Err(Error::request(format!(
                    "the features have no {label:?}; ask for them with the labels that AttentionMaps::taps gives"
                ))),
            }
        };
        let weights = layers.iter().map(weights).collect::<Result<_>>()?;
        Ok(AttentionMaps { layers, heads, queries, patches, weights })
    }

    /// The share of attention on each patch, `patches²` row by row, averaged over `layers`, heads and queries (all of
    /// them for `None`) and without the class token's.
    pub fn mean(&self, layer: Option<usize>, head: Option<usize>, query: Option<usize>) -> Vec<f32> {
        let keys = self.patches * self.patches + 1;
        let mut sum = vec![0.0; keys - 1];
        for (_, weights) in self.layers.iter().zip(&self.weights).filter(|(l, _)| layer.is_none_or(|want| **l == want))
        {
            for (row, keys) in weights.chunks(keys).enumerate() {
                let (h, q) = (row / self.queries, row % self.queries);
                if head.is_none_or(|want| want == h) && query.is_none_or(|want| want == q) {
                    sum.iter_mut().zip(&keys[1..]).for_each(|(sum, weight)| *sum += weight);
                }
            }
        }
        let total: f32 = sum.iter().sum();
        sum.iter_mut().for_each(|value| *value /= total.max(f32::MIN_POSITIVE));
        sum
    }
}

impl InstructBlip {
    /// The attention of the Q-Former's queries to a picture, read with `prompt`.
    ///
    /// # Errors
    /// As [`InstructBlip::answer`].
    pub fn attention_maps(&mut self, image: &Image, prompt: &str) -> Result<AttentionMaps> {
        let features = self.features(image, prompt, &AttentionMaps::taps(&self.config))?;
        AttentionMaps::of(&self.config, &features)
    }
}
