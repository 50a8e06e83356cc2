//! One turn, from message to done. The only room that sees both memory and the upstream.
//!
//! [`Chat::begin`] checks and reads; then the turn runs in a task of its own, so that neither a client that goes away nor
//! a slow one stops it. What the client sees comes through a bounded channel, and the final frame is sent after the commit
//! has been decided, because nothing may be left to run when the body ends.

mod relay;
mod turn;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::value::RawValue;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use self::relay::Relay;
use self::turn::Task;
use crate::characters::{self, Character, Characters};
use crate::config::{ContextConfig, MemoryConfig};
use crate::context::{self, Context, Limits, TooLong};
use crate::ids::{CharacterId, TurnId, UserId};
use crate::llm::{FinishReason, Llm, Prompt};
use crate::memory::{self, Began, History, Memory};
use crate::message::{Message, PromptMessage};
use crate::telemetry::{Invocation, TurnFigures};
use crate::tokens::Counter;

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
    /// Not even the message alone fits into the context window, or not even the character.
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

/// Why a reply that is complete is not in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsaved {
    /// The session was cleared while the turn ran.
    Cleared,
    /// Memory could not be written.
    Memory,
    /// There is no reply, or one that shows nothing.
    Empty,
}

impl Unsaved {
    /// The word of the HTTP contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cleared => "cleared",
            Self::Memory => "memory",
            Self::Empty => "empty",
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
        /// Why the turn is not in memory; `None` where it is.
        unsaved: Option<Unsaved>,
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
        Some(self.given(frame))
    }

    /// The next frame if it is there already.
    pub fn try_next(&mut self) -> Option<Frame> {
        if self.ended {
            return None;
        }
        let frame = self.frames.try_recv().ok()?;
        Some(self.given(frame))
    }

    /// Whether the last frame was given.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    fn given(&mut self, frame: Frame) -> Frame {
        self.ended = matches!(frame, Frame::Done { .. } | Frame::Failed { .. });
        frame
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
    /// Held by who counts.
    counting: Arc<Semaphore>,
    limits: Limits,
    /// Messages that a session keeps.
    stored_messages: usize,
    read_timeout: Duration,
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
                counting: Arc::new(Semaphore::new(1)),
                limits: Limits {
                    max_messages: context.max_messages,
                    max_tokens: context.max_tokens,
                },
                stored_messages: config.max_messages,
                read_timeout: config.read_timeout,
                write_timeout: config.write_timeout,
                turns: TaskTracker::new(),
            }),
        }
    }

    /// Looks up the character, reads the history at the same time, and lets the turn run. Everything is noted in `invocation`, which
    /// the turn lets go of before its last frame.
    ///
    /// # Errors
    /// The turn did not begin, and nothing is stored.
    pub async fn begin(&self, ask: Ask, invocation: Invocation) -> Result<Turn, Refusal> {
        let began_at_unix = SystemTime::now();
        let read_until = Instant::now() + self.inner.read_timeout;
        let id = TurnId::new();
        let inner = &self.inner;
        let memory = inner.memory.observed(&invocation);
        invocation.note_character(&ask.character);
        let (history, character) = tokio::join!(
            memory.load(&ask.user, &ask.character, inner.limits.max_messages),
            inner.characters.find(&ask.character, &invocation),
        );
        let character = character?;
        let unavailable = history.as_ref().err().map(memory::Error::reason);
        let fit = |history| {
            context::fit(
                &character.system_prompt,
                history,
                &ask.message,
                inner.limits,
            )
        };
        let rest = history.as_ref().map_or(0, |history| {
            history
                .stored
                .min(inner.stored_messages)
                .saturating_sub(history.read())
        });
        let (mut status, mut began, messages) = remembered(history, began_at_unix);
        let mut context = fit(messages)?;
        if context.has_room && rest > 0 {
            // Much of what was read is not of whole turns. Older turns are read as well, if that can be done in time.
            let all = memory.load(&ask.user, &ask.character, inner.stored_messages);
            if let Ok(Ok(history)) = timeout_at(read_until, all).await {
                let messages;
                (status, began, messages) = remembered(Ok(history), began_at_unix);
                context = fit(messages)?;
            }
        }
        let Context {
            messages,
            history_messages,
            ..
        } = context;

        invocation.note(|figures| {
            figures.degradation = unavailable;
            figures.turn = Some(TurnFigures {
                id,
                memory: status.as_str(),
                history_messages,
                // Unless it says otherwise when it ends, it ended by a defect.
                outcome: FailureCode::Internal.as_str(),
                upstream_error: None,
                first_delta: None,
                reply: None,
                tokens: None,
            });
        });
        let (relay, frames) = Relay::new(Frame::Start {
            memory: status,
            history_messages,
        });
        let task = Task {
            service: Arc::clone(inner),
            id,
            began,
            began_at_unix,
            prompt: prompt(&character, messages),
            ask,
            invocation,
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
            let status = if history.messages.is_empty() && history.skipped == 0 {
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
