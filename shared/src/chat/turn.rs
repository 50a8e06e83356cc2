//! A running turn: generates, counts, commits, and reports the outcome, in this order. Its figures are recorded
//! before the last frame is sent.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::record::Last;
use super::relay::Relay;
use super::{Ask, FailureCode, Inner, Usage};
use crate::clock::unix_seconds;
use crate::ids::TurnId;
use crate::llm::{self, FinishReason, Llm, Prompt, Step};
use crate::memory::{self, Began, Commit};
use crate::message::{Message, PromptMessage, Role, is_blank};
use crate::record::Closing;
use crate::telemetry::{Invocation, UpstreamTokens};
use crate::tokens;
use crate::turns::{Journal, Outcome, Record, Transcript};

/// Limit of a reply in bytes. A longer reply ends there, as if it had reached its token limit.
const MAX_REPLY_BYTES: usize = 256 * 1024;
/// Longest time that exact counting may take. On the smallest Lambda function most of it is spent on the tokenizer's
/// tables.
const COUNT_WITHIN: Duration = Duration::from_millis(1_500);
/// Time reserved, on top of the write budget, to finish a turn before Lambda's deadline or the end of the process.
pub(crate) const FINISH_MARGIN: Duration = Duration::from_millis(500);
/// The part of [`FINISH_MARGIN`] that must remain after counting, to send the last frame.
const LAST_FRAME_MARGIN: Duration = Duration::from_millis(200);

/// A running turn, with everything it needs until its last frame.
pub(super) struct Task {
    pub(super) service: Arc<Inner>,
    pub(super) id: TurnId,
    /// `None` if turns are not recorded.
    pub(super) record: Option<Record>,
    /// What the record says about the first frame.
    pub(super) start_text: String,
    /// Time that Redis took for the history.
    pub(super) round_trip: Duration,
    pub(super) began: Began,
    pub(super) began_at_unix: SystemTime,
    pub(super) prompt: Prompt,
    pub(super) ask: Ask,
    /// Declared before `relay` so that a panic drops it first: dropping the relay ends the response.
    pub(super) invocation: Invocation,
    pub(super) relay: Relay,
}

/// How the generation ended.
enum Ending {
    Complete {
        finish_reason: FinishReason,
        usage: Option<llm::Usage>,
    },
    Failed(llm::Error),
    /// A client has asked the turn to stop.
    Stopped,
    /// Lambda's deadline is near, or the process shall end.
    OutOfTime,
}

/// The text that the user has seen, and how the generation ended.
struct Generated {
    text: String,
    first_delta: Option<Duration>,
    ending: Ending,
}

/// Token counts of the parts of a turn.
struct Counts {
    user: u64,
    assistant: u64,
    usage: Usage,
}

impl Task {
    /// Runs the turn to its last frame.
    pub(super) async fn run(mut self) {
        let transcript = Arc::new(Transcript::default());
        let stop = CancellationToken::new();
        let journal = self.record.as_ref().map(|record| {
            Journal::keep(
                record.clone(),
                Arc::clone(&transcript),
                self.start_text.clone(),
                self.round_trip,
                stop.clone(),
            )
        });
        let generated = self.generate(&transcript, &stop).await;
        let counts = self.count(&generated).await;
        // Nothing is recorded beside the end of the turn.
        let recorded = journal.as_ref().map_or(0, Journal::recorded);
        drop(journal);
        let (last, outcome) = self.end(&generated, &counts, recorded).await;
        self.note(&generated, &counts);
        let Self {
            invocation, relay, ..
        } = self;
        drop(invocation);
        relay.finish(last.frame(outcome)).await;
    }

    async fn generate(&mut self, transcript: &Transcript, stop: &CancellationToken) -> Generated {
        let mut generated = Generated {
            text: String::new(),
            first_delta: None,
            ending: Ending::OutOfTime,
        };
        let margin = self.service.write_timeout + FINISH_MARGIN;
        let steps = Self::follow(
            &self.service.llm,
            &self.prompt,
            &mut self.relay,
            &self.invocation,
            transcript,
            &mut generated,
        );
        let deadline = self
            .ask
            .deadline
            .and_then(|deadline| deadline.checked_sub(margin));
        let out_of_time = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        // In time, `steps` sets the ending; otherwise it stays as set above.
        let is_stopped = tokio::select! {
            biased;
            () = steps => false,
            () = stop.cancelled() => true,
            () = out_of_time => false,
            () = self.service.ending.cancelled() => false,
        };
        if is_stopped {
            generated.ending = Ending::Stopped;
        }
        generated.text = transcript.text();
        generated
    }

