//! Questions and their answers: one piece by piece, or several side by side.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::encode::Encoded;
use super::reply::{Answer, AnswerText, Reply, Timings, milliseconds};
use super::{InstructBlip, MAX_RUN_ROWS, Question};
use crate::error::{Error, Result};
use crate::generate::{self, AnswerId, GenerateOptions, Limits, Prompted, Room, Sequence};
use crate::processor::{Image, Prompt};
use crate::runtime::Work;

impl InstructBlip {
    /// Asks about a picture and waits for the whole answer.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`], [`Error::Request`], or a failure of the device.
    pub fn ask(&mut self, image: &Image, prompt: &str, options: &GenerateOptions) -> Result<Reply> {
        let question = Question::new(image, prompt);
        Ok(self.answer(&[question], options)?.swap_remove(0))
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
        let limits = self.limits(&prompt, options)?;
        let encoded = self.encode(question.images, prompt)?;
        let started = Instant::now();
        self.bring_language(&[self.room(prompt_tokens, options, &limits)])?;
        let prompted = self.prompted(&encoded, options);
        let InstructBlip { language, processor, .. } = self;
        let (language, slots) = language.as_mut().expect("brought just now").parts();
        Ok(Answer {
            tokens: slots.start(language, &prompted, options, limits)?,
            decoder: Some(processor.shared_tokenizers().stream()),
            token_ids: Vec::new(),
            text: String::new(),
            prompt_tokens,
            timings: encoded.timings,
            started,
        })
    }

