//! Questions and their answers: one piece by piece, or several side by side.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use super::encode::Encoded;
use super::reply::{Answer, AnswerText, Reply, Timings, milliseconds};
use super::{InstructBlip, MAX_RUN_ROWS, Question};
use crate::error::{Error, Result};
use crate::generate::{self, GenerateOptions, Limits, Prompted, Sequence};
use crate::processor::{Image, Prompt};

impl InstructBlip {
    /// Asks about a picture and waits for the whole answer.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`], [`Error::Request`], or a failure of the device.
    pub fn ask(&mut self, image: &Image, prompt: &str, options: &GenerateOptions) -> Result<Reply> {
        let question = Question::new(image, prompt);
        Ok(self.answer(&[question], options, &mut |_| {})?.swap_remove(0))
    }

    /// Asks about a picture; the answer is an iterator over pieces of text as they become certain.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`], [`Error::Request`] (also for options that make several answers at once), or a failure
    /// of the device.
    pub fn generate(&mut self, image: &Image, prompt: &str, options: &GenerateOptions) -> Result<Answer<'_>> {
        self.stream(&Question::new(image, prompt), options)
    }

    /// Answers any question as [`InstructBlip::generate`] does.
    ///
    /// # Errors
    /// As there.
    pub fn stream(&mut self, question: &Question<'_>, options: &GenerateOptions) -> Result<Answer<'_>> {
        options.check()?;
        if !options.gives_one() {
            return Err(Error::request("an answer with beams or several answers cannot be had piece by piece"));
        }
        // The prompt first: what is wrong with it is told before the GPU is put to work.
        let prompt = self.prompt(question)?;
        let prompt_tokens = prompt.input_ids.len();
        let limits = self.limits(self.new_tokens(&prompt, options)?, options);
        let encoded = self.encode(question.images, prompt, &[])?;
        let started = Instant::now();
        self.bring_language(&[prompt_tokens as u32], 1, limits.max_new_tokens)?;
        let (language, session) = self.language_stage();
        let tokens = session.start(language, &self.prompted(&encoded, options), options, limits)?;
        Ok(Answer {
            tokens,
            decoder: Some(self.processor.tokenizers().stream()),
            token_ids: Vec::new(),
            text: String::new(),
            prompt_tokens,
            timings: encoded.timings,
            started,
        })
    }

    /// Answers several questions side by side. An answer is the one its question gets alone. `progress` hears how many
    /// tokens the longest answer of those being worked at has.
    ///
    /// Questions share a run if their answers may have the same number of tokens, which `max_length` and the end of the
    /// context make depend on the prompt, and as long as there are not too many rows.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`], [`Error::Request`], or a failure of the device.
    pub fn answer(
        &mut self,
        questions: &[Question<'_>],
        options: &GenerateOptions,
        progress: &mut dyn FnMut(u32),
    ) -> Result<Vec<Reply>> {
        options.check()?;
        if let ([question], true) = (questions, options.gives_one()) {
            // Fewer bytes go between host and device this way.
            let mut answer = self.stream(question, options)?;
            while let Some(piece) = answer.next() {
                piece?;
                progress(answer.token_ids().len() as u32);
            }
            return Ok(vec![answer.into_reply()]);
        }
        let mut prompts = questions.iter().map(|q| self.prompt(q)).collect::<Result<Vec<_>>>()?;
        if self.left_padding {
            let words = prompts.iter().map(|p| p.qformer_input_ids.len()).max().unwrap_or(0);
            prompts.iter_mut().for_each(|prompt| prompt.pad_qformer_left(words));
        }
        let mut runs: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (i, prompt) in prompts.iter().enumerate() {
            runs.entry(self.new_tokens(prompt, options)?).or_default().push(i);
        }
        let most = (MAX_RUN_ROWS / options.rows() as usize).max(1);
        let mut replies: Vec<Option<Reply>> = vec![None; questions.len()];
        for (new_tokens, all) in runs {
            let limits = self.limits(new_tokens, options);
            for run in all.chunks(most) {
                let asked = run.iter().map(|&i| (questions[i], prompts[i].clone())).collect();
                let answers = self.answer_together(asked, options, &limits, progress)?;
                run.iter().zip(answers).for_each(|(&i, reply)| replies[i] = Some(reply));
            }
        }
        Ok(replies.into_iter().flatten().collect())
    }

    /// Answers questions whose answers have the same limits.
    fn answer_together(
        &mut self,
        asked: Vec<(Question<'_>, Prompt)>,
        options: &GenerateOptions,
        limits: &Limits,
        progress: &mut dyn FnMut(u32),
    ) -> Result<Vec<Reply>> {
        let sizes: Vec<u32> = asked.iter().map(|(_, prompt)| prompt.input_ids.len() as u32).collect();
        let mut timings = Timings { load: self.load_ms, ..Timings::default() };
        let mut encoded = Vec::new();
        for (question, prompt) in asked {
            let one = self.encode(question.images, prompt, &[])?;
            timings.image += one.timings.image;
            timings.vision += one.timings.vision;
            timings.qformer += one.timings.qformer;
            encoded.push(one);
        }
        let started = Instant::now();
        self.bring_language(&sizes, options.rows(), limits.max_new_tokens)?;
        let prompted: Vec<Prompted<'_>> = encoded.iter().map(|e| self.prompted(e, options)).collect();
        let (language, session) = self.language_stage();
        let answers = session.answer(language, &prompted, options, limits, &mut |tokens| {
            match tokens {
                1 => timings.prefill = milliseconds(started),
                _ => timings.decode = milliseconds(started) - timings.prefill,
            }
            progress(tokens);
        })?;
        let reply = |(sequences, encoded): (Vec<Sequence>, &Encoded)| {
            let texts = sequences.into_iter().map(|sequence| self.text_of(sequence)).collect();
            Reply::new(texts, encoded.prompt.input_ids.len(), timings)
        };
        Ok(answers.into_iter().zip(&encoded).map(reply).collect())
    }

    fn text_of(&self, sequence: Sequence) -> AnswerText {
        AnswerText {
            text: self.processor.tokenizers().decode(&sequence.token_ids).trim().to_string(),
            token_ids: sequence.token_ids,
            score: sequence.score,
            finish_reason: sequence.finish_reason,
        }
    }

    /// The question's ids, after everything about it that can be refused was.
    pub(super) fn prompt(&self, question: &Question<'_>) -> Result<Prompt> {
        let pictures = question.images.len();
        if pictures == 0 {
            return Err(Error::request("the question has no picture"));
        }
        if pictures > 1 && !self.config.takes_frames() {
            let problem = format!(
                "{pictures} pictures were given, but this model takes one; several frames are for checkpoints whose \
                 model_type is \"instructblipvideo\""
            );
            return Err(Error::request(problem));
        }
        let qformer_prompt = question.qformer_prompt.unwrap_or(question.prompt);
        self.processor.tokenizers().encode(question.prompt, qformer_prompt, pictures)
    }

    /// Most new tokens of an answer to `prompt`.
    fn new_tokens(&self, prompt: &Prompt, options: &GenerateOptions) -> Result<u32> {
        let tokens = prompt.input_ids.len();
        let wanted = options.new_tokens(self.shapes.language.decoder_length(tokens as u32))?;
        generate::new_tokens_that_fit(tokens, self.config.text.max_positions(), wanted)
    }

    /// The limits of an answer.
    fn limits(&self, max_new_tokens: u32, options: &GenerateOptions) -> Limits {
        // How many there are counts for sampling with beams.
        let mut eos = options.eos_token_ids.clone().unwrap_or_else(|| self.stop.clone());
        eos.sort_unstable();
        eos.dedup();
        let mut limits = Limits::new(max_new_tokens, &eos);
        if !options.stop_strings.is_empty() {
            let (tokenizers, stops) = (self.processor.shared_tokenizers(), options.stop_strings.clone());
            limits.has_stop = Some(Rc::new(move |tokens: &[u32]| {
                let text = tokenizers.decode(tokens);
                stops.iter().any(|stop| text.contains(stop))
            }));
        }
        limits
    }

    fn prompted<'a>(&self, encoded: &'a Encoded, options: &GenerateOptions) -> Prompted<'a> {
        let inputs = encoded.inputs();
        match self.shapes.language.decoder_start() {
            Some(start) => Prompted { inputs, history: vec![start], counted: 0 },
            None => {
                // Without places of their own the reference knows a prompt as embeddings only.
                let hidden = !options.penalize_prompt || self.config.image_token_id.is_none();
                let history = encoded.prompt.input_ids.clone();
                Prompted { inputs, counted: if hidden { history.len() } else { 0 }, history }
            }
        }
    }
}