    /// Sends deltas to the client as they arrive, and collects them in `transcript`. Sets the ending of `generated`.
    async fn follow(
        llm: &Llm,
        prompt: &Prompt,
        relay: &mut Relay,
        invocation: &Invocation,
        transcript: &Transcript,
        generated: &mut Generated,
    ) {
        let mut reply = match llm.reply(prompt).await {
            Ok(reply) => reply,
            Err(error) => {
                generated.ending = Ending::Failed(error);
                return;
            }
        };
        loop {
            let step = tokio::select! {
                biased;
                step = reply.next() => step,
                () = relay.catch_up() => continue,
            };
            match step {
                Ok(Step::Delta(delta)) if transcript.len() + delta.len() > MAX_REPLY_BYTES => {
                    generated.ending = Ending::Complete {
                        finish_reason: FinishReason::Length,
                        usage: None,
                    };
                    return;
                }
                Ok(Step::Delta(delta)) => {
                    transcript.push(&delta);
                    relay.send(delta);
                    if generated.first_delta.is_none() {
                        generated.first_delta = Some(invocation.elapsed());
                    }
                }
                Ok(Step::End {
                    finish_reason,
                    usage,
                }) => {
                    generated.ending = Ending::Complete {
                        finish_reason,
                        usage,
                    };
                    return;
                }
                Err(error) => {
                    generated.ending = Ending::Failed(error);
                    return;
                }
            }
        }
    }

    /// Returns the turn's token counts. The usage in the response is the upstream's where it sent one. The stored
    /// counts are of the visible text: the upstream's count where it is plausible, otherwise an exact count, and an
    /// estimate if exact counting would take too long. Exact counting must not delay other turns on this thread.
    async fn count(&mut self, generated: &Generated) -> Counts {
        let prompt = std::mem::take(&mut self.prompt.messages);
        let (usage, has_time) = match &generated.ending {
            Ending::Complete { usage, .. } => (usage.unwrap_or_default(), true),
            Ending::Failed(_) | Ending::Stopped => (llm::Usage::default(), true),
            Ending::OutOfTime => (llm::Usage::default(), false),
        };
        let believed = believed(&usage, &generated.text);
        if let (Some(assistant), Some(prompt_tokens)) = (believed, usage.prompt_tokens) {
            return Counts {
                user: estimated_user(&self.ask.message),
                assistant,
                usage: Usage {
                    prompt_tokens,
                    completion_tokens: usage.completion_tokens.unwrap_or(assistant),
                },
            };
        }
        let mut counts = estimated(&prompt, &self.ask.message, &generated.text);
        if has_time && !generated.text.is_empty() {
            let until = self.count_until();
            if until > Instant::now() {
                let exact = self.count_exactly(prompt, generated.text.clone());
                let exact = self.service.ending.run_until_cancelled(exact);
                if let Ok(Some(Some(exact))) = timeout_at(until, exact).await {
                    counts = exact;
                }
            }
        }
        if let Some(assistant) = believed {
            counts.assistant = assistant;
        }
        let counted = counts.usage;
        counts.usage = Usage {
            prompt_tokens: usage.prompt_tokens.unwrap_or(counted.prompt_tokens),
            completion_tokens: usage.completion_tokens.unwrap_or(counted.completion_tokens),
        };
        counts
    }

