//! Log-probabilities of an answer's tokens, as OpenAI's clients read them.

use instructblip::generate::TokenLogprob;
use instructblip::processor::Tokenizers;
use serde_json::{Value, json};

/// The tokens with the likeliest others. Tokens that stand for no text, such as the end's, are left out, as there.
pub fn told(tokenizers: &Tokenizers, tokens: &[TokenLogprob]) -> Value {
    let token = |id: u32, logprob: f32| {
        let bytes = tokenizers.token_bytes(id);
        // JSON has no number for what cannot be.
        let logprob = logprob.max(f32::MIN);
        json!({"token": String::from_utf8_lossy(&bytes), "logprob": logprob, "bytes": bytes})
    };
    let content = tokens.iter().filter(|of| !tokenizers.token_bytes(of.token_id).is_empty()).map(|of| {
        let mut object = token(of.token_id, of.logprob);
        object["top_logprobs"] = of.top.iter().map(|(id, logprob)| token(*id, *logprob)).collect();
        object
    });
    json!({"content": content.collect::<Vec<Value>>(), "refusal": null})
}

/// The number of tokens that begin before the answer is cut at one of these texts.
pub fn kept(tokenizers: &Tokenizers, tokens: &[TokenLogprob], stops: &[String]) -> usize {
    let mut starts = Vec::new();
    let mut joined = Vec::new();
    for token in tokens {
        starts.push(joined.len());
        joined.extend(tokenizers.token_bytes(token.token_id));
    }
    // The text has no space at its beginning, whatever its first token has.
    let space = joined.len() - joined.trim_ascii_start().len();
    let found = |stop: &String| {
        let at = joined[space..].windows(stop.len()).position(|bytes| bytes == stop.as_bytes());
        at.map(|at| at + space)
    };
    match stops.iter().filter_map(found).min() {
        Some(end) => starts.partition_point(|start| *start < end),
        None => tokens.len(),
    }
}
