//! Generation: a prompt through the language model once, then one token after another, greedily.
//!
//! The chosen token stays on the device, where the next step reads it. The host reads it back one step later, so
//! the device never waits for the host.

use crate::error::{Error, Result};
use crate::language::{KvCache, Llama};
use crate::runtime::buffers::{Category, Tensor};
use crate::runtime::device::Device;
use crate::runtime::plan::{Plan, Step};
use crate::runtime::recorder::Recorder;

/// How to generate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerateOptions {
    /// Most tokens to generate; the end-of-text token counts.
    pub max_new_tokens: u32,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions { max_new_tokens: 256 }
    }
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model produced an end-of-text token.
    Eos,
    /// `max_new_tokens` or the end of the context was reached.
    Length,
}

/// A prompt on the device: token ids, and image features with the rows they replace.
pub struct PromptInputs<'a> {
    /// `[1, T]` of u32.
    pub ids: &'a Tensor,
    /// `[Q, D]`.
    pub features: &'a Tensor,
    /// `[1, Q]` of u32: the positions of the placeholders.
    pub places: &'a Tensor,
}

/// A cache and the plan of one decode step over it. Lives with the model and serves one answer at a time.
pub struct Session {
    device: Device,
    kv: KvCache,
    token: Tensor,
    decode: Plan,
}

/// Cache capacities are multiples of this, so that prompts of similar length share a session.
const CAPACITY_STEP: u32 = 256;

impl Session {
    /// A session for at least `positions` positions.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DoesNotFit`].
    pub fn new(device: &Device, language: &Llama, positions: u32) -> Result<Session> {
        let capacity = positions.next_multiple_of(CAPACITY_STEP).min(language.max_positions());
        let kv = KvCache::new(device, language.num_layers(), language.heads(), capacity)?;
        let token = device.zeros(Category::Io, "token", 1, 1)?;
        let decode = record_decode(Recorder::new(device.caps()), language, &kv, &token).finish(device)?;
        Ok(Session { device: device.clone(), kv, decode: decode.with_token(&token)?, token })
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> u32 {
        self.kv.capacity()
    }

    /// The plan of one decode step, for benchmarks.
    pub fn decode_plan(&self) -> &Plan {
        &self.decode
    }

    /// Starts generating after `prompt`; at most `max_new_tokens`, ending at any id in `stop`.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn start<'a>(
        &'a self,
        language: &Llama,
        prompt: &PromptInputs<'_>,
        max_new_tokens: u32,
        stop: &'a [u32],
    ) -> Result<Tokens<'a>> {
        let rows = prompt.ids.len();
        assert!(rows + max_new_tokens <= self.capacity() + 1, "the last token is never put into the cache");
        let mut r = Recorder::new(self.device.caps());
        let logits = record_prefill(&mut r, language, &self.kv, prompt, 1);
        r.argmax(&mut self.token.clone(), &logits);
        let prefill = r.finish(&self.device)?.with_token(&self.token)?;
        prefill.write_step(Step::new(0, rows));
        prefill.submit()?;
        Ok(Tokens {
            session: self,
            prefill: Some(prefill),
            position: rows,
            read: 0,
            submitted: 1,
            max_new_tokens,
            stop,
            finish: None,
            failed: false,
        })
    }

    /// Runs `prompt` and returns the logits of every position, `[T, V]`, with the tapped tensors.
    ///
    /// # Errors
    /// Whatever went wrong on the GPU.
    pub fn forward(
        &self,
        language: &Llama,
        prompt: &PromptInputs<'_>,
        taps: &[String],
    ) -> Result<(Tensor, Vec<(String, Tensor)>)> {
        let mut r = Recorder::new(self.device.caps()).with_taps(taps);
        let logits = record_prefill(&mut r, language, &self.kv, prompt, prompt.ids.len());
        let plan = r.finish(&self.device)?;
        plan.write_step(Step::new(0, prompt.ids.len()));
        plan.submit()?;
        Ok((plan.output(&logits), plan.taps().to_vec()))
    }
}

/// Records the prompt: embeddings, image features in their places, all blocks, the logits of the last `rows` rows.
pub fn record_prefill(
    r: &mut Recorder,
    language: &Llama,
    kv: &KvCache,
    prompt: &PromptInputs<'_>,
    rows: u32,
) -> Tensor {
    let mut x = language.embed(r, prompt.ids); // [T, D]
    r.put_rows(&mut x, prompt.features, prompt.places);
    language.record(r, kv, x, rows)
}

/// Records one decode step: the token's embedding through all blocks to the next token, in the same place.
pub fn record_decode(mut r: Recorder, language: &Llama, kv: &KvCache, token: &Tensor) -> Recorder {
    let x = language.embed(&mut r, token); // [1, D]
    let logits = language.record(&mut r, kv, x, 1); // [1, V]
    r.argmax(&mut token.clone(), &logits);
    r
}

/// The tokens of one answer, in order; the end-of-text token is the last one.
pub struct Tokens<'a> {
    session: &'a Session,
    prefill: Option<Plan>,
    /// Where the next submitted token goes.
    position: u32,
    read: u32,
    submitted: u32,
    max_new_tokens: u32,
    stop: &'a [u32],
    finish: Option<FinishReason>,
    failed: bool,
}

impl Tokens<'_> {
    /// Why generation ended; `None` while it goes on.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish
    }

    fn advance(&mut self) -> Result<u32> {
        let decode = &self.session.decode;
        // The next step goes to the device before this one's token is waited for.
        if self.submitted < self.max_new_tokens {
            decode.write_step(Step::new(self.position, 1));
            decode.submit()?;
            self.position += 1;
            self.submitted += 1;
        }
        let token = match self.prefill.take() {
            Some(prefill) => prefill.read_token()?,
            None => decode.read_token()?,
        };
        self.read += 1;
        if self.stop.contains(&token) {
            self.finish = Some(FinishReason::Eos);
        } else if self.read == self.max_new_tokens {
            self.finish = Some(FinishReason::Length);
        }
        Ok(token)
    }
}

impl Iterator for Tokens<'_> {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Result<u32>> {
        if self.finish.is_some() || self.failed || self.max_new_tokens == 0 {
            return None;
        }
        let token = self.advance();
        self.failed = token.is_err();
        Some(token)
    }
}

impl Drop for Tokens<'_> {
    fn drop(&mut self) {
        // The session's next answer must not find this one's tokens. An error here will show again there.
        let _ = self.session.decode.drain_tokens();
    }
}

/// Longest prompt in one recording: its rows times any width are counted in 32 bits.
const MAX_PROMPT_TOKENS: usize = 16_384;

/// How many tokens may be generated after a prompt of `prompt` tokens.
///
/// # Errors
/// [`Error::PromptTooLong`] when the context has no room for a single one.
pub fn room_for(prompt: usize, context: usize, max_new_tokens: u32) -> Result<u32> {
    check_fits(prompt + 1, context)?;
    Ok(max_new_tokens.min((context - prompt) as u32))
}

/// Refuses more positions than the context has.
///
/// # Errors
/// [`Error::PromptTooLong`].
pub fn check_fits(need: usize, context: usize) -> Result<()> {
    let have = context.min(MAX_PROMPT_TOKENS);
    match need <= have {
        true => Ok(()),
        false => Err(Error::PromptTooLong { what: "the language model's context", need, have }),
    }
}