    /// Returns exact counts, made on a thread that may block; `None` if that thread fails. One turn is counted at a
    /// time. A count that was given up continues to its end, so that the tables it builds serve later turns, and
    /// further counts must not queue up behind it on more threads. If the sandbox freezes meanwhile, it continues
    /// with the next invocation.
    async fn count_exactly(&self, prompt: Vec<PromptMessage>, reply: String) -> Option<Counts> {
        let counting = Arc::clone(&self.service.counting);
        let permit = counting.acquire_owned().await.ok()?;
        let counter = Arc::clone(&self.service.counter);
        let message = self.ask.message.clone();
        let exact = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let assistant = counter.count(&reply);
            Counts {
                user: counter.count(&message),
                assistant,
                usage: Usage {
                    prompt_tokens: counter.count_prompt(&prompt),
                    completion_tokens: assistant,
                },
            }
        });
        exact.await.ok()
    }

    /// Returns when exact counting must end, so that the turn can still be stored and reported.
    fn count_until(&self) -> Instant {
        let end = Instant::now() + COUNT_WITHIN;
        let left = self.service.write_timeout + LAST_FRAME_MARGIN;
        self.ask
            .deadline
            .and_then(|deadline| deadline.checked_sub(left))
            .map_or(end, |latest| latest.min(end))
    }

    /// Stores the turn, unless the reply is blank, and closes its record, whose text has `recorded` bytes. Returns what
    /// the last frame says, and how the turn is stored.
    async fn end(
        &mut self,
        generated: &Generated,
        counts: &Counts,
        recorded: usize,
    ) -> (Last, Outcome) {
        let (user, assistant) = self.messages(generated, counts);
        let last = match &generated.ending {
            Ending::Complete { finish_reason, .. } => {
                done(*finish_reason, counts, &user, &assistant)
            }
            Ending::Stopped => done(FinishReason::Stopped, counts, &user, &assistant),
            Ending::Failed(error) => Last::Failed(code(error)),
            Ending::OutOfTime => Last::Failed(FailureCode::UpstreamTimeout),
        };
        let closing = self.record.as_ref().map(|record| {
            let tail = generated.text.get(recorded..).unwrap_or_default();
            let start = std::mem::take(&mut self.start_text);
            record.closing(start, last.to_string(), recorded, tail.to_owned())
        });
        let outcome = if is_blank(&generated.text) {
            self.close(Outcome::Empty, closing.as_ref()).await
        } else {
            let turn = memory::NewTurn {
                id: self.id,
                began: self.began,
                user,
                assistant,
            };
            self.commit(&turn, closing.as_ref()).await
        };
        (last, outcome)
    }

    /// Returns the messages to store.
    fn messages(&mut self, generated: &Generated, counts: &Counts) -> (Message, Message) {
        let mark = match &generated.ending {
            Ending::Complete {
                finish_reason: FinishReason::Stop,
                ..
            } => None,
            Ending::Complete { finish_reason, .. } => Some(finish_reason.as_str()),
            Ending::Stopped => Some(FinishReason::Stopped.as_str()),
            Ending::Failed(_) | Ending::OutOfTime => Some("interrupted"),
        };
        let signed = |count| i64::try_from(count).unwrap_or(i64::MAX);
        let mut user = Message::new(
            Role::User,
            std::mem::take(&mut self.ask.message),
            unix_seconds(self.began_at_unix),
            signed(counts.user),
        );
        user.metadata = self.ask.metadata.take();
        let mut assistant = Message::new(
            Role::Assistant,
            generated.text.clone(),
            unix_seconds(SystemTime::now()),
            signed(counts.assistant),
        );
        assistant.metadata = mark.and_then(|word| {
            serde_json::value::to_raw_value(&serde_json::json!({ "finish_reason": word })).ok()
        });
        (user, assistant)
    }

    /// Stores the turn and closes its record. Returns how the turn is stored.
    async fn commit(&self, turn: &memory::NewTurn, closing: Option<&Closing>) -> Outcome {
        let (user, character) = (&self.ask.user, &self.ask.character);
        let memory = &self.service.memory;
        let commit =
            |closing| memory.commit_and_close(&self.invocation, user, character, turn, closing);
        let committed = match commit(closing).await {
            // The cache user may be one from before there were records. The turn matters more than its record.
            Err(error) if error.is_missing_right() && closing.is_some() => commit(None).await,
            committed => committed,
        };
        match committed {
            Ok(Commit::Saved | Commit::Duplicate) => Outcome::Saved,
            Ok(Commit::Fenced) => {
                tracing::info!("the session was cleared while the turn ran; it is not stored");
                Outcome::Cleared
            }
            Ok(Commit::Conflict) => {
                tracing::info!("another turn has the idempotency key; this one is not stored");
                Outcome::Conflict
            }
            Ok(Commit::Lost) => {
                tracing::warn!("the turn was taken for lost and is not stored");
                Outcome::Lost
            }
            Err(error) => {
                tracing::warn!(reason = error.reason(), "the turn could not be stored");
                self.invocation.note(|figures| {
                    // A turn counts as degraded once, for the first reason.
                    figures.degradation.get_or_insert(error.reason());
                });
                // If Redis has refused the commit, it may still take the end of the record.
                if error.is_refusal() {
                    return self.close(Outcome::Memory, closing).await;
                }
                Outcome::Memory
            }
        }
    }

    /// Closes the record of a turn that is not stored. Returns the outcome, which is another one if a reader has closed the
    /// record before.
    async fn close(&self, outcome: Outcome, closing: Option<&Closing>) -> Outcome {
        let (Some(record), Some(closing)) = (&self.record, closing) else {
            return outcome;
        };
        // A failure is logged. The record then ends with its lease.
        let closed = record.close(&self.invocation, outcome, closing).await;
        closed.unwrap_or(outcome)
    }

    /// Records the turn's figures: numbers and service-defined words only; never user or model text.
    fn note(&self, generated: &Generated, counts: &Counts) {
        let (outcome, upstream_error) = match &generated.ending {
            Ending::Complete { finish_reason, .. } => (finish_reason.as_str(), None),
            Ending::Failed(error) => {
                tracing::warn!(turn_id = %self.id, %error, "the upstream failed");
                let code = code(error).as_str();
                (code, Some(code))
            }
            Ending::Stopped => (FinishReason::Stopped.as_str(), None),
            Ending::OutOfTime => ("out_of_time", Some(FailureCode::UpstreamTimeout.as_str())),
        };
        let replied = matches!(generated.ending, Ending::Complete { .. } | Ending::Stopped)
            || !generated.text.is_empty();
        let reply = self.invocation.elapsed();
        self.invocation.note(|figures| {
            let Some(turn) = &mut figures.turn else {
                return;
            };
            turn.outcome = outcome;
            turn.upstream_error = upstream_error;
            turn.first_delta = generated.first_delta;
            turn.reply = Some(reply);
            turn.tokens = replied.then_some(UpstreamTokens {
                prompt: counts.usage.prompt_tokens,
                completion: counts.usage.completion_tokens,
            });
        });
    }
}

