//! A conversation as the one prompt that the model reads.
//!
//! InstructBLIP answers one instruction about one picture. So:
//!
//! - The picture is the only one of the conversation, in whichever of the user's messages it stands; a model for videos
//!   takes its frames, all in one message.
//! - Texts of a message are lines of one text.
//! - One message of the user is the prompt as it is. Earlier turns come before it as the models were taught dialogues:
//!   `Question: … Answer: ….` for each, and the last question the same way, with its answer left open.
//! - Texts of the system come first, a line each.
//!
//! Whatever cannot be told so is refused: a model that has not seen a message should not seem to answer it.

use axum::http::StatusCode;
use serde_json::Value;

use crate::serve::failure::Failure;
use crate::serve::fields::Fields;

/// Most messages.
const MOST_MESSAGES: usize = 256;

/// Most bytes of all texts: far more than any context holds, and few enough to make tokens of.
const MOST_TEXT: usize = 64 * 1024;

/// The question that the model is asked.
#[derive(Debug, Default)]
pub struct Conversation {
    /// The text that the model reads; nothing if there is none.
    pub prompt: String,
    /// The pictures, and their places in the request.
    pub pictures: Vec<(Value, String)>,
    /// Several turns were joined, so that the prompt is worded already.
    pub turns: bool,
}

/// A message's text, and its pictures with their places.
struct Message {
    text: String,
    pictures: Vec<(Value, String)>,
}

/// A question with its answer.
struct Turn {
    question: String,
    answer: String,
}

impl Conversation {
    /// Reads the messages of a request.
    ///
    /// # Errors
    /// [`Failure`] naming the message that cannot be told to the model.
    pub fn read(messages: Vec<Value>) -> Result<Conversation, Failure> {
        if messages.is_empty() || messages.len() > MOST_MESSAGES {
            let problem = format!("must have from 1 to {MOST_MESSAGES} messages; there are {}", messages.len());
            return Err(Failure::request("messages", problem));
        }
        let (mut system, mut turns, mut open) = (Vec::new(), Vec::new(), None::<Message>);
        let mut pictures = Vec::new();
        for (i, value) in messages.into_iter().enumerate() {
            let place = format!("messages[{i}]");
            let mut fields = Fields::of(value, &place)?;
            let role = fields.text("role")?.ok_or_else(|| fields.refused("role", "is missing"))?;
            let message = read_message(&mut fields, &role)?;
            match (role.as_str(), open.take()) {
                ("system" | "developer", None) if turns.is_empty() => system.push(message.text),
                ("system" | "developer", _) => {
                    return Err(fields.refused("role", "must come before the messages of the user"));
                }
                ("user", None) => open = Some(message),
                ("user", Some(before)) if before.text.is_empty() || message.text.is_empty() => {
                    // A picture in one message and the question about it in the next.
                    let text = before.text + &message.text;
                    open = Some(Message { text, pictures: [before.pictures, message.pictures].concat() });
                }
                ("user", Some(_)) => {
                    let problem = "follows another question that has no answer; ask one at a time";
                    return Err(fields.refused("role", problem));
                }
                ("assistant", Some(_)) if message.text.is_empty() => {
                    return Err(fields.refused("content", "is empty: an answer that was given has words"));
                }
                ("assistant", Some(Message { text, pictures: of_turn })) => {
                    pictures.extend(of_turn);
                    turns.push(Turn { question: text, answer: message.text });
                }
                ("assistant", None) => {
                    return Err(
                        fields.refused("role", "must follow a message of the user; use \"prefix\" to begin an answer")
                    );
                }
                _ => return Err(fields.refused("role", "must be system, user or assistant; there are no tools")),
            }
        }
        let Some(last) = open else {
            return Err(Failure::request("messages", "must end with a message of the user"));
        };
        pictures.extend(last.pictures);
        // Some clients send the picture with every turn.
        let mut seen: Vec<(Value, String)> = Vec::new();
        for (picture, place) in pictures {
            if !seen.iter().any(|(known, _)| *known == picture) {
                seen.push((picture, place));
            }
        }
        let prompt = prompt(&system, &turns, &last.text);
        match prompt.len() > MOST_TEXT {
            true => Err(too_long("messages", prompt.len())),
            false => Ok(Conversation { prompt, pictures: seen, turns: !turns.is_empty() }),
        }
    }
}

fn too_long(place: &str, bytes: usize) -> Failure {
    let problem = format!("{place}: has {bytes} bytes of text; the limit is {MOST_TEXT}");
    Failure::new(StatusCode::BAD_REQUEST, "context_length_exceeded", problem).about(place)
}

/// The prompt, as the models were taught dialogues where there is one.
fn prompt(system: &[String], turns: &[Turn], last: &str) -> String {
    let mut prompt: String = system.iter().filter(|text| !text.is_empty()).map(|text| format!("{text}\n")).collect();
    for Turn { question, answer } in turns {
        let end = if answer.ends_with(['.', '!', '?']) { "" } else { "." };
        prompt += &format!("Question: {question} Answer: {answer}{end} ");
    }
    match turns.is_empty() {
        true => prompt + last,
        false => prompt + &format!("Question: {last} Answer:"),
    }
}

