//! One turn, from message to done. The only room that sees both memory and the upstream.
//!
//! [`Chat::begin`] checks and reads; then the turn runs in a task of its own, so that neither a client that goes away nor
//! a slow one stops it. What the client sees comes through a bounded channel, and the final frame is sent after the commit
//! has been decided, because nothing may be left to run when the body ends.

mod relay;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use self::relay::Relay;
use crate::characters::{self, Character, Characters};
use crate::config::{ContextConfig, MemoryConfig};
use crate::context::{self, Context, TooLong};
use crate::ids::{CharacterId, TurnId, UserId};
use crate::llm::{self, Event, FinishReason, Llm, Prompt};
use crate::memory::{self, Began, Commit, History, Memory};
use crate::message::{Message, PromptMessage, Role};
use crate::tokens::{self, Counter};

/// The longest reply that is kept, in bytes. A longer one ends there, as if it had reached its token limit.
const MAX_REPLY_BYTES: usize = 256 * 1024;
/// Besides the write budget, what the end of a turn needs before the platform ends the invocation.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A message to a character.
#[derive(Debug)]
pub struct Ask {
    /// Who says it.
    pub user: UserId,
    /// To whom.
    pub character: CharacterId,
    /// What.
    pub message: String,
    /// Stored with it.
    pub metadata: Option<Box<RawValue>>,
    /// When the platform ends the invocation, if that is known.
    pub deadline: Option<Instant>,
}

/// Why a turn did not begin.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The character is unknown, or could not be looked up.
    #[error(transparent)]
    Character(#[from] characters::Error),
    /// Not even the message alone fits into the context window.
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

/// What memory was like when the turn began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryStatus {
    /// It was read.
    Ok,
    /// It was read and there was nothing.
    Empty,
    /// It could not be read. The chat goes on without history.
    Unavailable,
}

impl MemoryStatus {
    /// The word of the HTTP contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Empty => "empty",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Tokens that a turn took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompt.
    pub prompt_tokens: u64,
    /// Of the reply.
    pub completion_tokens: u64,
}

/// Why a turn failed, as the client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureCode {
    /// The upstream cannot answer now.
    UpstreamUnavailable,
    /// The upstream was silent for too long.
    UpstreamTimeout,
    /// The upstream refuses this request.
    UpstreamRejected,
    /// The upstream stopped in mid-reply.
    UpstreamInterrupted,
    /// A defect of this service.
    Internal,
}

impl FailureCode {
    /// The word of the HTTP contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UpstreamUnavailable => "upstream_unavailable",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamRejected => "upstream_rejected",
            Self::UpstreamInterrupted => "upstream_interrupted",
            Self::Internal => "internal",
        }
    }
}

/// What the client of a turn sees, in order: one `Start`, any number of `Delta`s, then `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The turn runs.
    Start {
        /// What memory was like.
        memory: MemoryStatus,
        /// Remembered messages that are sent upstream.
        history_messages: usize,
    },
    /// More of the reply.
    Delta(String),
    /// The reply is complete and the commit is decided.
    Done {
        /// The id of the reply.
        msg_id: String,
        /// Why the reply ended.
        finish_reason: FinishReason,
        /// Whether the turn is in memory.
        saved: bool,
        /// The tokens it took.
        usage: Usage,
    },
    /// The turn ended early and the commit is decided.
    Failed {
        /// Why.
        code: FailureCode,
        /// Whether what the user saw is in memory.
        saved: bool,
    },
}

/// A turn that runs, as its client follows it.
#[derive(Debug)]
pub struct Turn {
    id: TurnId,
    frames: mpsc::Receiver<Frame>,
    ended: bool,
}

impl Turn {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> TurnId {
        self.id
    }

    /// The next frame; `None` after the last. May be cancelled without losing one.
    pub async fn next(&mut self) -> Option<Frame> {
        if self.ended {
            return None;
        }
        // The task ends without a last frame only by panicking.
        let frame = self.frames.recv().await.unwrap_or(Frame::Failed {
            code: FailureCode::Internal,
            saved: false,
        });
        self.ended = matches!(frame, Frame::Done { .. } | Frame::Failed { .. });
        Some(frame)
    }
}

/// The chat service. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Chat {
    inner: Arc<Inner>,
}

struct Inner {
    memory: Memory,
    characters: Characters,
    llm: Llm,
    counter: Arc<Counter>,
    context: ContextConfig,
    write_timeout: Duration,
    /// The turns that run.
    turns: TaskTracker,
}