/// Returns the upstream's count of the visible text, if it is plausible. The count of a model that sent its reasoning
/// without reporting its tokens separately is not one of the visible text.
fn believed(usage: &llm::Usage, text: &str) -> Option<u64> {
    let reasoning = usage.reasoning_tokens.unwrap_or(0);
    let is_of_text = !usage.thought_seen || reasoning > 0;
    usage
        .completion_tokens?
        .checked_sub(reasoning)
        .filter(|count| is_of_text && tokens::is_believable(*count, text))
}

fn estimated(prompt: &[PromptMessage], message: &str, reply: &str) -> Counts {
    let contents = prompt
        .iter()
        .map(|message| tokens::PER_MESSAGE + tokens::estimate(&message.content));
    let assistant = tokens::estimate(reply);
    Counts {
        user: estimated_user(message),
        assistant,
        usage: Usage {
            prompt_tokens: contents.sum::<u64>() + tokens::PER_REPLY,
            completion_tokens: assistant,
        },
    }
}

fn estimated_user(message: &str) -> u64 {
    tokens::estimate(message).max(1)
}

fn done(finish_reason: FinishReason, counts: &Counts, user: &Message, assistant: &Message) -> Last {
    Last::Done {
        msg_id: assistant.msg_id.clone(),
        user_msg_id: user.msg_id.clone(),
        finish_reason,
        usage: counts.usage,
    }
}

fn code(error: &llm::Error) -> FailureCode {
    match error {
        llm::Error::Unavailable(_) => FailureCode::UpstreamUnavailable,
        llm::Error::Timeout(_) => FailureCode::UpstreamTimeout,
        llm::Error::Rejected(_) => FailureCode::UpstreamRejected,
        llm::Error::Interrupted(_) => FailureCode::UpstreamInterrupted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstreams_count_is_believed_where_it_can_be_one_of_the_text() {
        for (completion, reasoning, thought_seen, expected) in [
            (Some(3), None, false, Some(3)),
            (Some(503), Some(500), true, Some(3)),
            // Reasoning tokens are reported separately, although no reasoning was sent.
            (Some(503), Some(500), false, Some(3)),
            (Some(9), None, true, None),
            (Some(9), Some(0), true, None),
            (Some(21_000), Some(0), true, None),
            (Some(21_000), None, false, None),
            (Some(1_000_000_000_000_000), None, false, None),
            (Some(0), None, false, None),
            (None, None, false, None),
            (None, Some(500), true, None),
            (Some(500), Some(500), true, None),
            (Some(3), Some(500), true, None),
            (Some(u64::MAX), Some(u64::MAX - 3), true, Some(3)),
        ] {
            let usage = llm::Usage {
                prompt_tokens: Some(u64::MAX),
                completion_tokens: completion,
                reasoning_tokens: reasoning,
                thought_seen,
            };
            assert_eq!(believed(&usage, "好。嗯"), expected, "{usage:?}");
        }
    }
}
