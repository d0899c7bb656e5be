//! Questions as callers write them.

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;

use instructblip::engine::{self, Request};
use instructblip::processor::Task;
use instructblip::{GenerateOptions, Image};

use crate::arguments::{array, object, reference, text};
use crate::canceller::Canceller;
use crate::status::Failure;

/// A picture: an image file in memory (PNG, JPEG, WebP, GIF, BMP or TIFF), or pixels.
#[repr(C)]
#[derive(Debug)]
pub struct Picture {
    /// The bytes of the file; or three bytes a pixel, red, green and blue, in rows from top to bottom.
    pub data: *const u8,
    /// The number of bytes.
    pub length: usize,
    /// Width in pixels; 0 for a file.
    pub width: u32,
    /// Height in pixels; 0 for a file.
    pub height: u32,
}

/// A function that hears a piece of an answer, `length` bytes and a NUL, never half a character. What it returns other
/// than 0 stops the answer.
pub type OnText = Option<unsafe extern "C" fn(text: *const c_char, length: usize, user: *mut c_void) -> c_int>;

/// A question about a picture. Set all of it to zero first; then NULL, 0 and nothing are the usual.
#[repr(C)]
#[derive(Debug)]
pub struct Question {
    /// The picture, or the frames of a video for models that take several.
    pub pictures: *const Picture,
    /// The number of pictures.
    pub picture_count: usize,
    /// The question or instruction; with a task, the text that goes into its wording.
    pub prompt: *const c_char,
    /// A task whose wording the paper gives; NULL asks the prompt as it is. `prompt` is then
    /// "caption": NULL, for a caption of one sentence;
    /// "detail": NULL, for a description;
    /// "vqa-short": a question, for a short answer;
    /// "vqa-ocr": the same, with words that were read in the picture as `choices`;
    /// "multiple-choice": a question that one of the `choices` answers;
    /// "science": the same, with letters; lines before the last are its context;
    /// "true-false": a statement to be judged;
    /// "hateful": the words on a picture to be judged;
    /// "ask-question": an answer, for a question to it.
    pub task: *const c_char,
    /// The text that the Q-Former reads instead of the prompt.
    pub qformer_prompt: *const c_char,
    /// Choices for the task's wording, and the answers that instructblip_score compares.
    pub choices: *const *const c_char,
    /// The number of choices.
    pub choice_count: usize,
    /// The parameters of the answer under the names of transformers' `generate`, as a JSON object:
    /// {"max_new_tokens": 30, "num_beams": 5}. All of them, with their defaults:
    /// "max_new_tokens": null, the most tokens of the answer: 256, unless "max_length" is given;
    /// "max_length": null, the most tokens of prompt, picture's places and answer together;
    /// "min_length": 0, the least of these;
    /// "min_new_tokens": 0, the least tokens of the answer;
    /// "num_beams": 1, beams to search with, up to 256;
    /// "num_return_sequences": 1, answers to give, up to 256: of beams, or drawn;
    /// "do_sample": false, true draws tokens by their probability instead of taking the likeliest;
    /// "seed": 0, where the random numbers begin: the same seed draws the same answer on one machine;
    /// "temperature": 1.0, divides scores before tokens are drawn;
    /// "top_k": 50, draws among so many of the likeliest tokens, 0 among all;
    /// "top_p": 1.0, draws among the likeliest tokens that make up so much probability;
    /// "min_p": null, draws among tokens with at least this share of the likeliest one's probability;
    /// "typical_p": 1.0, draws among the most typical tokens that make up so much probability;
    /// "epsilon_cutoff": 0.0, draws among tokens of at least this probability;
    /// "eta_cutoff": 0.0, the same with a threshold that follows the entropy;
    /// "repetition_penalty": 1.0, divides the scores of tokens that there are already, the prompt's included;
    /// "penalize_prompt": true, false has "repetition_penalty" and "no_repeat_ngram_size" look at the answer alone;
    /// "presence_penalty": 0.0, lowers the scores of tokens that the answer has already by so much, from -2 to 2;
    /// "frequency_penalty": 0.0, lowers them by so much for each time they came, from -2 to 2;
    /// "no_repeat_ngram_size": 0, the length of runs of tokens that may not come twice;
    /// "length_penalty": 1.0, the power of its length that a beam's score is divided by;
    /// "early_stopping": false, true ends a search once it has as many answers as beams, "never" when none can get better;
    /// "exponential_decay_length_penalty": null, [10, 1.1] has the end grow likelier by a factor of 1.1 after 10 tokens;
    /// "stop_strings": [], texts that end the answer;
    /// "prefix": "", the beginning of the answer, which the model goes on with;
    /// "prefix_ids": [], the same as tokens, before "prefix";
    /// "bad_words": [], words that the answer may not have;
    /// "bad_words_ids": [], runs of tokens that it may not have;
    /// "logprobs": null, tells with every token its log-probability and those of so many of the likeliest, from 0 to 20;
    /// "eos_token_id": null, the id or the ids that end an answer, the model's unless told.
    pub params: *const c_char,
    /// Hears the answer piece by piece, where it is one answer without beams. It runs on the thread that asks, and may
    /// call everything but instructblip_close.
    pub on_text: OnText,
    /// Whatever `on_text` is to be given.
    pub user: *mut c_void,
    /// Cancels the question from another thread.
    pub canceller: *const Canceller,
}

