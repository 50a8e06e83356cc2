//! A function's response, as a client behind a gateway receives it.

use std::borrow::Cow;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

/// One chunk of a streamed body, as it arrived.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// The bytes of the chunk.
    pub bytes: Bytes,
    /// When the chunk arrived.
    pub at: Instant,
}

/// One server-sent event.
#[derive(Debug, Clone)]
pub struct SseEvent {
    /// The id of the event, from its `id:` line; empty for a part of a UI message stream, which has only data.
    pub id: String,
    /// The name of the event, from its `event:` line; empty for a part of a UI message stream.
    pub event: String,
    /// The data of the event, parsed from its `data:` line. That of the last line of a UI message stream is `"[DONE]"`.
    pub data: Value,
    /// When the last byte of the event arrived.
    pub at: Instant,
}

/// The members of a problem document (RFC 9457) that differ between problems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The machine-readable reason, such as `memory_unavailable`.
    pub code: Cow<'static, str>,
    /// The reason in words.
    pub detail: Cow<'static, str>,
}

impl Problem {
    /// Returns the problem with these members.
    #[must_use]
    pub const fn new(status: u16, code: &'static str, detail: &'static str) -> Self {
        Self {
            status,
            code: Cow::Borrowed(code),
            detail: Cow::Borrowed(detail),
        }
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The invocation's request id.
    pub request_id: String,
    /// The HTTP status.
    pub status: u16,
    /// The response headers.
    pub headers: HeaderMap,
    /// The body as the chunks in which it arrived; a single one for a buffered answer.
    pub chunks: Vec<Chunk>,
    /// The error that the function reported instead of an answer.
    pub error: Option<Value>,
    /// Whether the function's connection broke before the body ended.
    pub truncated: bool,
    /// Whether the function streamed the body.
    pub streamed: bool,
    /// When the event was handed to the function.
    pub handed_over: Instant,
    /// When the body ended.
    pub ended: Instant,
}

impl Answer {
    /// Returns the whole body.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        self.chunks
            .iter()
            .flat_map(|chunk| chunk.bytes.iter().copied())
            .collect()
    }

    /// Returns the whole body as text.
    ///
    /// # Panics
    /// If the body is not UTF-8.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8(self.body()).expect("the body is UTF-8")
    }

    /// Returns the whole body as JSON.
    ///
    /// # Panics
    /// If the body is not valid JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
    }

    /// Returns the value of a header, if it is present and text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Returns the problem that this answer is, and checks what all problems have in common: the media type, the
    /// members of the document, the title, and the headers that clients expect with some statuses.
    ///
    /// # Panics
    /// If this is not a problem document, or not a complete one.
    #[must_use]
    #[track_caller]
    pub fn problem(&self) -> Problem {
        let text = self.text();
        let media_type = self.header("content-type");
        assert_eq!(media_type, Some("application/problem+json"), "{text}");
        let document = self.json();
        let text_of = |member: &str| document[member].as_str().unwrap_or_default().to_owned();
        let problem = Problem {
            status: self.status,
            code: text_of("code").into(),
            detail: text_of("detail").into(),
        };
        let status = StatusCode::from_u16(self.status).expect("a status");
        assert_eq!(
            document,
            json!({
                "type": "about:blank",
                "title": status.canonical_reason().unwrap_or_default(),
                "status": self.status,
                "detail": problem.detail,
                "code": problem.code,
            })
        );
        let companion = match self.status {
            401 => Some("www-authenticate"),
            405 => Some("allow"),
            503 => Some("retry-after"),
            _ => None,
        };
        if let Some(name) = companion {
            assert!(self.header(name).is_some(), "a {status} without {name}");
        }
        problem
    }

    /// Asserts that this answer is a problem with this status and code.
    ///
    /// # Panics
    /// If it is not; see [`Answer::problem`].
    #[track_caller]
    pub fn assert_problem(&self, status: u16, code: &str) {
        let problem = self.problem();
        assert_eq!((problem.status, &*problem.code), (status, code));
    }

    /// Returns the events of the stream, without comments.
    ///
    /// # Panics
    /// If the stream contains anything but well-formed events and comments.
    #[must_use]
    pub fn events(&self) -> Vec<SseEvent> {
        let mut parser = EventParser::default();
        self.chunks
            .iter()
            .flat_map(|chunk| parser.push(chunk))
            .collect()
    }

    /// Returns the number of comment lines in the stream.
    #[must_use]
    pub fn comments(&self) -> usize {
        self.text()
            .lines()
            .filter(|line| line.starts_with(':'))
            .count()
    }

    /// Returns the data of the first event, which must be `start`.
    ///
    /// # Panics
    /// If there is no event, or the first is another.
    #[must_use]
    pub fn start(&self) -> Value {
        let events = self.events();
        let first = events
            .first()
            .unwrap_or_else(|| panic!("no events: {self:?}"));
        assert_eq!(first.event, "start", "{self:?}");
        first.data.clone()
    }

    /// Returns the data of the last event.
    ///
    /// # Panics
    /// If the stream has no events.
    #[must_use]
    pub fn last(&self) -> Value {
        self.events()
            .pop()
            .unwrap_or_else(|| panic!("no events: {self:?}"))
            .data
    }

    /// Returns the text of the reply, joined from all `message` events.
    ///
    /// # Panics
    /// If a `message` event has no `content`.
    #[must_use]
    pub fn reply(&self) -> String {
        let deltas = self
            .events()
            .into_iter()
            .filter(|event| event.event == "message");
        deltas
            .map(|event| event.data["content"].as_str().expect("text").to_owned())
            .collect()
    }
}

