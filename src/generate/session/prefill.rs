//! Prompts into the cache: what they are, how they are recorded, and the plans made of them.

use super::pages::Placed;
use super::tables::{Allocator, Tables};
use crate::error::Result;
use crate::language::{Cached, Caches, Language};
use crate::runtime::ops::attention::Rows;
use crate::runtime::plan::{Plan, Step};
use crate::runtime::recorder::Recorder;
use crate::runtime::{Device, Tensor};

/// A prompt on the device: token ids, and image features with the rows they replace.
pub struct PromptInputs<'a> {
    /// `[1, T]` of u32.
    pub ids: &'a Tensor,
    /// `[Q, D]`.
    pub features: &'a Tensor,
    /// `[1, Q]` of u32: the positions that the features take.
    pub placeholders: &'a Tensor,
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

/// Records the prompt: embeddings, image features in their places, the encoder if there is one, all blocks, the logits
/// of the last `rows` rows; also gives the encoder's output.
pub fn record_prefill(
    r: &mut Recorder,
    language: &Language,
    own: Cached<'_>,
    crossing: Option<Crossing<'_>>,
    prompt: &PromptInputs<'_>,
    rows: u32,
) -> (Tensor, Option<Tensor>) {
    let mut x = language.embed(r, prompt.ids); // [T, D]
    r.put_rows(&mut x, prompt.features, prompt.placeholders);
    let Some(crossing) = crossing else {
        return (language.record(r, Caches { own, cross: None }, x, rows), None);
    };
    let encoded = language.record_encoder(r, x, crossing.store); // [S, D]
    let x = language.embed(r, crossing.decoder_ids); // [T, D]
    (language.record(r, Caches { own, cross: Some(crossing.read) }, x, rows), Some(encoded))
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

/// The rows of a prompt that an encoder reads, in the cache of its output.
struct CrossRows {
    read: Rows,
    store: Rows,
}

impl CrossRows {
    /// The rows for a prompt on the pages `encoded`, of which the decoder reads `count` tokens.
    fn new(allocator: &Allocator<'_>, encoded: &[u32], count: u32) -> Result<CrossRows> {
        let store = in_order(allocator, encoded)?;
        let places = allocator.places(count, |_| encoded.len() as u32)?;
        Ok(CrossRows { read: Rows { places, pages: store.pages.clone() }, store })
    }
}

/// One sequence of a row for each of `pages`.
fn in_order(allocator: &Allocator<'_>, pages: &[u32]) -> Result<Rows> {
    Ok(Rows { places: allocator.places(pages.len() as u32, |i| i)?, pages: allocator.pages(pages)? })
}

impl Tables {
    /// Records a prompt whose keys and values go where `placed` says.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn record_prompt(
        &self,
        allocator: &Allocator<'_>,
        language: &Language,
        prompt: &PromptInputs<'_>,
        placed: &Placed,
        request: Request<'_>,
    ) -> Result<Recorded> {
        let mut recorder = allocator.recorder().with_taps(request.taps);
        let decoder_ids = match (language.decoder_start(), request.decoder_ids) {
            (None, _) => None,
            (Some(start), []) => Some(allocator.ids(&[start])?),
            (Some(_), ids) => Some(allocator.ids(ids)?),
        };
        let count = decoder_ids.as_ref().unwrap_or(prompt.ids).len();
        let rows = in_order(allocator, &placed.own[..count as usize])?;
        let own = Cached { cache: &self.own.cache, rows: &rows };
        let cross = self.cross.as_ref().map(|table| Ok((table, CrossRows::new(allocator, &placed.encoded, count)?)));
        let cross = cross.transpose()?;
        let crossing = cross.as_ref().zip(decoder_ids.as_ref()).map(|((table, rows), decoder_ids)| Crossing {
            read: Cached { cache: &table.cache, rows: &rows.read },
            store: Cached { cache: &table.cache, rows: &rows.store },
            decoder_ids,
        });
        let (logits, encoded) = record_prefill(&mut recorder, language, own, crossing, prompt, request.rows);
        Ok(Recorded { recorder, logits, encoded, step: Step::new(0, count) })
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
        let own = Rows { places: allocator.places(count, |i| i)?, pages };
        let cross = self.cross.as_ref().map(|table| -> Result<_> {
            let places = allocator.places(count, |_| placed.encoded.len() as u32)?;
            Ok((&table.cache, Rows { places, pages: allocator.pages(&placed.encoded)? }))
        });
        let cross = cross.transpose()?;
        let caches = Caches {
            own: Cached { cache: &self.own.cache, rows: &own },
            cross: cross.as_ref().map(|(cache, rows)| Cached { cache, rows }),
        };
        let x = language.embed(&mut recorder, &allocator.ids(ids)?); // [T, D]
        let logits = language.record(&mut recorder, caches, x, count); // [T, V]
        Ok(Recorded { recorder, logits, encoded: None, step: Step::new(placed.positions(), count) })
    }
}
