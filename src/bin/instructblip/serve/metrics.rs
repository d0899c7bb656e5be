//! The server's numbers, in the words of Prometheus.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use instructblip::Reply;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::chat::Head;
use super::served::Ready;

/// Longest time that a client is told to wait, in seconds.
const LONGEST_WAIT: u64 = 60;

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Answered {
    route: String,
    status: u16,
}

/// The numbers.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    first_token: Histogram,
    answers: Histogram,
    engine: OfEngine,
    /// Microseconds that answers took, and how many there were.
    took: (AtomicU64, AtomicU64),
}

/// Numbers that are the engine's: they are copied when somebody asks.
#[derive(Debug, Default)]
struct OfEngine {
    ready: Gauge,
    slots: Gauge,
    slots_taken: Gauge,
    queue: Gauge,
    gpu_bytes: Gauge,
    tokens: Counter,
    steps: Counter,
    finished: Counter,
    failed: Counter,
    cancelled: Counter,
}

impl Metrics {
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("instructblip");
        let seconds = || Histogram::new(exponential_buckets(0.01, 2.0, 14));
        let (requests, first_token, answers) = (Family::default(), seconds(), seconds());
        registry.register("requests", "Requests by route and status", requests.clone());
        let unit = || Unit::Seconds;
        registry.register_with_unit(
            "first_token",
            "From a question's turn to its first token",
            unit(),
            first_token.clone(),
        );
        registry.register_with_unit(
            "answer",
            "From a question to the end of its answer, waiting included",
            unit(),
            answers.clone(),
        );
        let engine = OfEngine::default();
        registry.register("ready", "The model is loaded", engine.ready.clone());
        registry.register("slots", "Answers that can be made side by side", engine.slots.clone());
        registry.register("slots_taken", "Slots that have an answer", engine.slots_taken.clone());
        registry.register("queue", "Questions that were taken and are not answered", engine.queue.clone());
        registry.register_with_unit(
            "gpu_memory",
            "Memory that the model takes on its GPU",
            Unit::Bytes,
            engine.gpu_bytes.clone(),
        );
        registry.register("tokens", "New tokens of all answers", engine.tokens.clone());
        registry.register("steps", "Steps of the language model", engine.steps.clone());
        registry.register("answers_finished", "Questions that were answered", engine.finished.clone());
        registry.register(
            "answers_failed",
            "Questions that failed, bad pictures and prompts included",
            engine.failed.clone(),
        );
        registry.register("answers_cancelled", "Questions whose clients left", engine.cancelled.clone());
        Metrics { registry, requests, first_token, answers, engine, took: Default::default() }
    }

    /// Counts a request.
    pub fn request(&self, route: &str, status: StatusCode) {
        self.requests.get_or_create(&Answered { route: route.into(), status: status.as_u16() }).inc();
    }

    /// Counts an answer.
    pub fn answered(&self, head: &Head, reply: &Reply) {
        self.first_token.observe(reply.timings.first_token() / 1000.0);
        self.took(head.since.elapsed());
    }

    /// Counts the time of an answer, or of scores or features.
    pub fn took(&self, time: Duration) {
        self.answers.observe(time.as_secs_f64());
        self.took.0.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
        self.took.1.fetch_add(1, Ordering::Relaxed);
    }

    /// Seconds after which there is room again, by how long answers have taken.
    pub fn wait(&self, ready: &Ready) -> u64 {
        let (micros, count) = (self.took.0.load(Ordering::Relaxed), self.took.1.load(Ordering::Relaxed));
        let mean = micros as f64 / 1e6 / count.max(1) as f64;
        let turns = ready.engine.counters().pending as f64 / f64::from(ready.about.slots);
        // Those in front do not go all before the next can come.
        ((mean * turns / 4.0).ceil() as u64).clamp(1, LONGEST_WAIT)
    }

    /// All numbers, as Prometheus reads them.
    pub fn text(&self, ready: Option<&Ready>) -> String {
        let of = &self.engine;
        of.ready.set(i64::from(ready.is_some()));
        if let Some(Ready { engine, about, own, .. }) = ready {
            let now = engine.counters();
            let gauges: [(&Gauge<i64, AtomicI64>, u64); 4] = [
                (&of.slots, about.slots.into()),
                (&of.slots_taken, now.slots_taken),
                (&of.queue, now.pending),
                (&of.gpu_bytes, about.gpu_bytes),
            ];
            for (gauge, value) in gauges {
                gauge.set(value as i64);
            }
            let counters = [
                (&of.tokens, now.tokens - own.tokens),
                (&of.steps, now.steps - own.steps),
                (&of.finished, now.finished - own.finished),
                (&of.failed, now.failed),
                (&of.cancelled, now.cancelled),
            ];
            for (counter, value) in counters {
                counter.inner().store(value, Ordering::Relaxed);
            }
        }
        let mut text = String::new();
        // Only a writer that fails could fail, and a text does not.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
