//! Routes of this server's own about one picture: how likely answers are, what the model makes of the picture, and where it
//! looks.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use instructblip::engine::{self, Event, Outcome, Picture};
use instructblip::model::{AttentionMaps, Features, NamedTensor, Score, Values};
use instructblip::{GenerateOptions, Image};
use serde_json::{Value, json};

use super::Server;
use super::failure::Failure;
use super::fields::{Fields, task, worded};
use super::served::{About, Ready};

/// The refusal of words for a Q-Former that reads none.
const UNREAD: &str = "changes nothing: this model's Q-Former reads no text";

/// Most pictures to embed of one request.
const MOST_INPUTS: usize = 64;

/// `/v1/score`: how likely each of some answers is, best first.
///
/// # Errors
/// [`Failure`] for what cannot be scored.
pub async fn score(State(server): State<Arc<Server>>, request: Request) -> Result<Json<Value>, Failure> {
    let ready = server.served.ready()?;
    let mut body = server.bodies.read(request).await?;
    let mut fields = body.fields()?;
    fields.ignore(&["model", "user"]);
    let choices = fields.texts("choices", false)?;
    if choices.is_empty() {
        return Err(fields.refused("choices", "must have the answers to score"));
    }
    let asked = question(&server, &ready, &mut fields, &choices).await?;
    fields.end()?;
    let asked = engine::Request { choices: choices.clone(), ..asked };
    let Outcome::Scores(scores) = ask(&server, &ready, asked).await? else {
        unreachable!("scores were asked for");
    };
    let mut ranked: Vec<_> = choices.iter().zip(&scores).zip(Score::shares(&scores)).enumerate().collect();
    ranked.sort_by(|(_, ((_, a), _)), (_, ((_, b), _))| b.mean.total_cmp(&a.mean));
    let row = |(index, ((choice, score), share)): (usize, ((&String, &Score), f64))| {
        json!({
            "object": "score", "index": index, "choice": choice, "log_probability": score.mean,
            "sum_log_probability": score.sum, "probability": share, "tokens": score.token_ids.len(),
        })
    };
    let data: Vec<Value> = ranked.into_iter().map(row).collect();
    Ok(Json(json!({"object": "list", "model": ready.about.model, "data": data})))
}

/// `/v1/embeddings`: the features of pictures.
///
/// # Errors
/// [`Failure`] for what is no picture.
pub async fn embeddings(State(server): State<Arc<Server>>, request: Request) -> Result<Json<Value>, Failure> {
    let ready = server.served.ready()?;
    let mut body = server.bodies.read(request).await?;
    let mut fields = body.fields()?;
    fields.ignore(&["model", "user"]);
    let inputs = match fields.take("input") {
        None => return Err(fields.refused("input", "is missing: a picture as a data URL, or a list of them")),
        Some(Value::Array(inputs)) => inputs,
        Some(input) => vec![input],
    };
    if inputs.is_empty() || inputs.len() > MOST_INPUTS {
        return Err(fields.refused("input", &format!("must have from 1 to {MOST_INPUTS} pictures")));
    }
    let kind = fields.text("features")?.unwrap_or_else(|| "image".into());
    if !["image", "queries", "projected"].contains(&kind.as_str()) {
        return Err(fields.refused("features", "must be image, queries or projected"));
    }
    let packed = match fields.text("encoding_format")?.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(fields.refused("encoding_format", "must be float or base64")),
    };
    if fields.take("dimensions").is_some() {
        return Err(Failure::unsupported("dimensions", "features have the model's width"));
    }
    let prompt = fields.text("prompt")?.unwrap_or_default();
    if !prompt.is_empty() && !ready.about.config.qformer_reads_text() {
        return Err(fields.refused("prompt", UNREAD));
    }
    fields.end()?;
    let mut pictures = Vec::new();
    for (i, input) in inputs.into_iter().enumerate() {
        pictures.push(server.pictures.read(input, &format!("input[{i}]")).await?);
    }
    let mut data = Vec::new();
    for (index, picture) in pictures.into_iter().enumerate() {
        let features = features(&server, &ready, picture, &prompt, Vec::new()).await?;
        let tensor = match kind.as_str() {
            "image" => features.image,
            "queries" => features.queries,
            _ => features.projected,
        };
        let embedding = numbers(&tensor, packed);
        data.push(json!({"object": "embedding", "index": index, "embedding": embedding, "shape": tensor.shape[1..]}));
    }
    let usage = json!({"prompt_tokens": 0, "total_tokens": 0});
    Ok(Json(json!({"object": "list", "model": ready.about.model, "data": data, "usage": usage})))
}

/// The elements of a tensor: as numbers, or the bytes of little-endian f32 in base64, as OpenAI's clients ask for.
fn numbers(tensor: &NamedTensor, packed: bool) -> Value {
    let Values::F32(values) = &tensor.values else { return Value::Null };
    match packed {
        true => BASE64_STANDARD.encode(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()).into(),
        false => json!(values),
    }
}

