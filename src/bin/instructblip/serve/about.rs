//! Routes about the server itself: what it runs, whether it is ready, and its numbers.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use instructblip::model::AttentionMaps;
use instructblip::processor::Task;
use serde_json::{Value, json};

use super::Server;
use super::failure::Failure;
use super::served::About;

/// `/v1/models`: the one model.
///
/// # Errors
/// [`Failure`] while it is being loaded.
pub async fn models(State(server): State<Arc<Server>>) -> Result<Json<Value>, Failure> {
    let ready = server.served.ready()?;
    Ok(Json(json!({"object": "list", "data": [model(&ready.about)]})))
}

/// `/v1/models/…`: the same, by its name. Names of hubs have a slash.
///
/// # Errors
/// [`Failure`] for another name, and while it is being loaded.
pub async fn one_model(
    State(server): State<Arc<Server>>,
    axum::extract::Path(name): axum::extract::Path<String>,
) -> Result<Json<Value>, Failure> {
    let ready = server.served.ready()?;
    if name != ready.about.model {
        let problem = format!("this server has one model, {}", ready.about.model);
        return Err(Failure::new(StatusCode::NOT_FOUND, "model_not_found", problem).about("model"));
    }
    Ok(Json(model(&ready.about)))
}

fn model(about: &About) -> Value {
    json!({"id": about.model, "object": "model", "created": about.created, "owned_by": "instructblip"})
}

/// `/health`: 200 once questions are answered, and 503 before and after that.
pub async fn health(State(server): State<Arc<Server>>) -> Response {
    let status = server.served.status();
    let code = if status == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({"status": status}))).into_response()
}

/// `/metrics`: numbers for Prometheus.
pub async fn metrics(State(server): State<Arc<Server>>) -> Response {
    let ready = server.served.ready().ok();
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], server.metrics.text(ready.as_deref())).into_response()
}

/// `/props`: what a page needs to ask well.
///
/// # Errors
/// [`Failure`] while the model is being loaded.
pub async fn props(State(server): State<Arc<Server>>) -> Result<Json<Value>, Failure> {
    let ready = server.served.ready()?;
    let About { model, device, config, slots, max_new_tokens, .. } = &ready.about;
    let task = |(name, task): (&str, Task)| json!({"name": name, "needs_text": task.takes_text(), "prompt": task.prompt("", &[]).unwrap_or_default()});
    let side = config.vision.image_size / config.vision.patch_size;
    Ok(Json(json!({
        "model": model,
        "device": device,
        "version": env!("CARGO_PKG_VERSION"),
        "reads_prompt": config.qformer_reads_text(),
        "frames": config.takes_frames(),
        "tasks": Task::ALL.map(task),
        "attention": {
            "layers": AttentionMaps::layers(config), "heads": config.qformer.num_attention_heads, "queries": config.num_query_tokens,
            "width": side, "height": side,
        },
        "max_new_tokens": max_new_tokens,
        "slots": slots,
        "body_limit_bytes": server.bodies.most_bytes(),
        "api_key": server.rules.want_key(),
    })))
}
