//! `/v1/chat/completions`: a picture and a question in, an answer out, whole or as it comes.

mod conversation;
mod cut;
mod logprobs;
mod options;
mod reply;
mod stream;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use instructblip::engine::{self, Event, Outcome};
use instructblip::processor::Task;

use super::Server;
use super::body::Bounded;
use super::failure::Failure;
use super::fields::worded;
use super::line::Line;
use super::served::{About, Pending, Ready};
use conversation::Conversation;
use options::Options;
pub use reply::Head;

/// The field that an answer is about, in refusals of prompts.
const PROMPT: &str = "messages";

/// Answers a conversation.
///
/// # Errors
/// [`Failure`] for whatever is no question that can be answered, before anything of an answer is sent.
pub async fn complete(State(server): State<Arc<Server>>, request: Request) -> Result<Response, Failure> {
    let line = Line::of(&request);
    let ready = server.served.ready()?;
    let mut body = server.bodies.read(request).await?;
    let mut fields = body.fields()?;
    let messages = fields.list("messages")?.ok_or_else(|| fields.refused("messages", "is missing"))?;
    let options = Options::read(&mut fields, &ready.about)?;
    fields.end()?;
    let conversation = Conversation::read(messages)?;
    let question = question(&server, &ready.about, conversation, &options).await?;
    let head = Head::new(&ready, options);
    let pending = ready.ask(question, server.metrics.wait(&ready))?;
    let mut asked = Asked { server, ready, head, pending, line, _body: body };
    // What is wrong with a question is known before the first piece: then the status can say so.
    let first = asked.pending.next().await.map_err(|error| asked.refused(&error))?;
    if asked.head.options.stream {
        return Ok(stream::stream(asked, first));
    }
    let reply = asked.whole(first).await.map_err(|error| asked.refused(&error))?;
    asked.line.tokens(&reply);
    asked.server.metrics.answered(&asked.head, &reply);
    Ok(axum::Json(asked.head.whole(&reply)).into_response())
}

/// A question that was asked.
struct Asked {
    server: Arc<Server>,
    ready: Arc<Ready>,
    head: Head,
    pending: Pending,
    line: Arc<Line>,
    /// The engine has the picture's bytes by now, and they count as long as it may have them.
    _body: Bounded,
}

impl Asked {
    /// Waits for the rest of the answer.
    async fn whole(&mut self, first: Event) -> instructblip::Result<instructblip::Reply> {
        let mut event = first;
        loop {
            match event {
                Event::Done(Outcome::Reply(reply)) => return Ok(*reply),
                Event::Done(_) => unreachable!("an answer was asked for"),
                _ => event = self.pending.next().await?,
            }
        }
    }

    /// The failure of the question.
    fn refused(&self, error: &instructblip::Error) -> Failure {
        self.server.refused(&self.ready, error, PROMPT)
    }
}

/// The question as the engine takes it.
async fn question(
    server: &Server,
    about: &About,
    conversation: Conversation,
    options: &Options,
) -> Result<engine::Request, Failure> {
    let Conversation { prompt, pictures, turns } = conversation;
    let frames = about.config.takes_frames();
    match pictures.len() {
        0 => return Err(Failure::request(PROMPT, "has no picture; put one into the user's message as image_url")),
        1 => {}
        _ if frames => {}
        n => {
            let problem = format!("has {n} pictures; this model looks at one, and answers of others would be made up");
            return Err(Failure::request(PROMPT, problem));
        }
    }
    let prompt = match options.task {
        Some(_) if turns => {
            return Err(Failure::request("task", "words one question, and the conversation has several"));
        }
        Some(task) => worded(task, &prompt, &options.choices, PROMPT)?,
        None if !options.choices.is_empty() => {
            return Err(Failure::request("choices", "needs a task that lists them; /v1/score ranks answers"));
        }
        // The model was taught instructions, and none is none of them.
        None if prompt.is_empty() && about.config.qformer_reads_text() => worded(Task::Caption, "", &[], PROMPT)?,
        None => prompt,
    };
    let mut read = Vec::new();
    for (picture, place) in pictures {
        read.push(server.pictures.read(picture, &place).await?);
    }
    Ok(engine::Request {
        pictures: read,
        prompt,
        qformer_prompt: options.qformer_prompt.clone(),
        options: options.generate.clone(),
        choices: Vec::new(),
        features: None,
    })
}