/// `/v1/attention`: where the Q-Former looks for a prompt.
///
/// # Errors
/// [`Failure`] for a layer, head or query that there is not, and what is no picture.
pub async fn attention(State(server): State<Arc<Server>>, request: Request) -> Result<Response, Failure> {
    let ready = server.served.ready()?;
    let config = &ready.about.config;
    let mut body = server.bodies.read(request).await?;
    let mut fields = body.fields()?;
    fields.ignore(&["model", "user"]);
    let layers = AttentionMaps::layers(config);
    let layer = fields.whole("layer", 0, u64::MAX)?.map(|layer| layer as usize);
    if layer.is_some_and(|layer| !layers.contains(&layer)) {
        return Err(fields.refused("layer", &format!("must be one that looks at the picture: {layers:?}")));
    }
    let below = |count: u32| u64::from(count.saturating_sub(1));
    let head = fields.whole("head", 0, below(config.qformer.num_attention_heads))?.map(|head| head as usize);
    let query = fields.whole("query", 0, below(config.num_query_tokens))?.map(|query| query as usize);
    let drawn = match fields.text("format")?.as_deref() {
        None | Some("array") => false,
        Some("png") => true,
        Some(_) => return Err(fields.refused("format", "must be array or png")),
    };
    let choices = fields.texts("choices", false)?;
    let asked = question(&server, &ready, &mut fields, &choices).await?;
    fields.end()?;
    let (picture, words) = (asked.pictures[0].clone(), asked.qformer_prompt.unwrap_or(asked.prompt));
    let found = features(&server, &ready, picture.clone(), &words, AttentionMaps::taps(config)).await?;
    let maps = AttentionMaps::of(config, &found).map_err(|error| Failure::of(&error, "prompt"))?;
    let weights = maps.mean(layer, head, query);
    if drawn {
        let limits = server.images;
        let png = tokio::task::spawn_blocking(move || overlay(&picture, &limits, &weights, maps.patches)).await;
        let png = png.unwrap_or(Err(instructblip::Error::Cancelled)).map_err(|error| Failure::of(&error, "prompt"))?;
        return Ok(([(header::CONTENT_TYPE, "image/png")], png).into_response());
    }
    Ok(Json(json!({
        "object": "attention", "model": ready.about.model, "width": maps.patches, "height": maps.patches,
        "weights": weights,
    }))
    .into_response())
}

fn overlay(
    picture: &Picture,
    limits: &instructblip::processor::ImageOptions,
    weights: &[f32],
    patches: usize,
) -> instructblip::Result<Vec<u8>> {
    let Picture::Bytes { name, bytes } = picture else { unreachable!("pictures of requests are bytes") };
    Image::decode_with(name, bytes, limits)?.overlaid(weights, patches)?.to_png()
}

/// The picture and the words of a request: `image`, `prompt`, `qformer_prompt`, and a `task` that words the prompt, with
/// these choices.
async fn question(
    server: &Server,
    ready: &Ready,
    fields: &mut Fields,
    choices: &[String],
) -> Result<engine::Request, Failure> {
    let image = fields.take("image").ok_or_else(|| fields.refused("image", "is missing: a data URL"))?;
    let text = fields.text("prompt")?.unwrap_or_default();
    let qformer_prompt = qformer_prompt(fields, &ready.about)?;
    let prompt = match task(fields)? {
        Some(task) => worded(task, &text, choices, "prompt")?,
        None => text,
    };
    if ready.about.config.takes_frames() {
        return Err(Failure::request("image", "this model is asked about videos, and has no answer to this"));
    }
    let picture = server.pictures.read(image, "image").await?;
    Ok(engine::Request { qformer_prompt, ..engine::Request::new(picture, prompt, GenerateOptions::default()) })
}

/// Takes the text that the Q-Former reads instead of the prompt.
///
/// # Errors
/// [`Failure`] where it reads none.
pub fn qformer_prompt(fields: &mut Fields, about: &About) -> Result<Option<String>, Failure> {
    let text = fields.text("qformer_prompt")?;
    match text.is_some() && !about.config.qformer_reads_text() {
        true => Err(fields.refused("qformer_prompt", UNREAD)),
        false => Ok(text),
    }
}

/// The features of a picture that is read with these words.
async fn features(
    server: &Server,
    ready: &Arc<Ready>,
    picture: Picture,
    words: &str,
    taps: Vec<String>,
) -> Result<Features, Failure> {
    let asked = engine::Request::new(picture, words, GenerateOptions::default());
    match ask(server, ready, engine::Request { features: Some(taps), ..asked }).await? {
        Outcome::Features(features) => Ok(*features),
        Outcome::Reply(_) | Outcome::Scores(_) => unreachable!("features were asked for"),
    }
}

/// Asks the engine, and waits for the result.
async fn ask(server: &Server, ready: &Arc<Ready>, asked: engine::Request) -> Result<Outcome, Failure> {
    let since = Instant::now();
    let mut pending = ready.ask(asked, server.metrics.wait(ready))?;
    loop {
        match pending.next().await {
            Ok(Event::Done(outcome)) => {
                server.metrics.took(since.elapsed());
                return Ok(outcome);
            }
            Ok(_) => {}
            Err(error) => return Err(server.refused(ready, &error, "prompt")),
        }
    }
}
