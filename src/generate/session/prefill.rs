//! Prompts into the cache: what they are, how they are recorded, and the plans made of them.

use super::pages::Placed;
use super::tables::{Allocator, Tables};
use crate::error::Result;
use crate::language::{Cached, Caches, Language, LogitRows};
use crate::runtime::ops::attention::{Mask, Rows, Segment, Segments, Span};
use crate::runtime::plan::{Plan, Step};
use crate::runtime::recorder::Recorder;
use crate::runtime::{Device, Tensor};

/// A prompt: token ids, and the image features that take the places of its first ones.
#[derive(Clone, Copy, Debug)]
pub struct PromptInputs<'a> {
    /// The ids, T.
    pub ids: &'a [u32],
    /// `[Q, D]`, row by row.
    pub features: &'a [f32],
}

/// Prompts on the device, one after the other.
pub struct PromptTensors<'a> {
    /// `[1, T]` of u32.
    pub ids: &'a Tensor,
    /// `[Q, D]`.
    pub features: &'a Tensor,
    /// `[1, Q]` of u32: the positions that the features take.
    pub placeholders: &'a Tensor,
    /// The rows of each, if there are several.
    pub mask: Mask<'a>,
}

/// The outputs that are wanted of the pass over a prompt.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// The number of last rows whose logits are wanted.
    pub rows: u32,
    /// Ids that the decoder of T5 reads; its start token if there are none.
    pub decoder_ids: &'a [u32],
    /// Labels of outputs to keep.
    pub taps: &'a [String],
}

impl Request<'_> {
    /// A request for the logits of the last row.
    pub fn last_row() -> Self {
        Request { rows: 1, ..Request::default() }
    }
}

/// The caches and ids that a prompt of an encoder and decoder needs besides.
#[derive(Clone, Copy)]
pub struct Crossing<'a> {
    /// The encoder's keys and values as the decoder's rows read them.
    pub read: Cached<'a>,
    /// The encoder's keys and values as they are stored.
    pub store: Cached<'a>,
    /// `[1, T]`: what the decoder reads first.
    pub decoder_ids: &'a Tensor,
}

/// Prompts of up to so many more tokens run in the same form of each kernel. A form suits a number of rows, and must not
/// depend on the prompts that are with one in a pass.
const FORM_STEP: u32 = 64;

/// The number of rows that kernels are chosen by for a prompt of `tokens` tokens. Prompts with the same one can be in a pass.
pub fn form_rows(tokens: u32) -> u32 {
    tokens.next_multiple_of(FORM_STEP)
}

/// Records prompts: embeddings, image features in their places, the encoder if there is one, all blocks, the logits of the
/// `wanted` rows; also gives the encoder's output. Kernels are chosen as for one prompt of `tokens` tokens.
pub fn record_prefill(
    r: &mut Recorder,
    language: &Language,
    (own, crossing): (Cached<'_>, Option<Crossing<'_>>),
    prompts: &PromptTensors<'_>,
    tokens: u32,
    wanted: LogitRows<'_>,
) -> (Tensor, Option<Tensor>) {
    let rows = form_rows(tokens);
    let mut x = language.embed(r, prompts.ids); // [T, D]
    r.put_rows(&mut x, prompts.features, prompts.placeholders);
    let Some(crossing) = crossing else {
        let caches = Caches { own, cross: None };
        return (r.as_for_rows(rows, |r| language.record(r, caches, x, wanted)), None);
    };
    let encoded = r.as_for_rows(rows, |r| language.record_encoder(r, x, prompts.mask, crossing.store)); // [S, D]
    let x = language.embed(r, crossing.decoder_ids); // [T, D]
    let (caches, count) = (Caches { own, cross: Some(crossing.read) }, x.rows() / wanted.ends.len() as u32);
    (r.as_for_rows(count, |r| language.record(r, caches, x, wanted)), Some(encoded))
}

/// A recorded pass over a prompt, or over tokens that follow one; not yet a plan.
pub struct Recorded {
    /// The recording.
    pub recorder: Recorder,
    logits: Tensor,
    encoded: Option<Tensor>,
    step: Step,
}