impl Chat {
    /// Puts the parts together.
    #[must_use]
    pub fn new(memory: Memory, llm: Llm, context: ContextConfig, config: &MemoryConfig) -> Self {
        Self {
            inner: Arc::new(Inner {
                characters: Characters::new(memory.clone(), SystemTime::now),
                memory,
                llm,
                counter: Arc::new(Counter::new()),
                context,
                write_timeout: config.write_timeout,
                turns: TaskTracker::new(),
            }),
        }
    }

    /// Looks up the character, reads the history at the same time, and lets the turn run.
    ///
    /// # Errors
    /// The turn did not begin, and nothing is stored.
    pub async fn begin(&self, ask: Ask) -> Result<Turn, Refusal> {
        let began_at = Instant::now();
        let began_at_unix = SystemTime::now();
        let id = TurnId::new();
        let inner = &self.inner;
        let (history, character) = tokio::join!(
            inner
                .memory
                .load(&ask.user, &ask.character, inner.context.max_messages),
            inner.characters.find(&ask.character),
        );
        let character = character?;
        let (status, began, history) = remembered(history, began_at_unix);
        let Context {
            messages,
            history_messages,
        } = context::fit(
            &character.system_prompt,
            history,
            &ask.message,
            inner.context,
        )?;

        let (relay, frames) = Relay::new(Frame::Start {
            memory: status,
            history_messages,
        });
        let task = Task {
            service: Arc::clone(inner),
            id,
            began,
            began_at,
            began_at_unix,
            status,
            history_messages,
            prompt: prompt(&character, messages),
            ask,
            relay,
        };
        // It outlives the connection and ends by itself: every wait in it has a limit, except the one for a client that
        // neither reads nor leaves, and by then everything is decided. `settle` awaits it when the process ends.
        inner.turns.spawn(task.run().in_current_span());
        Ok(Turn {
            id,
            frames,
            ended: false,
        })
    }
}

impl Chat {
    /// Waits until every turn that runs has ended. For the end of the process.
    pub async fn settle(&self) {
        self.inner.turns.close();
        self.inner.turns.wait().await;
    }
}

fn remembered(
    history: Result<History, memory::Error>,
    began_at: SystemTime,
) -> (MemoryStatus, Began, Vec<Message>) {
    match history {
        Ok(history) => {
            if history.skipped > 0 {
                tracing::warn!(
                    skipped = history.skipped,
                    "stored elements could not be read as messages"
                );
            }
            let status = if history.messages.is_empty() {
                MemoryStatus::Empty
            } else {
                MemoryStatus::Ok
            };
            (status, history.read_at, history.messages)
        }
        Err(error) => {
            tracing::warn!(
                reason = error.reason(),
                "memory could not be read; the chat goes on without it"
            );
            (
                MemoryStatus::Unavailable,
                Began::by_local_clock(began_at),
                Vec::new(),
            )
        }
    }
}

fn prompt(character: &Character, messages: Vec<PromptMessage>) -> Prompt {
    Prompt {
        messages,
        model: character.model.clone(),
        temperature: character.temperature,
        top_p: character.top_p,
        max_tokens: character.max_tokens,
    }
}

/// The running turn.
struct Task {
    service: Arc<Inner>,
    id: TurnId,
    began: Began,
    began_at: Instant,
    began_at_unix: SystemTime,
    status: MemoryStatus,
    history_messages: usize,
    prompt: Prompt,
    ask: Ask,
    relay: Relay,
}

/// How the generation ended.
enum Ending {
    Complete {
        finish_reason: FinishReason,
        usage: Option<llm::Usage>,
    },
    Failed(llm::Error),
    /// The platform is about to end the invocation.
    OutOfTime,
}

/// What the user was shown, and how it ended.
struct Generated {
    text: String,
    first_delta_after: Option<Duration>,
    ending: Ending,
}

/// Tokens of each part of the turn.
struct Counts {
    user: u64,
    assistant: u64,
    usage: Usage,
}

