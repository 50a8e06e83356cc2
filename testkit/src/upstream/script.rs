//! Scripts: the response of an upstream, step by step.

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

/// One step of an answer. All earlier steps, and the head, have been sent when a step begins.
#[derive(Clone)]
pub enum Step {
    /// Sends bytes.
    Bytes(Bytes),
    /// Waits.
    Delay(Duration),
    /// Waits until a gate is open.
    Wait(Gate),
    /// Cuts the connection without ending the answer.
    Cut,
    /// Sends nothing more and keeps the connection open.
    Silence,
}

/// Holds an answer back until the test opens it.
#[derive(Clone)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    /// Returns a closed gate.
    #[must_use]
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Opens the gate for good.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until the gate is open.
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

/// Returns one event with a completion chunk.
#[must_use]
pub fn chunk(chunk: &Value) -> Bytes {
    format!("data: {chunk}\n\n").into()
}

/// Returns one event that adds text.
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

/// Returns the chunk that a step sends whole. Returns `None` for the single bytes of `byte_by_byte`.
fn sent_chunk(step: &Step) -> Option<Value> {
    let Step::Bytes(bytes) = step else {
        return None;
    };
    serde_json::from_slice(bytes.strip_prefix(b"data: ")?).ok()
}

/// Returns the text that a step adds.
fn content(step: &Step) -> Option<String> {
    let chunk = sent_chunk(step)?;
    Some(chunk["choices"][0]["delta"]["content"].as_str()?.to_owned())
}

const DONE: &[u8] = b"data: [DONE]\n\n";
const STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

impl Script {
    /// Returns a whole reply as a well-behaved upstream sends it: role, parts, `finish_reason`, usage, `[DONE]`.
    #[must_use]
    pub fn reply(parts: &[&str]) -> Self {
        Self::deltas(parts)
            .finish("stop")
            .usage(310, parts.len())
            .done()
    }

    /// Returns the beginning of a reply: the role and the parts, and nothing after them.
    #[must_use]
    pub fn deltas(parts: &[&str]) -> Self {
        let role = choice(&json!({ "role": "assistant", "content": "" }), &Value::Null);
        let steps = std::iter::once(role).chain(parts.iter().map(|part| delta(part)));
        Self::raw(steps.map(Step::Bytes).collect())
    }

    /// Returns an answer with status 200 and these steps.
    #[must_use]
    pub fn raw(steps: Vec<Step>) -> Self {
        let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, STREAM)]);
        Self {
            status: StatusCode::OK,
            headers,
            steps,
        }
    }

    /// Returns an answer with an error status and this body.
    ///
    /// # Panics
    /// If the number is not a valid status.
    #[must_use]
    pub fn status(status: u16, body: &str) -> Self {
        let mut script = Self::raw(vec![Step::Bytes(body.to_owned().into())]).with_status(status);
        script.headers.insert(http::header::CONTENT_TYPE, JSON);
        script
    }

    /// Sets another status.
    ///
    /// # Panics
    /// If the value is not valid.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = StatusCode::from_u16(status).expect("a status");
        self
    }

    /// Sets a header.
    ///
    /// # Panics
    /// If the value is not valid.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("a header's value");
        self.headers.insert(HeaderName::from_static(name), value);
        self
    }

    /// Removes a header.
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

    /// Adds an event that adds text.
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
        self.then(Step::Bytes(Bytes::from_static(DONE)))
    }

    /// Cuts the connection once all earlier steps have been sent.
    #[must_use]
    pub fn cut(self) -> Self {
        self.then(Step::Cut)
    }

    /// Cuts the connection after the last delta: no `finish_reason`, usage or `[DONE]` is sent.
    #[must_use]
    pub fn then_cut(self) -> Self {
        self.up_to_the_last_delta().cut()
    }

    /// Sends nothing of the body before this delay.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.steps.insert(0, Step::Delay(delay));
        self
    }

    /// Sends nothing after the last delta and keeps the connection open.
    #[must_use]
    pub fn then_silence(self) -> Self {
        self.up_to_the_last_delta().then(Step::Silence)
    }

    /// Waits for a gate after the first delta with text.
    #[must_use]
    pub fn gated(mut self, gate: Gate) -> Self {
        let first = self
            .steps
            .iter()
            .position(|step| content(step).is_some_and(|text| !text.is_empty()));
        let after = first.map_or(self.steps.len(), |first| first + 1);
        self.steps.insert(after, Step::Wait(gate));
        self
    }

    /// Removes the usage.
    #[must_use]
    pub fn without_usage(mut self) -> Self {
        self.steps
            .retain(|step| sent_chunk(step).is_none_or(|chunk| chunk["usage"].is_null()));
        self
    }

    /// Removes `[DONE]`.
    #[must_use]
    pub fn without_done(mut self) -> Self {
        self.steps
            .retain(|step| !matches!(step, Step::Bytes(bytes) if bytes.as_ref() == DONE));
        self
    }

    /// Replaces the `finish_reason`.
    #[must_use]
    pub fn finish_reason(mut self, reason: &str) -> Self {
        for step in &mut self.steps {
            if let Some(mut sent) = sent_chunk(step)
                && !sent["choices"][0]["finish_reason"].is_null()
            {
                sent["choices"][0]["finish_reason"] = json!(reason);
                *step = Step::Bytes(chunk(&sent));
            }
        }
        self
    }

    fn up_to_the_last_delta(mut self) -> Self {
        let deltas = self.steps.iter().rposition(|step| content(step).is_some());
        self.steps.truncate(deltas.map_or(0, |last| last + 1));
        self
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

    /// Sends every byte on its own, so that characters are split too.
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
