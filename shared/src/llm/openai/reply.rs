//! A reply as it comes: what is shown, how it ends, and when it is given up.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, timeout, timeout_at};

use super::error_code;
use crate::llm::sse::Parser;
use crate::llm::{Cause, Error, FinishReason, Step, Usage};

/// A reply is complete with its `finish_reason`. What may still come is the usage, and it is not waited for any longer.
const USAGE_GRACE: Duration = Duration::from_secs(2);
/// How long the end of an answer may take after its `[DONE]` for its connection to be kept.
const LAST_BYTES_TIMEOUT: Duration = Duration::from_secs(1);

/// A reply as it comes.
pub struct Reply {
    /// `None` after `[DONE]`.
    body: Option<Incoming>,
    parser: Parser,
    idle_timeout: Duration,
    /// When the next sign of life is due.
    deadline: Instant,
    /// A token has come, shown or not.
    alive: bool,
    /// Text has come that the user was shown.
    shown: bool,
    /// Reasoning has come.
    thought_seen: bool,
    finish_reason: Option<FinishReason>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Option<UsageForm>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u32,
    #[serde(default)]
    delta: Option<Delta>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
    /// What the model thinks before it speaks: neither shown nor stored, but a sign of life.
    #[serde(default)]
    reasoning_content: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct UsageForm {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Deserialize)]
struct CompletionDetails {
    #[serde(default)]
    reasoning_tokens: Option<u64>,
}

impl Reply {
    pub(super) fn new(
        body: Incoming,
        first_token_deadline: Instant,
        idle_timeout: Duration,
    ) -> Self {
        Self {
            body: Some(body),
            parser: Parser::default(),
            idle_timeout,
            deadline: first_token_deadline,
            alive: false,
            shown: false,
            thought_seen: false,
            finish_reason: None,
            usage: None,
        }
    }

    pub(in crate::llm) async fn next(&mut self) -> Result<Step, Error> {
        loop {
            while let Some(data) = self
                .parser
                .next_event()
                .map_err(|_| self.broken(Cause::LineTooLong))?
            {
                if let Some(event) = self.take(&data)? {
                    return Ok(event);
                }
            }
            let Some(body) = &mut self.body else {
                return Ok(self.end());
            };
            match timeout_at(self.deadline, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Some(bytes) = frame.data_ref() {
                        self.parser.push(bytes);
                    }
                }
                Ok(Some(Err(_))) => return self.ended(Cause::Cut),
                Ok(None) => {
                    let last = self
                        .parser
                        .finish()
                        .map_err(|_| self.broken(Cause::LineTooLong))?;
                    return match last.map(|data| self.take(&data)).transpose()?.flatten() {
                        Some(event) => Ok(event),
                        None if self.alive => self.ended(Cause::Cut),
                        None => self.ended(Cause::NotAStream),
                    };
                }
                Err(_) => return self.silent(),
            }
        }
    }

    /// Takes the data of one event; gives the step that it is, if it is one.
    fn take(&mut self, data: &[u8]) -> Result<Option<Step>, Error> {
        if data.trim_ascii() == b"[DONE]" {
            if let Some(body) = self.body.take() {
                read_last_bytes(body);
            }
            return Ok(Some(self.end()));
        }
        // The derived readers take a list for an object as well, and a list is no chunk.
        if !data.trim_ascii_start().starts_with(b"{") {
            return Err(self.broken(Cause::NotAStream));
        }
        let chunk: Chunk =
            serde_json::from_slice(data).map_err(|_| self.broken(Cause::NotAStream))?;
        if let Some(error) = chunk.error {
            return Err(self.refused(&error));
        }
        if let Some(usage) = chunk.usage {
            self.usage = Some(Usage {
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
                reasoning_tokens: usage
                    .completion_tokens_details
                    .and_then(|details| details.reasoning_tokens),
                thought_seen: false,
            });
        }
        // Only one choice was asked for.
        let choice = chunk
            .choices
            .unwrap_or_default()
            .into_iter()
            .find(|choice| choice.index == 0);
        let Some(choice) = choice else {
            return Ok(None);
        };
        let delta = choice.delta.unwrap_or_default();
        let content = delta.content.filter(|content| !content.is_empty());
        // A chunk without a token is no sign of life: a gateway may send such over a backend that hangs.
        let token = content.is_some() || delta.reasoning_content.is_some();
        self.alive |= token;
        self.thought_seen |= delta.reasoning_content.is_some();
        self.shown |= content.is_some();
        // Some servers send an empty word with every delta.
        if let Some(word) = choice.finish_reason.filter(|word| !word.is_empty()) {
            let reason = FinishReason::from_upstream(&word);
            self.finish_reason = Some(reason.ok_or_else(|| self.broken(Cause::GaveUp))?);
            self.deadline = Instant::now() + USAGE_GRACE.min(self.idle_timeout);
        } else if token && self.finish_reason.is_none() {
            self.deadline = Instant::now() + self.idle_timeout;
        }
        Ok(content.map(Step::Delta))
    }

    fn end(&self) -> Step {
        Step::End {
            finish_reason: self.finish_reason.unwrap_or(FinishReason::Stop),
            usage: self.usage.map(|usage| Usage {
                thought_seen: self.thought_seen,
                ..usage
            }),
        }
    }

    /// The bytes ended. With a `finish_reason` the reply is complete all the same.
    fn ended(&self, cause: Cause) -> Result<Step, Error> {
        if self.finish_reason.is_some() {
            return Ok(self.end());
        }
        Err(self.broken(cause))
    }

    fn silent(&self) -> Result<Step, Error> {
        if self.finish_reason.is_some() {
            return Ok(self.end());
        }
        Err(Error::Timeout(if self.alive {
            Cause::Idle
        } else {
            Cause::NoFirstToken
        }))
    }

    fn broken(&self, cause: Cause) -> Error {
        if self.shown {
            Error::Interrupted(cause)
        } else {
            Error::Unavailable(cause)
        }
    }

    /// An error object in the stream. Before the first delta its code tells a refusal from an outage.
    fn refused(&self, error: &Value) -> Error {
        let cause = Cause::ErrorObject(error_code(error));
        let status = error
            .get("code")
            .and_then(|code| code.as_u64().or_else(|| code.as_str()?.parse().ok()));
        match status {
            _ if self.shown => Error::Interrupted(cause),
            Some(400..=428 | 430..=499) => Error::Rejected(cause),
            _ => Error::Unavailable(cause),
        }
    }
}

/// Reads what ends an answer after its `[DONE]`, often a packet of its own, because only a connection whose answer was read
/// to its end serves the next turn. No turn waits for it, and it ends by itself; if the process ends first, a connection is
/// lost and nothing else.
fn read_last_bytes(mut body: Incoming) {
    tokio::spawn(timeout(LAST_BYTES_TIMEOUT, async move {
        while let Some(Ok(_)) = body.frame().await {}
    }));
}
