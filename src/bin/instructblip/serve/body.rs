//! The bodies of requests: each is bounded, and so are all together and the time that one may take.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{StatusCode, header};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::failure::Failure;
use super::fields::{self, Fields};

/// Bodies of the largest size that are in memory at once. A body's texts are there twice while it is read.
const AT_ONCE: usize = 16;

/// Bytes that memory is counted in.
const UNIT: usize = 1024;

/// The bounds of bodies.
#[derive(Debug)]
pub struct Bodies {
    most_bytes: usize,
    most_time: Duration,
    room: Arc<Semaphore>,
}

/// A body, and the room that it takes.
#[derive(Debug)]
pub struct Bounded {
    bytes: Vec<u8>,
    _room: Option<OwnedSemaphorePermit>,
}

impl Bounded {
    /// The fields of the body, whose bytes go with that.
    ///
    /// # Errors
    /// As [`fields::parse`].
    pub fn fields(&mut self) -> Result<Fields, Failure> {
        fields::parse(&std::mem::take(&mut self.bytes))
    }
}

impl Bodies {
    /// Bodies of so many bytes at most, that come within this time.
    pub fn new(most_bytes: usize, most_time: Duration) -> Bodies {
        let units = (AT_ONCE * most_bytes).div_ceil(UNIT).min(Semaphore::MAX_PERMITS);
        Bodies { most_bytes, most_time, room: Arc::new(Semaphore::new(units)) }
    }

    /// Most bytes of a body.
    pub fn most_bytes(&self) -> usize {
        self.most_bytes
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`Failure`] for one that is too large, too slow, cut or compressed, or for which there is no room now.
    pub async fn read(&self, request: Request) -> Result<Bounded, Failure> {
        let headers = request.headers();
        if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            let problem = "compressed bodies are not read; send it as it is";
            return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", problem));
        }
        let told = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if told.is_some_and(|length| length > self.most_bytes as u64) {
            return Err(self.too_large());
        }
        match tokio::time::timeout(self.most_time, self.collect(request)).await {
            Ok(body) => body,
            Err(_) => {
                let problem = format!("the body did not come within {} s", self.most_time.as_secs());
                Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "timeout", problem))
            }
        }
    }

    /// Gathers a body; room is taken as bytes come, so that a promise of many takes none.
    async fn collect(&self, request: Request) -> Result<Bounded, Failure> {
        let mut body = request.into_body();
        let (mut bytes, mut room) = (Vec::new(), None::<OwnedSemaphorePermit>);
        while let Some(frame) = body.frame().await {
            let cut = |_| Failure::new(StatusCode::BAD_REQUEST, "invalid_body", "the body ends early");
            let Ok(data) = frame.map_err(cut)?.into_data() else { continue };
            if bytes.len() + data.len() > self.most_bytes {
                return Err(self.too_large());
            }
            let units = (bytes.len() + data.len()).div_ceil(UNIT) - bytes.len().div_ceil(UNIT);
            let more = self
                .room
                .clone()
                .try_acquire_many_owned(units as u32)
                .map_err(|_| Failure::later("overloaded", "too many large requests are being read already", 2))?;
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Bounded { bytes, _room: room })
    }

    fn too_large(&self) -> Failure {
        let problem =
            format!("the body has more than {} bytes; send a smaller picture (--body-limit)", self.most_bytes);
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", problem)
    }
}
