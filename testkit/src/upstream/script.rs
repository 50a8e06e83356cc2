//! What an upstream is told to do.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;

/// One answer.
#[derive(Clone)]
pub struct Script {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) steps: Vec<Step>,
}

/// One step of an answer. Bytes of each step go out by themselves.
#[derive(Clone)]
pub enum Step {
    /// Sends bytes.
    Bytes(Bytes),
    /// Waits.
    Delay(Duration),
    /// Waits until a gate is open.
    Wait(Gate),
    /// Ends the connection without ending the answer.
    Cut,
    /// Sends nothing more and keeps the connection.
    Silence,
}

/// Holds an answer until the test says so.
#[derive(Clone)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    /// A closed one.
    #[must_use]
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Opens it for good.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until it is open.
    pub async fn wait(&self) {
        // The sender lives in `self`, so this cannot fail.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

/// One event with a completion chunk.
#[must_use]
pub fn chunk(chunk: &Value) -> Bytes {
    format!("data: {chunk}\n\n").into()
}

/// One event with more text.
#[must_use]
pub fn delta(text: &str) -> Bytes {
    choice(&json!({ "content": text }), &Value::Null)
}

fn choice(delta: &Value, finish_reason: &Value) -> Bytes {
    chunk(&json!({
        "id": "chatcmpl-test", "object": "chat.completion.chunk", "created": 1_732_430_000, "model": "model-of-a-test",
        "choices": [{ "index": 0, "delta": delta, "finish_reason": finish_reason }],
    }))
}

const STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

impl Script {
    /// A whole reply, as a good upstream sends it: the role, the parts, the reason, the usage, the end.
    #[must_use]
    pub fn reply(parts: &[&str]) -> Self {
        Self::deltas(parts)
            .finish("stop")
            .usage(310, parts.len())
            .done()
    }

    /// The role and the parts, and nothing after them.
    #[must_use]
    pub fn deltas(parts: &[&str]) -> Self {
        let role = choice(&json!({ "role": "assistant", "content": "" }), &Value::Null);
        let steps = std::iter::once(role).chain(parts.iter().map(|part| delta(part)));
        Self::raw(steps.map(Step::Bytes).collect())
    }

    /// 200 and these steps.
    #[must_use]
    pub fn raw(steps: Vec<Step>) -> Self {
        let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, STREAM)]);
        Self {
            status: StatusCode::OK,
            headers,
            steps,
        }
    }

    /// An error answer.
    ///
    /// # Panics
    /// If the status is none.
    #[must_use]
    pub fn status(status: u16, body: &str) -> Self {
        let mut script = Self::raw(vec![Step::Bytes(body.to_owned().into())]);
        script.status = StatusCode::from_u16(status).expect("a status");
        script.headers.insert(http::header::CONTENT_TYPE, JSON);
        script
    }

    /// Sets a header.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("a header's value");
        self.headers.insert(HeaderName::from_static(name), value);
        self
    }

    /// Leaves a header out.
    #[must_use]
    pub fn without_header(mut self, name: &'static str) -> Self {
        self.headers.remove(name);
        self
    }

    /// Adds a step.
    #[must_use]
    pub fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Adds an event with more text.
    #[must_use]
    pub fn then_delta(self, text: &str) -> Self {
        self.then(Step::Bytes(delta(text)))
    }

    /// Adds a `finish_reason`.
    #[must_use]
    pub fn finish(self, reason: &str) -> Self {
        self.then(Step::Bytes(choice(&json!({}), &json!(reason))))
    }

    /// Adds the usage, with no choices.
    #[must_use]
    pub fn usage(self, prompt_tokens: usize, completion_tokens: usize) -> Self {
        self.then(Step::Bytes(chunk(&json!({
            "id": "chatcmpl-test", "object": "chat.completion.chunk", "choices": [],
            "usage": {
                "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            },
        }))))
    }

    /// Adds `[DONE]`.
    #[must_use]
    pub fn done(self) -> Self {
        self.then(Step::Bytes(Bytes::from_static(b"data: [DONE]\n\n")))
    }

    /// Ends the connection once all that came before is on its way: the server sends what it has when a step has to wait.
    #[must_use]
    pub fn cut(self) -> Self {
        self.then(Step::Delay(Duration::from_millis(1)))
            .then(Step::Cut)
    }

    /// Waits before every step.
    #[must_use]
    pub fn paced(mut self, delay: Duration) -> Self {
        self.steps = self
            .steps
            .into_iter()
            .flat_map(|step| [Step::Delay(delay), step])
            .collect();
        self
    }

    /// Sends every byte by itself, which splits characters too.
    #[must_use]
    pub fn byte_by_byte(mut self) -> Self {
        self.steps = self
            .steps
            .into_iter()
            .flat_map(|step| match step {
                Step::Bytes(bytes) => (0..bytes.len())
                    .map(|at| Step::Bytes(bytes.slice(at..=at)))
                    .collect(),
                other => vec![other],
            })
            .collect();
        self
    }
}
