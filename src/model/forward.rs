//! One pass over a question: every stage's tensors, logits, loss, features and attention.

use super::encode::{Encoded, Pixels, Stages};
use super::look::{Look, Looked, Tapped};
use super::{InstructBlip, NamedTensor, Question};
use crate::error::{Error, Result};
use crate::generate;
use crate::generate::Room;
use crate::generate::processors::log_softmax;
use crate::generate::session::{Placed, Request};
use crate::processor::{Image, Prompt};
use crate::runtime::Tensor;

/// A label that does not count for the loss.
pub const IGNORED_LABEL: i64 = -100;

/// The outputs that a forward pass is asked for besides its stages, and its labels.
#[derive(Clone, Debug, Default)]
pub struct ForwardOptions {
    /// Labels of further outputs to bring back; of a video's frames, those of the last in vision tower and Q-Former.
    pub taps: Vec<String>,
    /// Ids that T5's decoder reads; if there are none, the labels moved by one, or its start token.
    pub decoder_input_ids: Vec<u32>,
    /// Wanted tokens, [`IGNORED_LABEL`] where there is none: one for each of the prompt's tokens, image places
    /// included, or, for T5, one for each of the decoder's.
    pub labels: Vec<i64>,
}

/// The features of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// The class token's row after the vision tower, `[1, D]`.
    pub image: NamedTensor,
    /// The query rows of the Q-Former, `[1, Q, D]`.
    pub queries: NamedTensor,
    /// The query rows in the language model's width, `[1, Q, H]`.
    pub projected: NamedTensor,
    /// The outputs asked for by label.
    pub taps: Vec<NamedTensor>,
}

impl InstructBlip {
    /// Runs the whole model once over a question and brings back what each stage gave, under the reference's names:
    /// inputs, vision, Q-Former, projection, encoder, logits, the loss where there are labels, and tapped labels.
    ///
    /// # Errors
    /// As [`InstructBlip::answer`]; [`Error::Request`] for a tap that no op has, and labels that do not fit.
    pub fn forward(&mut self, question: &Question<'_>, options: &ForwardOptions) -> Result<Vec<NamedTensor>> {
        let prompt = self.prompt(question)?;
        let rows = prompt.input_ids.len();
        generate::check_fits(rows, self.config.text.max_positions())?;
        let decoder_ids = self.decoder_ids(options, rows)?;
        generate::check_fits(decoder_ids.len(), self.config.text.max_positions())?;
        let taps = options.taps.as_slice();
        let (encoded, kept, mut tapped) = self.encode_and_keep(question.images, prompt, taps)?;
        let more = (decoder_ids.len() as u32).max(1);
        self.bring_language(&[Room::of(&self.shapes.language, rows as u32, 1, more)])?;
        let (language, slots) = self.language_stage();
        let placed = Placed::first(language, rows as u32, &decoder_ids);
        let logit_rows = if decoder_ids.is_empty() { rows as u32 } else { decoder_ids.len() as u32 };
        let request = Request { rows: logit_rows, decoder_ids: &decoder_ids, taps };
        let pass = slots.session().prefill(language, &encoded.inputs(), &placed, request)?;
        pass.submit()?;
        tapped.extend(pass.plan.taps().to_vec());
        check_taps(taps, &tapped)?;
        let mut out = self.stages(&encoded, kept, question.images.len())?;
        if let Some(encoder) = &pass.encoded {
            out.push(self.bring_back("encoder_last_hidden_state", encoder)?);
        }
        let logits = self.bring_back("logits", &pass.logits)?;
        if !options.labels.is_empty() {
            let loss = self.loss(&logits, &options.labels);
            out.push(NamedTensor::f32("loss", &[1], vec![loss]));
        }
        out.push(logits);
        for (name, tensor) in &tapped {
            out.push(self.bring_back(name, tensor)?);
        }
        Ok(out)
    }

    /// The tensors of everything before the language model.
    fn stages(&self, encoded: &Encoded, kept: Stages, frames: usize) -> Result<Vec<NamedTensor>> {
        let side = self.config.vision.image_size as usize;
        let mut out = vec![NamedTensor::f32("pixel_values", &[frames, 3, side, side], kept.pixels)];
        out.extend(encoded.prompt.named());
        let each = |name: &str, tensor: &Tensor| -> Result<NamedTensor> {
            let shape = vec![frames, tensor.rows() as usize / frames, tensor.cols() as usize];
            Ok(NamedTensor { shape, ..self.bring_back(name, tensor)? })
        };
        let pooled = each("vision_pooler_output", &kept.pooled)?;
        out.push(NamedTensor { shape: vec![frames, self.config.vision.hidden_size as usize], ..pooled });
        out.push(each("vision_last_hidden_state", &kept.vision)?);
        out.push(each("qformer_last_hidden_state", &kept.qformer)?);
        out.push(self.features_of("language_model_inputs", encoded.features.clone()));
        Ok(out)
    }

    /// Image features `[1, rows, H]`.
    fn features_of(&self, name: &str, values: Vec<f32>) -> NamedTensor {
        let width = self.config.text.hidden_size() as usize;
        NamedTensor::f32(name, &[1, values.len() / width, width], values)
    }