impl Recorded {
    /// The recording made a plan.
    ///
    /// # Errors
    /// As [`Recorder::finish`].
    pub fn finish(self, device: &Device) -> Result<Prefill> {
        let plan = self.recorder.finish(device)?;
        let (logits, encoded) = (plan.output(&self.logits), self.encoded.map(|encoded| plan.output(&encoded)));
        Ok(Prefill { plan, logits, encoded, step: self.step })
    }
}

/// A plan over a prompt, or over tokens that follow one, and the logits it gives.
pub struct Prefill {
    /// The plan, not yet submitted.
    pub plan: Plan,
    /// `[rows, V]`.
    pub logits: Tensor,
    /// The encoder's output `[S, D]`.
    pub encoded: Option<Tensor>,
    step: Step,
}

impl Prefill {
    /// Starts the pass.
    ///
    /// # Errors
    /// The fault that an earlier submit left on the GPU.
    pub fn submit(&self) -> Result<()> {
        self.plan.write_step(self.step);
        self.plan.submit()
    }
}

/// The tensors of prompts.
struct PromptBuffers {
    ids: Tensor,
    features: Tensor,
    placeholders: Tensor,
}

impl PromptBuffers {
    fn new(
        allocator: &Allocator<'_>,
        language: &Language,
        prompts: &[(PromptInputs<'_>, &Placed)],
    ) -> Result<PromptBuffers> {
        let (mut ids, mut features, mut placeholders) = (Vec::new(), Vec::new(), Vec::new());
        for (inputs, _) in prompts {
            let first = ids.len() as u32;
            let places = inputs.features.len() as u32 / language.width();
            placeholders.extend(first..first + places);
            ids.extend_from_slice(inputs.ids);
            features.extend_from_slice(inputs.features);
        }
        Ok(PromptBuffers {
            ids: allocator.ids(&ids)?,
            features: allocator.features(language.width(), &features)?,
            placeholders: allocator.tensor("placeholders", placeholders.len() as u32, &placeholders)?,
        })
    }

    fn with<'a>(&'a self, mask: Mask<'a>) -> PromptTensors<'a> {
        PromptTensors { ids: &self.ids, features: &self.features, placeholders: &self.placeholders, mask }
    }
}

fn running_sums(lengths: &[u32]) -> Vec<u32> {
    let mut sum = 0;
    lengths.iter().map(|length| (sum += length, sum).1).collect()
}

/// The pages of each of several sequences.
type Pages<'a> = Vec<&'a [u32]>;

fn segments_of(allocator: &Allocator<'_>, segments: &[Segment]) -> Result<Segments> {
    Segments::new(segments, |numbers| allocator.tensor("segments", numbers.len() as u32, numbers))
}

/// The rows of sequences side by side, one for each of their pages.
fn in_order(allocator: &Allocator<'_>, pages: &Pages<'_>) -> Result<Rows> {
    let places = (0..).zip(pages).flat_map(|(i, pages)| (0..pages.len() as u32).flat_map(move |at| [at, i]));
    Ok(Rows {
        places: allocator.tensor("places", 2, &places.collect::<Vec<_>>())?,
        pages: allocator.sequences(pages)?,
        prompts: None,
    })
}

/// The rows of decoders, `count` of each sequence, that read all of the encoder's output on these `pages`.
fn reading(allocator: &Allocator<'_>, pages: &Pages<'_>, count: u32) -> Result<Rows> {
    let places = (0..).zip(pages).flat_map(|(i, pages)| [pages.len() as u32, i].repeat(count as usize));
    Ok(Rows {
        places: allocator.tensor("places", 2, &places.collect::<Vec<_>>())?,
        pages: allocator.sequences(pages)?,
        prompts: None,
    })
}

impl Tables {
    /// Records prompts, of one kind (see [`form_rows`]), whose keys and values go where `placed` says. What is asked for
    /// besides the last row is for one prompt alone.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn record_prompts(
        &self,
        allocator: &Allocator<'_>,
        language: &Language,
        prompts: &[(PromptInputs<'_>, &Placed)],
        request: Request<'_>,
    ) -> Result<Recorded> {
        let mut recorder = allocator.recorder().with_taps(request.taps);
        let decoder_ids = match (language.decoder_start(), request.decoder_ids) {
            (None, _) => None,
            (Some(start), []) => Some(allocator.ids(&vec![start; prompts.len()])?),
            (Some(_), ids) => Some(allocator.ids(ids)?),
        };
        let tokens: Vec<u32> = prompts.iter().map(|(inputs, _)| inputs.ids.len() as u32).collect();
        let lengths: Vec<u32> = match &decoder_ids {
            Some(ids) => vec![ids.len() / prompts.len() as u32; prompts.len()],
            None => tokens.clone(),
        };
        let own: Pages<'_> =
            prompts.iter().zip(&lengths).map(|((_, placed), &length)| &placed.own[..length as usize]).collect();
        let mut rows = in_order(allocator, &own)?;
        // Of an encoder and decoder there is a row for each prompt, as in a step.
        if decoder_ids.is_none() && prompts.len() > 1 {
            let segments = Segment::side_by_side(&lengths)
                .into_iter()
                .zip(0..)
                .map(|(segment, i)| Segment { keys: Span::of(i * rows.pages.cols(), segment.rows.count), ..segment });
            rows.prompts = Some(segments_of(allocator, &segments.collect::<Vec<_>>())?);
        }
        let own = Cached { cache: &self.own.cache, rows: &rows };
        let encoded: Pages<'_> = prompts.iter().map(|(_, placed)| placed.encoded.as_slice()).collect();
        let cross = self.cross.as_ref();
        let cross = cross.map(|table| -> Result<_> {
            Ok((&table.cache, reading(allocator, &encoded, lengths[0])?, in_order(allocator, &encoded)?))
        });
        let cross = cross.transpose()?;
        let crossing = cross.as_ref().zip(decoder_ids.as_ref()).map(|((cache, read, store), decoder_ids)| Crossing {
            read: Cached { cache, rows: read },
            store: Cached { cache, rows: store },
            decoder_ids,
        });
        let buffers = PromptBuffers::new(allocator, language, prompts)?;
        let ends = running_sums(&lengths);
        let wanted = LogitRows { ends: &ends, count: request.rows };
        let longest = tokens.iter().copied().max().unwrap_or(0);
        let each = match cross.is_some() {
            true => Some(segments_of(allocator, &Segment::side_by_side(&tokens))?),
            false => None,
        };
        let inputs = buffers.with(each.as_ref().map_or(Mask::None, Segments::as_mask));
        let (logits, encoded) = record_prefill(&mut recorder, language, (own, crossing), &inputs, longest, wanted);
        Ok(Recorded { recorder, logits, encoded, step: Step::new(0, lengths[0]) })
    }

    /// Records `ids` after the prompt at `placed`, on the pages `new`, with the logits of all of them.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn record_after(
        &self,
        allocator: &Allocator<'_>,
        language: &Language,
        placed: &Placed,
        new: &[u32],
        ids: &[u32],
    ) -> Result<Recorded> {
        let count = ids.len() as u32;
        let mut recorder = allocator.recorder();
        let pages = allocator.pages(&[&placed.own, &new[..ids.len()]].concat())?;
        let own = Rows { places: allocator.places(count, |i| i)?, pages, prompts: None };
        let cross = self.cross.as_ref().map(|table| -> Result<_> {
            let places = allocator.places(count, |_| placed.encoded.len() as u32)?;
            Ok((&table.cache, Rows { places, pages: allocator.pages(&placed.encoded)?, prompts: None }))
        });
        let cross = cross.transpose()?;
        let caches = Caches {
            own: Cached { cache: &self.own.cache, rows: &own },
            cross: cross.as_ref().map(|(cache, rows)| Cached { cache, rows }),
        };
        let x = language.embed(&mut recorder, &allocator.ids(ids)?); // [T, D]
        let logits = language.record(&mut recorder, caches, x, LogitRows { ends: &[count], count }); // [T, V]
        Ok(Recorded { recorder, logits, encoded: None, step: Step::new(placed.positions(), count) })
    }
}