    /// Answers several questions side by side. An answer is the one its question gets alone.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`], [`Error::Request`], [`Error::Cancelled`], or a failure of the device.
    pub fn answer(&mut self, questions: &[Question<'_>], options: &GenerateOptions) -> Result<Vec<Reply>> {
        options.check()?;
        let mut prompts = questions.iter().map(|q| self.prompt(q)).collect::<Result<Vec<_>>>()?;
        if self.left_padding {
            let words = prompts.iter().map(|p| p.qformer_input_ids.len()).max().unwrap_or(0);
            prompts.iter_mut().for_each(|prompt| prompt.pad_qformer_left(words));
        }
        let limits = prompts.iter().map(|prompt| self.limits(prompt, options)).collect::<Result<Vec<_>>>()?;
        let mut asked: Vec<_> = questions.iter().zip(prompts).zip(limits).collect();
        let most = (MAX_RUN_ROWS / options.rows() as usize).max(1);
        let mut replies = Vec::new();
        while !asked.is_empty() {
            let run =
                asked.drain(..most.min(asked.len())).map(|((question, prompt), limits)| (question, prompt, limits));
            replies.extend(self.answer_together(run.collect(), options)?);
        }
        Ok(replies)
    }

    fn answer_together(
        &mut self,
        asked: Vec<(&Question<'_>, Prompt, Limits)>,
        options: &GenerateOptions,
    ) -> Result<Vec<Reply>> {
        let room = |(_, prompt, limits): &(_, Prompt, Limits)| self.room(prompt.input_ids.len(), options, limits);
        let rooms: Vec<Room> = asked.iter().map(room).collect();
        let mut timings = Timings { load: self.load_ms, ..Timings::default() };
        let (mut questions, mut limits) = (Vec::new(), Vec::new());
        for (question, prompt, of_question) in asked {
            questions.push((self.pixels(question.images), prompt));
            limits.push(of_question);
        }
        let encoded = self.encode_all(questions)?.into_iter().collect::<Result<Vec<Encoded>>>()?;
        for one in &encoded {
            timings.image += one.timings.image;
            timings.vision += one.timings.vision;
            timings.qformer += one.timings.qformer;
        }
        let started = Instant::now();
        self.bring_language(&rooms)?;
        let mut places: HashMap<AnswerId, usize> = HashMap::new();
        for (i, (encoded, limits)) in encoded.iter().zip(limits).enumerate() {
            let prompted = self.prompted(encoded, options);
            let (language, slots) = self.language_stage();
            places.insert(slots.join(language, &prompted, options, limits)?, i);
        }
        timings.prefill = milliseconds(started);
        let mut finished: Vec<Option<Vec<Sequence>>> = vec![None; encoded.len()];
        let device = self.device.clone();
        let (_, slots) = self.language_stage();
        while !slots.are_idle() {
            let news = slots.step()?;
            device.tell(&Work::Answering { tokens: news.iter().map(|news| news.tokens).max().unwrap_or(0) })?;
            news.into_iter().for_each(|news| finished[places[&news.id]] = news.finished);
        }
        timings.decode = milliseconds(started) - timings.prefill;
        let reply = |(sequences, encoded): (Vec<Sequence>, &Encoded)| {
            let texts = sequences.into_iter().map(|sequence| self.text_of(sequence)).collect();
            Reply::new(texts, encoded.prompt.input_ids.len(), timings)
        };
        Ok(finished.into_iter().flatten().zip(&encoded).map(reply).collect())
    }

    pub(super) fn text_of(&self, sequence: Sequence) -> AnswerText {
        AnswerText {
            text: self.processor.tokenizers().decode(&sequence.token_ids).trim().to_string(),
            token_ids: sequence.token_ids,
            logprobs: sequence.logprobs,
            score: sequence.score,
            finish_reason: sequence.finish_reason,
        }
    }

    /// The question's ids, after everything about it that can be refused was.
    pub(super) fn prompt(&self, question: &Question<'_>) -> Result<Prompt> {
        self.prompt_of(question.prompt, question.qformer_prompt, question.images.len())
    }

    /// The ids of a question about as many pictures.
    pub(super) fn prompt_of(&self, prompt: &str, qformer_prompt: Option<&str>, pictures: usize) -> Result<Prompt> {
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
        self.processor.tokenizers().encode(prompt, qformer_prompt.unwrap_or(prompt), pictures)
    }

    /// The room of an answer to a prompt of `tokens` tokens.
    pub(super) fn room(&self, tokens: usize, options: &GenerateOptions, limits: &Limits) -> Room {
        Room::of(&self.shapes.language, tokens as u32, options.rows(), limits.max_new_tokens)
    }

    /// The limits of an answer to `prompt`.
    pub(super) fn limits(&self, prompt: &Prompt, options: &GenerateOptions) -> Result<Limits> {
        let tokens = prompt.input_ids.len();
        let own = self.shapes.language.decoder_length(tokens as u32);
        let wanted = options.new_tokens(own)?;
        let new_tokens = generate::new_tokens_that_fit(tokens, self.config.text.max_positions(), wanted)?;
        options.check_least(own, new_tokens)?;
        // How many there are counts for sampling with beams.
        let mut eos = options.eos_token_ids.clone().unwrap_or_else(|| self.stop.clone());
        eos.sort_unstable();
        eos.dedup();
        if options.eos_token_ids.is_some() {
            self.check_given(&eos, "eos_token_id")?;
        }
        let (prefix, bad_words) = (self.prefix(options)?, self.bad_words(options)?);
        if prefix.len() as u64 >= u64::from(new_tokens) && !prefix.is_empty() {
            return Err(Error::request(format!(
                "the prefix has {} tokens and the answer may have {new_tokens}, prefix included: nothing would follow it",
                prefix.len()
            )));
        }
        let mut limits = Limits { prefix, bad_words, ..Limits::new(new_tokens, &eos) };
        if !options.stop_strings.is_empty() {
            let (tokenizers, stops) = (self.processor.shared_tokenizers(), options.stop_strings.clone());
            limits.has_stop = Some(Arc::new(move |tokens: &[u32]| {
                let text = tokenizers.decode(tokens);
                stops.iter().any(|stop| text.contains(stop))
            }));
        }
        Ok(limits)
    }

    /// The runs of tokens that an answer may not have.
    fn bad_words(&self, options: &GenerateOptions) -> Result<Vec<Vec<u32>>> {
        let mut all = options.bad_words_ids.clone();
        for word in &options.bad_words {
            for written in [word.clone(), format!(" {}", word.trim_start())] {
                all.push(self.processor.tokenizers().encode_answer(&written, None, "bad word")?);
            }
        }
        all.sort();
        all.dedup();
        all.iter().try_for_each(|word| self.check_given(word, "bad_words"))?;
        Ok(all)
    }

    /// The tokens that an answer begins with.
    fn prefix(&self, options: &GenerateOptions) -> Result<Vec<u32>> {
        let mut ids = options.prefix_ids.clone();
        if !options.prefix.is_empty() {
            ids.extend(self.processor.tokenizers().encode_answer(&options.prefix, None, "prefix")?);
        }
        self.check_given(&ids, "prefix")?;
        Ok(ids)
    }

    /// Refuses tokens that the model never gives.
    fn check_given(&self, ids: &[u32], what: &str) -> Result<()> {
        let known = self.shapes.language.head_rows();
        match ids.iter().find(|&&id| id >= known) {
            Some(id) => Err(Error::request(format!("{what}: the model has {known} tokens, there is no token {id}"))),
            None => Ok(()),
        }
    }

    pub(super) fn prompted<'a>(&self, encoded: &'a Encoded, options: &GenerateOptions) -> Prompted<'a> {
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