impl Question {
    /// The request to an engine that asks this.
    ///
    /// # Safety
    /// Every pointer is as its field says.
    pub unsafe fn request(&self) -> Result<Request, Failure> {
        // SAFETY: the caller's promise.
        let (prompt, task, qformer_prompt, choices, params) = unsafe {
            (
                text(self.prompt, "prompt")?,
                text(self.task, "task")?,
                text(self.qformer_prompt, "qformer_prompt")?,
                self.choices()?,
                object(self.params, "params")?,
            )
        };
        let prompt = worded(prompt, task, &choices)?;
        let options = GenerateOptions::default().with_params(&params)?;
        // SAFETY: the caller's promise.
        let pictures = unsafe { self.pictures()? };
        let qformer_prompt = qformer_prompt.map(String::from);
        Ok(Request { pictures, prompt, qformer_prompt, options, choices: Vec::new(), features: None })
    }

    /// The choices.
    ///
    /// # Safety
    /// As for [`Question::request`].
    pub unsafe fn choices(&self) -> Result<Vec<&str>, Failure> {
        // SAFETY: the caller's promise.
        let pointers = unsafe { array(self.choices, self.choice_count, "choices")? };
        let choice = |&pointer: &*const c_char| {
            // SAFETY: the caller's promise.
            let choice = unsafe { text(pointer, "a choice") }?;
            choice.ok_or_else(|| Failure::argument("a choice is NULL"))
        };
        pointers.iter().map(choice).collect()
    }

    unsafe fn pictures(&self) -> Result<Vec<engine::Picture>, Failure> {
        // SAFETY: the caller's promise.
        let pictures = unsafe { array(self.pictures, self.picture_count, "pictures")? };
        let name = |i: usize| if pictures.len() == 1 { "picture".into() } else { format!("picture {}", i + 1) };
        // SAFETY: the caller's promise.
        pictures.iter().enumerate().map(|(i, picture)| unsafe { picture.read(name(i)) }).collect()
    }

    /// The canceller, if there is one.
    ///
    /// # Safety
    /// As for [`Question::request`].
    pub unsafe fn canceller(&self) -> Option<&Canceller> {
        // SAFETY: the caller's promise.
        unsafe { self.canceller.as_ref() }
    }
}

impl Picture {
    /// The picture, whose bytes are copied. An engine decodes it.
    unsafe fn read(&self, name: String) -> Result<engine::Picture, Failure> {
        // SAFETY: the caller's promise.
        let bytes = unsafe { array(self.data, self.length, &format!("the data of {name}"))? };
        Ok(match (self.width, self.height) {
            (0, 0) => engine::Picture::Bytes { name, bytes: Arc::from(bytes) },
            (width, height) => engine::Picture::Image(Image::from_rgb(width, height, bytes.to_vec())?),
        })
    }
}

/// The prompt as the model gets it.
fn worded(prompt: Option<&str>, task: Option<&str>, choices: &[&str]) -> Result<String, Failure> {
    let Some(name) = task else {
        return prompt.map(String::from).ok_or_else(|| Failure::argument("prompt is NULL, and there is no task"));
    };
    let task = Task::named(name).ok_or_else(|| {
        let names = Task::ALL.map(|(name, _)| name).join(", ");
        Failure::request(format!("there is no task \"{name}\"; there are {names}"))
    })?;
    if prompt.is_some() && !task.takes_text() {
        return Err(Failure::request(format!("the task \"{name}\" takes no prompt; leave it NULL")));
    }
    Ok(task.prompt(prompt.unwrap_or_default(), choices)?)
}

/// The question that a caller points to.
///
/// # Safety
/// It is NULL or a question, whose pointers are as its fields say.
pub unsafe fn question<'a>(pointer: *const Question) -> Result<&'a Question, Failure> {
    // SAFETY: the caller's promise.
    unsafe { reference(pointer, "question") }
}