    /// The ids that T5's decoder reads, after the labels were checked: its ids, or the labels shifted by one.
    fn decoder_ids(&self, options: &ForwardOptions, prompt: usize) -> Result<Vec<u32>> {
        let refuse = |problem: String| Err(Error::request(problem));
        let (labels, rows) = (&options.labels, self.shapes.language.vocab_rows());
        let heads = i64::from(self.shapes.language.head_rows());
        if let Some(label) = labels.iter().find(|&&l| l != IGNORED_LABEL && !(0..heads).contains(&l)) {
            return refuse(format!("label {label} is no token: they are from 0 to {}", heads - 1));
        }
        let Some(start) = self.shapes.language.decoder_start() else {
            if !options.decoder_input_ids.is_empty() {
                return refuse("this model has no decoder of its own to give ids to; they are for T5".into());
            }
            if !labels.is_empty() && labels.len() != prompt {
                let have = labels.len();
                return refuse(format!(
                    "{have} labels were given for {prompt} tokens, image places included; give {IGNORED_LABEL} where \
                     there is none"
                ));
            }
            return Ok(Vec::new());
        };
        let ids = match (options.decoder_input_ids.as_slice(), labels.as_slice()) {
            ([], []) => vec![start],
            ([], labels) => {
                let pad = self.config.text.generation().pad_token_id.unwrap_or(0);
                let before = labels[..labels.len() - 1].iter().map(|&l| u32::try_from(l).unwrap_or(pad));
                std::iter::once(start).chain(before).collect()
            }
            (ids, _) => ids.to_vec(),
        };
        if let Some(id) = ids.iter().find(|&&id| id >= rows) {
            return refuse(format!("decoder input id {id} is no token: they are from 0 to {}", rows - 1));
        }
        if !labels.is_empty() && labels.len() != ids.len() {
            return refuse(format!("{} labels were given for {} decoder input ids", labels.len(), ids.len()));
        }
        Ok(ids)
    }

    /// Mean cross-entropy of the counted labels. Decoder-only models predict a label from the row before it; T5's rows
    /// are shifted already. NaN, as in the reference, when no label counts.
    fn loss(&self, logits: &NamedTensor, labels: &[i64]) -> f32 {
        let skipped = usize::from(!self.shapes.language.is_encoder_decoder());
        let wanted = labels.iter().skip(skipped);
        let rows = logits.rows();
        let counted = rows.zip(wanted).filter(|(_, label)| **label != IGNORED_LABEL);
        let losses: Vec<f64> = counted.map(|(row, &label)| -f64::from(log_softmax(row)[label as usize])).collect();
        (losses.iter().sum::<f64>() / losses.len() as f64) as f32
    }

    /// The features of a picture, read with `prompt`, and the outputs of the vision tower's and the Q-Former's ops
    /// labelled `taps`.
    ///
    /// # Errors
    /// As [`InstructBlip::answer`]; [`Error::Request`] for a label that neither has.
    pub fn features(&mut self, image: &Image, prompt: &str, taps: &[String]) -> Result<Features> {
        let question = Question::new(image, prompt);
        let question = (self.pixels(question.images), self.prompt(&question)?);
        self.features_all(&[question], taps)?.swap_remove(0)
    }

    /// The features of several pictures, each read with its prompt. A picture may have an error of its own.
    ///
    /// # Errors
    /// A failure of the device.
    pub(super) fn features_all(
        &mut self,
        questions: &[(Pixels, Prompt)],
        taps: &[String],
    ) -> Result<Vec<Result<Features>>> {
        self.bring_vision()?;
        let device = self.device.clone();
        let mut all = Vec::new();
        let mut rest = questions;
        while !rest.is_empty() {
            let stage = self.vision.as_mut().expect("brought above");
            // Outputs by label are those of a pass over one picture.
            let at_once = if taps.is_empty() { stage.at_once() } else { 1 };
            let (pass, others) = rest.split_at(at_once.min(rest.len()));
            let looks: Vec<Look<'_>> =
                pass.iter().map(|(pixels, prompt)| Look { pixels: pixels.first(), prompt }).collect();
            let looked = stage.look(&looks, taps)?;
            let mut tapped = looked.taps.clone();
            // What the Q-Former has not is the vision tower's, which runs once more for it.
            let is_tapped = |tap: &&String| tapped.iter().any(|(label, _)| label == *tap);
            let missing: Vec<String> = taps.iter().filter(|tap| !is_tapped(tap)).cloned().collect();
            tapped.extend(stage.tap(pass[0].0.first(), &missing)?);
            for (i, projected) in looked.features(&device)?.into_iter().enumerate() {
                all.push(match projected.and_then(|projected| check_taps(taps, &tapped).map(|()| projected)) {
                    Ok(projected) => Ok(self.named_features(&looked, i, projected, &tapped)?),
                    Err(e) => Err(e),
                });
            }
            rest = others;
        }
        Ok(all)
    }

    fn named_features(&self, looked: &Looked, i: usize, projected: Vec<f32>, tapped: &Tapped) -> Result<Features> {
        let image = self.bring_back("image_features", &looked.image(i).slice_rows(0, 1))?;
        Ok(Features {
            image: NamedTensor { shape: vec![1, self.config.vision.hidden_size as usize], ..image },
            queries: self.bring_back("query_features", &looked.queries(i))?,
            projected: self.features_of("projected_features", projected),
            taps: tapped.iter().map(|(name, tensor)| self.bring_back(name, tensor)).collect::<Result<_>>()?,
        })
    }
}

fn check_taps(wanted: &[String], tapped: &[(String, Tensor)]) -> Result<()> {
    match wanted.iter().find(|tap| !tapped.iter().any(|(label, _)| label == *tap)) {
        Some(unknown) => {
            Err(Error::request(format!("nothing here is labelled {unknown:?}; labels are weight names and ops")))
        }
        None => Ok(()),
    }
}
