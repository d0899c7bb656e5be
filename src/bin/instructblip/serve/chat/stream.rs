//! An answer as it comes: server-sent events.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use futures_util::stream::poll_fn;
use instructblip::Reply;
use instructblip::engine::{Event, Outcome};
use instructblip::generate::TokenLogprob;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Sender, channel};

use super::Asked;
use super::cut::Cut;

/// Pieces that a slow client may be behind; then they are waited for.
const BEHIND: usize = 256;

/// Whoever reads the stream has gone.
struct Left;

/// An answer on its way to a client.
struct Streaming {
    asked: Asked,
    cut: Cut,
    /// Tokens whose text was not told yet, and the number of those that were.
    tokens: (Vec<TokenLogprob>, usize),
    to: Sender<Bytes>,
}

/// Sends an answer as it comes, from its first event on. A client that leaves cancels it.
pub fn stream(asked: Asked, first: Event) -> Response {
    let (to, mut pieces) = channel(BEHIND);
    let cut = Cut::at(&asked.head.options.stops);
    let streaming = Streaming { asked, cut, tokens: Default::default(), to };
    tokio::spawn(async move {
        // Of a client that has left there is nothing to be done: the answer is cancelled with its events.
        let _ = streaming.run(first).await;
    });
    let pieces = poll_fn(move |context| pieces.poll_recv(context).map(|piece| piece.map(Ok::<_, Infallible>)));
    let mut response = Response::new(Body::from_stream(pieces));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that gather answers would keep it until its end.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

impl Streaming {
    async fn run(mut self, first: Event) -> Result<(), Left> {
        self.begin(0).await?;
        let mut event = Ok(first);
        loop {
            match event {
                Ok(Event::Done(Outcome::Reply(reply))) => return self.end(*reply).await,
                Ok(Event::Done(_)) => unreachable!("an answer was asked for"),
                Ok(Event::Token(token)) => self.tokens.0.push(token),
                Ok(Event::Text(text)) => {
                    let text = self.cut.push(&text);
                    if !text.is_empty() {
                        let tokens = self.told_tokens();
                        self.tell_text(0, text, &tokens).await?;
                    }
                }
                Err(error) => {
                    let failure = self.asked.refused(&error);
                    self.asked.line.failed(&failure);
                    return self.tell(&failure.body()).await;
                }
            }
            event = tokio::select! {
                event = self.asked.pending.next() => event,
                () = self.to.closed() => {
                    self.asked.line.left();
                    return Err(Left);
                }
            };
        }
    }

    /// Tells the rest of the answer, and why it ended.
    async fn end(mut self, reply: Reply) -> Result<(), Left> {
        self.asked.line.tokens(&reply);
        self.asked.server.metrics.answered(&self.asked.head, &reply);
        let as_it_came = self.asked.head.options.generate.gives_one();
        let rest = self.cut.finish();
        for (index, answer) in self.asked.head.answers(&reply).enumerate() {
            if index > 0 {
                self.begin(index).await?;
            }
            match as_it_came && index == 0 {
                true => {
                    let kept = self.asked.head.kept(answer);
                    self.tell_text(index, rest.clone(), &kept[self.tokens.1.min(kept.len())..]).await?;
                }
                false => {
                    let text = Cut::whole(&self.asked.head.options.stops, &answer.text);
                    self.tell_text(index, text, self.asked.head.kept(answer)).await?;
                }
            }
            let mut last = self.asked.head.piece(index, json!({}), &[], Some(answer.finish_reason));
            last["timings"] = self.asked.head.timings(&reply);
            self.tell(&last).await?;
        }
        if self.asked.head.options.usage {
            let mut usage = self.asked.head.chunk(Vec::new());
            usage["usage"] = self.asked.head.usage(&reply);
            self.tell(&usage).await?;
        }
        self.send("[DONE]".into()).await
    }

    /// The tokens that are told with a piece: all that came, unless the end of their text is held back.
    fn told_tokens(&mut self) -> Vec<TokenLogprob> {
        if self.cut.holds() {
            return Vec::new();
        }
        let tokens = std::mem::take(&mut self.tokens.0);
        self.tokens.1 += tokens.len();
        tokens
    }

    /// Begins an answer.
    async fn begin(&self, index: usize) -> Result<(), Left> {
        self.tell(&self.asked.head.piece(index, json!({"role": "assistant", "content": ""}), &[], None)).await
    }

    /// Tells a piece of an answer, if there is something of it.
    async fn tell_text(&self, index: usize, text: String, tokens: &[TokenLogprob]) -> Result<(), Left> {
        if text.is_empty() && tokens.is_empty() {
            return Ok(());
        }
        self.tell(&self.asked.head.piece(index, json!({"content": text}), tokens, None)).await
    }

    async fn tell(&self, value: &Value) -> Result<(), Left> {
        self.send(value.to_string()).await
    }

    async fn send(&self, data: String) -> Result<(), Left> {
        let sent = self.to.send(format!("data: {data}\n\n").into()).await;
        sent.map_err(|_| {
            self.asked.line.left();
            Left
        })
    }
}