/// Reads a message: a text, or parts that are texts and pictures.
fn read_message(fields: &mut Fields, role: &str) -> Result<Message, Failure> {
    let name = fields.name("content");
    // Names of speakers, and what an answer of a hosted model has besides its text, say nothing to this model.
    fields.ignore(&["name", "refusal", "annotations", "audio", "reasoning_content"]);
    for calls in ["tool_calls", "function_call"] {
        if fields.take(calls).is_some_and(|calls| calls.as_array().is_none_or(|calls| !calls.is_empty())) {
            return Err(Failure::unsupported(&fields.name(calls), "there are no tools here"));
        }
    }
    let parts = match fields.take("content") {
        None if role == "assistant" => Vec::new(),
        None => return Err(Failure::request(&name, "is missing")),
        Some(Value::String(text)) if text.len() > MOST_TEXT => return Err(too_long(&name, text.len())),
        Some(Value::String(text)) => return Ok(Message { text: text.trim().into(), pictures: Vec::new() }),
        Some(Value::Array(parts)) => parts,
        Some(_) => return Err(Failure::request(&name, "must be a text or a list of parts")),
    };
    let (mut texts, mut pictures) = (Vec::new(), Vec::new());
    for (i, part) in parts.into_iter().enumerate() {
        let mut part = Fields::of(part, &format!("{name}[{i}]"))?;
        let kind = part.text("type")?.ok_or_else(|| part.refused("type", "is missing"))?;
        match kind.as_str() {
            "text" | "input_text" => texts.push(part.text("text")?.ok_or_else(|| part.refused("text", "is missing"))?),
            "refusal" if role == "assistant" => texts.extend(part.text("refusal")?),
            "image_url" | "input_image" if role == "user" => {
                let picture = part.take("image_url").ok_or_else(|| part.refused("image_url", "is missing"))?;
                pictures.push((picture, part.name("image_url")));
            }
            "image_url" | "input_image" => {
                return Err(part.refused("type", "is a picture, which only a message of the user may have"));
            }
            _ => return Err(part.refused("type", "must be text or image_url")),
        }
    }
    Ok(Message { text: texts.join("\n").trim().into(), pictures })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(messages: Value) -> Result<Conversation, Failure> {
        Conversation::read(messages.as_array().expect("a list").clone())
    }

    #[test]
    fn conversations_become_one_prompt() {
        let picture = json!({"type": "image_url", "image_url": {"url": "data:,"}});
        let parts = json!([{"type": "text", "text": "What is this?"}, picture, {"type": "text", "text": "Be short."}]);
        let one = read(json!([{"role": "user", "content": parts}])).expect("one question");
        assert_eq!((one.prompt.as_str(), one.turns), ("What is this?\nBe short.", false));
        assert_eq!(one.pictures[0].1, "messages[0].content[1].image_url");

        let system = json!({"role": "system", "content": "You see well."});
        let apart = read(json!([system, {"role": "user", "content": [picture]}, {"role": "user", "content": "What?"}]));
        assert_eq!(apart.expect("a picture and a question").prompt, "You see well.\nWhat?");

        let turns = read(json!([
            {"role": "user", "content": parts}, {"role": "assistant", "content": "A cat"},
            {"role": "user", "content": "Colour?"}, {"role": "assistant", "content": "It is red."},
            {"role": "user", "content": "Sure?"},
        ]));
        let turns = turns.expect("a dialogue");
        let prompt = "Question: What is this?\nBe short. Answer: A cat. Question: Colour? Answer: It is red. Question: Sure? Answer:";
        assert_eq!((turns.prompt.as_str(), turns.turns, turns.pictures.len()), (prompt, true, 1));

        let again = json!([{"type": "text", "text": "Colour?"}, picture]);
        let repeated = read(json!([
            {"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No!"}]},
            {"role": "user", "content": again},
        ]));
        let repeated = repeated.expect("a picture that is sent again");
        assert!(repeated.prompt.contains("Answer: No! Question: Colour? Answer:"), "{}", repeated.prompt);
        assert_eq!(repeated.pictures.len(), 1);
    }

    #[test]
    fn what_cannot_be_told_is_refused_by_name() {
        let user = |text: &str| json!({"role": "user", "content": text});
        let assistant = json!({"role": "assistant", "content": "x"});
        let picture = json!({"type": "image_url", "image_url": {"url": "data:,"}});
        for (messages, name) in [
            (json!([]), "messages"),
            (json!([user("a"), user("b")]), "messages[1].role"),
            (json!([assistant]), "messages[0].role"),
            (json!([user("a"), assistant]), "messages"),
            (json!([user("a"), {"role": "system", "content": "b"}]), "messages[1].role"),
            (json!([{"role": "tool", "content": "b"}]), "messages[0].role"),
            (json!([{"role": "user"}]), "messages[0].content"),
            (json!([user("a"), {"role": "assistant", "content": null}, user("b")]), "messages[1].content"),
            (json!([{"content": "b"}]), "messages[0].role"),
            (json!([{"role": "user", "content": 3}]), "messages[0].content"),
            (json!([3]), "messages[0]"),
            (json!([{"role": "user", "content": [{"type": "input_audio"}]}]), "messages[0].content[0].type"),
            (json!([{"role": "user", "content": [{"type": "image_url"}]}]), "messages[0].content[0].image_url"),
            (json!([{"role": "system", "content": [picture]}]), "messages[0].content[0].type"),
            (json!([user("a"), {"role": "assistant", "content": "", "tool_calls": [{}]}]), "messages[1].tool_calls"),
        ] {
            let failure = read(messages.clone()).expect_err(name);
            assert_eq!(failure.body()["error"]["param"], name, "{messages}");
        }
    }
}
