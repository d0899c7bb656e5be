//! Refusals in the form that OpenAI's clients read. Clients are told what they can act on; what only the owner of the
//! machine may know goes to the log, under the request's id.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use instructblip::Error;
use serde_json::{Value, json};

/// A refusal.
#[derive(Clone, Debug)]
pub struct Failure {
    pub status: StatusCode,
    code: &'static str,
    param: Option<String>,
    message: String,
    /// The seconds after which another try may succeed.
    retry_after: Option<u64>,
    /// Words for the log alone.
    pub detail: Option<String>,
}

/// Seconds to wait where nothing tells how long it takes.
const SOON: u64 = 1;

impl Failure {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Failure {
        Failure { status, code, param: None, message: message.into(), retry_after: None, detail: None }
    }

    /// A request that is not acceptable, and the field at fault.
    pub fn request(param: &str, problem: impl std::fmt::Display) -> Failure {
        let message = format!("{param}: {problem}");
        Failure::new(StatusCode::BAD_REQUEST, "invalid_value", message).about(param)
    }

    /// A field that there is not, or that has no effect here.
    pub fn unsupported(param: &str, problem: impl std::fmt::Display) -> Failure {
        Failure { code: "unsupported_parameter", ..Failure::request(param, problem) }
    }

    /// Nothing can be done now; later it can.
    pub fn later(code: &'static str, message: impl Into<String>, seconds: u64) -> Failure {
        let failure = Failure::new(StatusCode::SERVICE_UNAVAILABLE, code, message);
        Failure { retry_after: Some(seconds.max(SOON)), ..failure }
    }

    /// The field at fault.
    pub fn about(mut self, param: impl Into<String>) -> Failure {
        self.param = Some(param.into());
        self
    }

    /// The failure of a request that is asked of the model; `prompt` is the field that its words came in.
    pub fn of(error: &Error, prompt: &str) -> Failure {
        let bad = |code| Failure::new(StatusCode::BAD_REQUEST, code, error.fault().to_string());
        match error {
            // Pictures have their places as names.
            Error::Image { name, .. } => bad("invalid_image").about(name),
            Error::ImageTooLarge { name, .. } => bad("image_too_large").about(name),
            Error::PromptTooLong { .. } => bad("context_length_exceeded").about(prompt),
            Error::Request { .. } | Error::OverSlots { .. } => bad("invalid_value"),
            Error::DeviceLost { .. } => {
                Failure::later("gpu_lost", "the GPU was lost; the model is being loaded again", 10).with(error)
            }
            Error::Cancelled => Failure::later("stopping", "the server is stopping", SOON),
            Error::OutOfMemory { .. } | Error::DoesNotFit { .. } | Error::OverBudget { .. } => {
                let message = "there is not enough GPU memory for this request now; ask for less, or later";
                Failure::later("out_of_memory", message, 5).with(error)
            }
            _ => Failure::later("failed", "the model has failed; the server's log says how", 10).with(error),
        }
    }

    /// Adds the words of an error for the log.
    fn with(mut self, error: &Error) -> Failure {
        self.detail = Some(error.to_string());
        self
    }

    /// The body, as OpenAI has it.
    pub fn body(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 | 405 => "not_found_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}})
    }

    /// The message alone.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // The log's line of this request has it.
        response.extensions_mut().insert(self);
        response
    }
}
