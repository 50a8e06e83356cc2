//! One turn, from the message to the last frame. The only room that uses both the memory and the upstream.
//!
//! [`Chat::begin`] checks the request and loads the history. The turn then runs in its own task, so that a slow or
//! disconnected client can neither stall nor cancel it. Frames reach the client through a bounded channel. The last
//! frame is sent after the commit has been decided, because the platform may freeze the process as soon as the response
//! ends.

mod relay;
mod turn;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::value::RawValue;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use self::relay::Relay;
pub(crate) use self::turn::FINISH_MARGIN;
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

/// A request to start a turn.
#[derive(Debug)]
pub struct Ask {
    /// The authenticated user.
    pub user: UserId,
    /// The character addressed.
    pub character: CharacterId,
    /// The message text.
    pub message: String,
    /// Client metadata, stored verbatim with the message.
    pub metadata: Option<Box<RawValue>>,
    /// Time at which Lambda ends the invocation, if known.
    pub deadline: Option<Instant>,
}

/// The reason why a turn did not begin.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The character does not exist or could not be looked up.
    #[error(transparent)]
    Character(#[from] characters::Error),
    /// The message does not fit into the context window even without history, or the character's prompt alone does not.
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

/// Whether the history could be read when the turn began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryStatus {
    /// The history was read and holds messages.
    Ok,
    /// The history was read and is empty.
    Empty,
    /// The history could not be read. The turn runs without it.
    Unavailable,
}

impl MemoryStatus {
    /// Returns the value of `memory` in the HTTP API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Empty => "empty",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Numbers of tokens that a turn used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Number of tokens in the prompt, including the system prompt and the history.
    pub prompt_tokens: u64,
    /// Number of tokens in the reply.
    pub completion_tokens: u64,
}

/// The reason why a turn failed, as reported to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureCode {
    /// The upstream could not be reached, or cannot serve requests at present.
    UpstreamUnavailable,
    /// The upstream was silent for too long, or the invocation ran out of time.
    UpstreamTimeout,
    /// The upstream rejected the request.
    UpstreamRejected,
    /// The upstream failed mid-reply.
    UpstreamInterrupted,
    /// This service has a defect.
    Internal,
}

impl FailureCode {
    /// Returns the value of `code` in the HTTP API.
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

/// The reason why a complete reply is not stored: the value of `unsaved` in the HTTP API.
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
    /// Returns the value of `unsaved` in the HTTP API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cleared => "cleared",
            Self::Memory => "memory",
            Self::Empty => "empty",
        }
    }
}

/// One frame of a turn, as sent to the client: one `Start`, then any number of `Delta`s, then `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The turn has started.
    Start {
        /// Whether the history could be read.
        memory: MemoryStatus,
        /// Number of stored messages that are sent upstream.
        history_messages: usize,
    },
    /// The next piece of the reply's text.
    Delta(String),
    /// The reply is complete and the commit is decided.
    Done {
        /// Id of the reply's message.
        msg_id: String,
        /// Reason why the reply ended.
        finish_reason: FinishReason,
        /// The reason why the turn is not stored; `None` if it is.
        unsaved: Option<Unsaved>,
        /// Numbers of tokens that the turn used.
        usage: Usage,
    },
    /// The turn failed and the commit is decided.
    Failed {
        /// Reason why the turn failed.
        code: FailureCode,
        /// Whether the part of the reply that the client received is stored.
        saved: bool,
    },
}

/// A running turn, as seen by its client. Dropping it does not stop the turn.
#[derive(Debug)]
pub struct Turn {
    id: TurnId,
    frames: mpsc::Receiver<Frame>,
    ended: bool,
}

impl Turn {
    /// Returns the id of the turn.
    #[must_use]
    pub fn id(&self) -> TurnId {
        self.id
    }

    /// Waits for the next frame and returns it, or `None` after the last. Cancel-safe: no frame is lost.
    pub async fn next(&mut self) -> Option<Frame> {
        if self.ended {
            return None;
        }
        // Only a panic ends the task without a last frame.
        let frame = self.frames.recv().await.unwrap_or(Frame::Failed {
            code: FailureCode::Internal,
            saved: false,
        });
        Some(self.given(frame))
    }

    /// Returns the next frame if it is ready, and does not wait.
    pub fn try_next(&mut self) -> Option<Frame> {
        if self.ended {
            return None;
        }
        let frame = self.frames.try_recv().ok()?;
        Some(self.given(frame))
    }

    /// Returns whether the last frame was returned.
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
    /// Allows one exact token count at a time.
    counting: Arc<Semaphore>,
    limits: Limits,
    /// Messages that a session keeps.
    stored_messages: usize,
    read_timeout: Duration,
    write_timeout: Duration,
    /// The tasks of the running turns.
    turns: TaskTracker,
    /// Cancelled when the process shall end.
    ending: CancellationToken,
}

impl Chat {
    /// Returns a service over this memory and upstream. Its running turns settle, as at their deadlines, when `ending`
    /// is cancelled. Does no I/O.
    #[must_use]
    pub fn new(
        memory: Memory,
        characters: Characters,
        llm: Llm,
        context: ContextConfig,
        config: &MemoryConfig,
        ending: CancellationToken,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                memory,
                characters,
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
                ending,
            }),
        }
    }

    /// Starts a turn: looks up the character and loads the history concurrently, then spawns the turn's task.
    ///
    /// Figures are recorded in `invocation`; the turn drops its handle before it sends the last frame. A history that
    /// cannot be read is not an error: the turn runs without it.
    ///
    /// # Errors
    /// Returns [`Refusal`] if the character is not available or the message does not fit. Nothing is sent upstream or
    /// stored.
    pub async fn begin(&self, ask: Ask, invocation: Invocation) -> Result<Turn, Refusal> {
        let began_at_unix = SystemTime::now();
        let read_until = Instant::now() + self.inner.read_timeout;
        let id = TurnId::new();
        let inner = &self.inner;
        let (history, character) = tokio::join!(
            inner.memory.load(
                &invocation,
                &ask.user,
                &ask.character,
                inner.limits.max_messages
            ),
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
            let all = inner.memory.load(
                &invocation,
                &ask.user,
                &ask.character,
                inner.stored_messages,
            );
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
                // Stays only if the task panics, because the end of a turn always sets its outcome.
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
        // The task outlives the connection and ends by itself: every wait in it is bounded, except the wait for a
        // client that neither reads nor disconnects, and by then the commit is decided. `settle` awaits the task at the
        // end of the process.
        inner.turns.spawn(task.run().in_current_span());
        Ok(Turn {
            id,
            frames,
            ended: false,
        })
    }

    /// Waits until all running turns have ended. Call it before the process exits.
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
                Began::on_local_clock(began_at),
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
