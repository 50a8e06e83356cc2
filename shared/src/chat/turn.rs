//! A running turn: generates, counts, commits, and reports the outcome, in this order. Its figures are recorded
//! before the last frame is sent.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep_until, timeout_at};

use super::relay::Relay;
use super::{Ask, FailureCode, Frame, Inner, Unsaved, Usage};
use crate::clock::unix_seconds;
use crate::ids::TurnId;
use crate::llm::{self, FinishReason, Llm, Prompt, Step};
use crate::memory::{self, Began, Commit};
use crate::message::{Message, PromptMessage, Role, is_blank};
use crate::telemetry::{Invocation, UpstreamTokens};
use crate::tokens;

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
        let generated = self.generate().await;
        let counts = self.count(&generated).await;
        let (unsaved, msg_id) = self.commit(&generated, &counts).await;
        let saved = unsaved.is_none();
        let last = match &generated.ending {
            Ending::Complete { finish_reason, .. } => Frame::Done {
                msg_id,
                finish_reason: *finish_reason,
                unsaved,
                usage: counts.usage,
            },
            Ending::Failed(error) => Frame::Failed {
                code: code(error),
                saved,
            },
            Ending::OutOfTime => Frame::Failed {
                code: FailureCode::UpstreamTimeout,
                saved,
            },
        };
        self.note(&generated, &counts);
        let Self {
            invocation, relay, ..
        } = self;
        drop(invocation);
        relay.finish(last).await;
    }

    async fn generate(&mut self) -> Generated {
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
        // In time, `steps` sets the ending; otherwise `generated` keeps the text so far, and its ending as set above.
        tokio::select! {
            biased;
            () = steps => {}
            () = out_of_time => {}
            () = self.service.ending.cancelled() => {}
        }
        generated
    }

    /// Sends deltas to the client as they arrive, and collects them in `generated`.
    async fn follow(
        llm: &Llm,
        prompt: &Prompt,
        relay: &mut Relay,
        invocation: &Invocation,
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
                Ok(Step::Delta(delta)) if generated.text.len() + delta.len() > MAX_REPLY_BYTES => {
                    generated.ending = Ending::Complete {
                        finish_reason: FinishReason::Length,
                        usage: None,
                    };
                    return;
                }
                Ok(Step::Delta(delta)) => {
                    generated.text.push_str(&delta);
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
            Ending::Failed(_) => (llm::Usage::default(), true),
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

    /// Stores the turn, unless the reply is blank. Returns the reason why it is not stored, `None` if it is, and the
    /// reply's id.
    async fn commit(
        &mut self,
        generated: &Generated,
        counts: &Counts,
    ) -> (Option<Unsaved>, String) {
        let mark = match &generated.ending {
            Ending::Complete {
                finish_reason: FinishReason::Stop,
                ..
            } => None,
            Ending::Complete { finish_reason, .. } => Some(finish_reason.as_str()),
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
        let msg_id = assistant.msg_id.clone();
        if is_blank(&generated.text) {
            return (Some(Unsaved::Empty), msg_id);
        }
        let turn = memory::NewTurn {
            id: self.id,
            began: self.began,
            user,
            assistant,
        };
        let committed = self
            .service
            .memory
            .commit_turn(&self.invocation, &self.ask.user, &self.ask.character, &turn)
            .await;
        let unsaved = match committed {
            Ok(Commit::Saved | Commit::Duplicate) => None,
            Ok(Commit::Fenced) => {
                tracing::info!("the session was cleared while the turn ran; it is not stored");
                Some(Unsaved::Cleared)
            }
            Err(error) => {
                tracing::warn!(reason = error.reason(), "the turn could not be stored");
                self.invocation.note(|figures| {
                    // A turn counts as degraded once, for the first reason.
                    figures.degradation.get_or_insert(error.reason());
                });
                Some(Unsaved::Memory)
            }
        };
        (unsaved, msg_id)
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
            Ending::OutOfTime => ("out_of_time", Some(FailureCode::UpstreamTimeout.as_str())),
        };
        let replied =
            matches!(generated.ending, Ending::Complete { .. }) || !generated.text.is_empty();
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
