//! A reply that is arriving: which text is shown, how the reply ends, and when waiting for it ends.

use std::pin::Pin;
use std::time::Duration;

use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::chunk::Chunk;
use super::finish::Finish;
use super::refusal::{Refusal, Retry, error_code};
use super::text::{Joiner, Text};
use super::thought::Filter;
use crate::llm::sse::{MAX_BYTES, Parser};
use crate::llm::{Cause, Error, FinishReason, Step, Usage};

/// The time that the upstream has to send its token counts after `finish_reason`, with which a reply is complete.
const USAGE_GRACE: Duration = Duration::from_secs(2);
/// The time that the rest of a response may take after `[DONE]` for its connection to be kept.
const LAST_BYTES_TIMEOUT: Duration = Duration::from_secs(1);

/// A reply that is arriving from an OpenAI-compatible endpoint.
pub struct Reply {
    /// Rest of the response's body; `None` after `[DONE]`.
    body: Option<Incoming>,
    form: Form,
    idle_timeout: Duration,
    /// Elapses if the next token does not arrive in time. One timer for the whole reply: to postpone it costs less than to
    /// make one for each delta.
    silence: Pin<Box<Sleep>>,
    /// Whether a token has arrived, shown or not.
    alive: bool,
    /// Whether the user was shown any text.
    shown: bool,
    joiner: Joiner,
    filter: Filter,
    /// Whether reasoning arrived beside the text.
    thought_seen: bool,
    finish_reason: Option<FinishReason>,
    usage: Option<Usage>,
    /// First step, which arrives before the caller receives this reply.
    first: Option<Step>,
}

/// The form of the body, recognised by its first byte.
enum Form {
    Unknown,
    Events(Parser),
    /// One JSON object, although the request asked for a stream.
    Whole(BytesMut),
}

impl Reply {
    /// Waits for the first step. Until then the user was shown nothing, so a failure can be retried.
    pub(super) async fn begin(
        body: Incoming,
        first_token_deadline: Instant,
        idle_timeout: Duration,
        starts_thinking: bool,
    ) -> Result<Self, Refusal> {
        let mut reply = Self {
            body: Some(body),
            form: Form::Unknown,
            idle_timeout,
            silence: Box::pin(sleep_until(first_token_deadline)),
            alive: false,
            shown: false,
            joiner: Joiner::default(),
            filter: Filter::new(starts_thinking),
            thought_seen: false,
            finish_reason: None,
            usage: None,
            first: None,
        };
        reply.first = Some(reply.step().await?);
        Ok(reply)
    }

    pub(in crate::llm) async fn next(&mut self) -> Result<Step, Error> {
        match self.first.take() {
            Some(step) => Ok(step),
            None => self.step().await.map_err(|refusal| refusal.error),
        }
    }