/// Joins chunks into events. Strict: the product's frames have one exact form, so anything else is a failure.
#[derive(Default)]
pub(crate) struct EventParser {
    text: Vec<u8>,
}

impl EventParser {
    pub(crate) fn push(&mut self, chunk: &Chunk) -> Vec<SseEvent> {
        self.text.extend_from_slice(&chunk.bytes);
        let mut events = Vec::new();
        while let Some(end) = self.text.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = self.text.drain(..end + 2).collect();
            let block = String::from_utf8(block).expect("the stream is UTF-8");
            if block.starts_with(':') {
                continue;
            }
            let (id, event, data) = fields(block.trim_end_matches('\n'))
                .unwrap_or_else(|| panic!("not an event: {block:?}"));
            events.push(SseEvent {
                id: id.to_owned(),
                event: event.to_owned(),
                data: match data {
                    "[DONE]" => data.into(),
                    data => serde_json::from_str(data)
                        .unwrap_or_else(|error| panic!("{error} in {data:?}")),
                },
                at: chunk.at,
            });
        }
        events
    }
}

/// Returns the id, the name and the data of an event. A part of a UI message stream has only data.
fn fields(block: &str) -> Option<(&str, &str, &str)> {
    if let Some(data) = block.strip_prefix("data: ") {
        return Some(("", "", data));
    }
    let (id, rest) = block.strip_prefix("id: ")?.split_once("\nevent: ")?;
    let (event, data) = rest.split_once("\ndata: ")?;
    Some((id, event, data))
}

/// The head of an answer, in the prelude of a stream or in the JSON of a buffered answer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Head {
    pub(crate) status_code: u16,
    #[serde(default)]
    headers: serde_json::Map<String, Value>,
    #[serde(default)]
    multi_value_headers: serde_json::Map<String, Value>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
}

impl Head {
    pub(crate) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in self.multi_value_headers.iter().chain(&self.headers) {
            let values = match value {
                Value::Array(values) => values.clone(),
                value => vec![value.clone()],
            };
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a header's name");
            headers.remove(&name);
            for value in values {
                let value =
                    HeaderValue::from_str(value.as_str().expect("text")).expect("a header's value");
                headers.append(name.clone(), value);
            }
        }
        headers
    }

    pub(crate) fn is_event_stream(&self) -> bool {
        self.headers()
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"))
    }

    pub(crate) fn body(&self) -> Bytes {
        let body = self.body.clone().unwrap_or_default();
        if self.is_base64_encoded {
            STANDARD.decode(body).expect("base64").into()
        } else {
            body.into()
        }
    }
}