impl Task {
    async fn run(mut self) {
        let generated = self.generate().await;
        let counts = self.count(&generated).await;
        let (saved, msg_id) = self.commit(&generated, &counts).await;
        let last = match &generated.ending {
            Ending::Complete { finish_reason, .. } => Frame::Done {
                msg_id,
                finish_reason: *finish_reason,
                saved,
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
        self.log(&generated, &counts, saved);
        self.relay.finish(last).await;
    }

    async fn generate(&mut self) -> Generated {
        let mut generated = Generated {
            text: String::new(),
            first_delta_after: None,
            ending: Ending::OutOfTime,
        };
        let margin = self.service.write_timeout + LAST_WORDS;
        let steps = Self::follow(
            &self.service.llm,
            &self.prompt,
            &mut self.relay,
            self.began_at,
            &mut generated,
        );
        match self
            .ask
            .deadline
            .and_then(|deadline| deadline.checked_sub(margin))
        {
            Some(deadline) => {
                // Out of time, what was generated so far stays in `generated`, with its ending as it was set above.
                let _ = timeout_at(deadline, steps).await;
            }
            None => steps.await,
        }
        generated
    }

    /// Passes deltas on as they come and collects them.
    async fn follow(
        llm: &Llm,
        prompt: &Prompt,
        relay: &mut Relay,
        began_at: Instant,
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
            let event = tokio::select! {
                biased;
                event = reply.next() => event,
                () = relay.catch_up() => continue,
            };
            match event {
                Ok(Event::Delta(delta)) if generated.text.len() + delta.len() > MAX_REPLY_BYTES => {
                    generated.ending = Ending::Complete {
                        finish_reason: FinishReason::Length,
                        usage: None,
                    };
                    return;
                }
                Ok(Event::Delta(delta)) => {
                    generated.text.push_str(&delta);
                    relay.send(delta);
                    if generated.first_delta_after.is_none() {
                        generated.first_delta_after = Some(began_at.elapsed());
                    }
                }
                Ok(Event::End {
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

    /// The upstream's own figures where it sent them; else exact counts, whose tables take a while to build and must not
    /// hold up other turns on this thread.
    async fn count(&mut self, generated: &Generated) -> Counts {
        let estimate = tokens::estimate(&self.ask.message).max(1);
        match &generated.ending {
            Ending::Complete {
                usage: Some(usage), ..
            } => Counts {
                user: estimate,
                assistant: usage
                    .completion_tokens
                    .saturating_sub(usage.reasoning_tokens)
                    .max(1),
                usage: Usage {
                    prompt_tokens: usage.prompt_tokens,
                    completion_tokens: usage.completion_tokens,
                },
            },
            Ending::Complete { usage: None, .. } | Ending::Failed(_)
                if !generated.text.is_empty() =>
            {
                let counter = Arc::clone(&self.service.counter);
                let prompt = std::mem::take(&mut self.prompt.messages);
                let (message, reply) = (self.ask.message.clone(), generated.text.clone());
                let exact = tokio::task::spawn_blocking(move || {
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
                exact
                    .await
                    .unwrap_or_else(|_| estimated(estimate, &generated.text))
            }
            Ending::Complete { usage: None, .. } | Ending::Failed(_) | Ending::OutOfTime => {
                estimated(estimate, &generated.text)
            }
        }
    }

    /// Stores what was said, if anything was. Gives whether it is stored, and the reply's id.
    async fn commit(&mut self, generated: &Generated, counts: &Counts) -> (bool, String) {
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
        if generated.text.is_empty() {
            return (false, msg_id);
        }
        let turn = memory::Turn {
            id: self.id,
            began: self.began,
            user,
            assistant,
        };
        let committed = self
            .service
            .memory
            .commit_turn(&self.ask.user, &self.ask.character, &turn)
            .await;
        let saved = match committed {
            Ok(commit) => {
                if commit == Commit::Fenced {
                    tracing::info!("the session was cleared while the turn ran; it is not stored");
                }
                commit.is_saved()
            }
            Err(error) => {
                tracing::warn!(reason = error.reason(), "the turn could not be stored");
                false
            }
        };
        (saved, msg_id)
    }

    /// One line a turn: figures and words of this service, nothing that anybody said.
    fn log(&self, generated: &Generated, counts: &Counts, saved: bool) {
        let outcome = match &generated.ending {
            Ending::Complete { finish_reason, .. } => finish_reason.as_str(),
            Ending::Failed(error) => {
                tracing::warn!(turn_id = %self.id, %error, "the upstream failed");
                code(error).as_str()
            }
            Ending::OutOfTime => "out_of_time",
        };
        let milliseconds =
            |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            turn_id = %self.id,
            outcome,
            saved,
            memory = self.status.as_str(),
            history_messages = self.history_messages,
            prompt_tokens = counts.usage.prompt_tokens,
            completion_tokens = counts.usage.completion_tokens,
            first_delta_ms = generated.first_delta_after.map(milliseconds),
            turn_ms = milliseconds(self.began_at.elapsed()),
            "turn"
        );
    }
}

fn estimated(user: u64, reply: &str) -> Counts {
    let assistant = tokens::estimate(reply);
    Counts {
        user,
        assistant,
        usage: Usage {
            prompt_tokens: user,
            completion_tokens: assistant,
        },
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

fn unix_seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}