    async fn step(&mut self) -> Result<Step, Refusal> {
        loop {
            while let Some(data) = self.next_event()? {
                if let Some(step) = self.take(&data)? {
                    return Ok(step);
                }
            }
            let Some(body) = &mut self.body else {
                return Ok(self.end());
            };
            let frame = tokio::select! {
                biased;
                frame = body.frame() => frame,
                () = &mut self.silence => return self.silent(),
            };
            match frame {
                Some(Ok(frame)) => {
                    if let Some(bytes) = frame.data_ref() {
                        self.push(bytes)?;
                    }
                }
                Some(Err(_)) => return self.ended(Cause::Cut),
                None => return self.body_ended(),
            }
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        if matches!(self.form, Form::Unknown) {
            self.form = match bytes.trim_ascii_start().first() {
                // Some upstreams send blank lines while they generate a whole completion. In a stream they have no
                // meaning.
                None => return Ok(()),
                Some(b'{') => Form::Whole(BytesMut::new()),
                Some(_) => Form::Events(Parser::default()),
            };
        }
        match &mut self.form {
            Form::Events(parser) => parser.push(bytes),
            Form::Whole(whole) if whole.len() + bytes.len() > MAX_BYTES => {
                return Err(self.broken(Cause::LineTooLong));
            }
            Form::Whole(whole) => whole.extend_from_slice(bytes),
            Form::Unknown => {}
        }
        Ok(())
    }

    fn next_event(&mut self) -> Result<Option<bytes::Bytes>, Refusal> {
        let event = match &mut self.form {
            Form::Events(parser) => parser.next_event(),
            Form::Whole(_) | Form::Unknown => return Ok(None),
        };
        event.map_err(|_| self.broken(Cause::LineTooLong))
    }

    /// Returns the step that the end of the body completes.
    fn body_ended(&mut self) -> Result<Step, Refusal> {
        self.body = None;
        let last = match &mut self.form {
            Form::Unknown => Ok(None),
            Form::Events(parser) => parser.finish(),
            Form::Whole(whole) => {
                Ok(Some(whole.split().freeze()).filter(|whole| !whole.is_empty()))
            }
        };
        let last = last.map_err(|_| self.broken(Cause::LineTooLong))?;
        if let Some(data) = last {
            // A whole completion is complete, whatever its `finish_reason`.
            if matches!(self.form, Form::Whole(_)) {
                self.finish_reason = Some(FinishReason::Stop);
            }
            if let Some(step) = self.take(&data)? {
                return Ok(step);
            }
        }
        self.ended(match self.form {
            _ if self.alive => Cause::Cut,
            Form::Unknown => Cause::Empty,
            Form::Events(_) | Form::Whole(_) => Cause::NotAStream,
        })
    }

    /// Processes the data of one event. Returns the step that it is, if it is one.
    fn take(&mut self, data: &[u8]) -> Result<Option<Step>, Refusal> {
        if data.trim_ascii() == b"[DONE]" {
            if let Some(body) = self.body.take() {
                read_last_bytes(body);
            }
            return Ok(Some(self.end()));
        }
        let chunk = Chunk::read(data).map_err(|_| self.broken(Cause::NotAStream))?;
        if let Some(error) = chunk.error {
            return Err(self.refused(&error));
        }
        let is_whole = matches!(self.form, Form::Whole(_));
        if is_whole && chunk.text.is_none() && !chunk.has_thought && chunk.finish.is_none() {
            self.finish_reason = None;
            return Err(self.broken(Cause::NotAStream));
        }
        self.usage = chunk.usage.or(self.usage);
        // Some servers repeat the whole message in their last chunk.
        let text = chunk.text.filter(|_| !(chunk.is_whole && self.shown));
        // A chunk without a token does not extend the deadline: a gateway may send such chunks while its backend hangs.
        let token = text.is_some() || chunk.has_thought;
        self.alive |= token;
        if chunk.has_thought {
            self.thought_seen = true;
            self.filter.thought_beside();
        }
        if let Some(finish) = chunk.finish {
            self.finish_reason = Some(match finish {
                Finish::Ended(reason) => reason,
                Finish::Failed => return Err(self.broken(Cause::FailureReported)),
            });
            self.must_arrive_within(USAGE_GRACE.min(self.idle_timeout));
        } else if token && self.finish_reason.is_none() {
            self.must_arrive_within(self.idle_timeout);
        }
        Ok(text.and_then(|text| self.show(text)))
    }

    fn must_arrive_within(&mut self, limit: Duration) {
        self.silence.as_mut().reset(Instant::now() + limit);
    }

    /// Returns a step with the text that a delta adds, if it adds any.
    fn show(&mut self, text: Text<'_>) -> Option<Step> {
        let text = self.joiner.join(text);
        let shown = if self.filter.is_open() {
            text.into_owned()
        } else {
            self.filter.push(&text)
        };
        self.shown |= !shown.is_empty();
        (!shown.is_empty()).then_some(Step::Delta(shown))
    }

    /// Returns a step with the text that was held back, if any, and otherwise the end.
    fn end(&mut self) -> Step {
        self.body = None;
        self.form = Form::Unknown;
        let mut last = String::new();
        if let Some(half) = self.joiner.finish() {
            last = self.filter.push(half.encode_utf8(&mut [0; 4]));
        }
        last.push_str(&self.filter.finish());
        if !last.is_empty() {
            return Step::Delta(last);
        }
        let thought_seen = self.thought_seen || self.filter.thought_seen();
        Step::End {
            finish_reason: self.finish_reason.unwrap_or(FinishReason::Stop),
            usage: self.usage.map(|usage| Usage {
                thought_seen,
                ..usage
            }),
        }
    }

    /// Returns the last step after the body ended. A reply that has its `finish_reason` is complete.
    fn ended(&mut self, cause: Cause) -> Result<Step, Refusal> {
        if self.finish_reason.is_some() {
            return Ok(self.end());
        }
        Err(self.broken(cause))
    }

    fn silent(&mut self) -> Result<Step, Refusal> {
        if self.finish_reason.is_some() {
            return Ok(self.end());
        }
        let cause = if self.alive {
            Cause::Idle
        } else {
            Cause::NoFirstToken
        };
        Err(Error::Timeout(cause).into())
    }

    /// Returns the refusal for bytes that are not a valid reply, or for a stream that ended early. A stream that breaks
    /// before the first text is retried like a failed connection. A whole response that is not valid, or a line over
    /// the limit, is not retried, because the next attempt would return the same.
    fn broken(&self, cause: Cause) -> Refusal {
        if self.shown {
            return Error::Interrupted(cause).into();
        }
        let may_pass = match cause {
            Cause::Cut | Cause::Empty | Cause::FailureReported => true,
            Cause::NotAStream => !matches!(self.form, Form::Whole(_)),
            _ => false,
        };
        Refusal {
            retry: may_pass.then_some(Retry::Backoff),
            ..Error::Unavailable(cause).into()
        }
    }

    /// Returns the refusal for an error object in the stream. Before the first delta it means what an error status
    /// means.
    fn refused(&self, error: &Value) -> Refusal {
        if self.shown {
            return self.broken(Cause::ErrorObject(error_code(error), None));
        }
        Refusal::of_event(error)
    }
}

/// Reads the rest of a response after its `[DONE]`, often a packet of its own, because only a connection whose response
/// was read to the end is used again. No turn waits for this task, and it has a time limit. If the process ends first,
/// only a connection is lost.
fn read_last_bytes(mut body: Incoming) {
    tokio::spawn(timeout(LAST_BYTES_TIMEOUT, async move {
        while let Some(Ok(_)) = body.frame().await {}
    }));
}
