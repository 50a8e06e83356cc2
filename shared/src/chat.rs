//! One turn, from the message to the last frame. The only room that uses both the memory and the upstream.
//!
//! [`Chat::begin`] checks the request and loads the history. The turn then runs in its own task, so that a slow or
//! disconnected client can neither stall nor cancel it. Frames reach the client through a bounded channel. The last
//! frame is sent after the commit has been decided, because the platform may freeze the process as soon as the response
//! ends.

mod count;
mod follow;
mod frame;
mod opening;
mod record;
mod relay;
mod turn;

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

pub use self::follow::Resume;
use self::follow::{Reader, Repeated};
pub use self::frame::{FailureCode, Frame, MemoryStatus, Reply, Unsaved, Usage};
use self::opening::{Opening, remembered};
use self::relay::Relay;
pub(crate) use self::turn::FINISH_MARGIN;
use self::turn::Task;
use crate::characters::{self, Character, Characters};
use crate::config::{ContextConfig, MemoryConfig};
use crate::context::{self, Context, Limits, TooLong};
use crate::ids::{CharacterId, IdempotencyKey, TurnId, UserId};
use crate::llm::{Llm, Prompt};
use crate::memory::{self, Memory};
use crate::message::PromptMessage;
use crate::telemetry::{Invocation, TurnFigures};
use crate::tokens::Counter;
use crate::turns::{Claim, Turns};

/// Most attempts to claim a turn whose key belongs to dead turns, or to one whose record is gone.
const MAX_CLAIMS: usize = 3;

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
    /// The key of the request: all requests of the user with the same key are one turn.
    pub key: Option<IdempotencyKey>,
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
    /// The idempotency key belongs to a request with another content.
    #[error("the idempotency key belongs to another request")]
    KeyReused,
    /// The turn of the idempotency key, or the turn to resume, is unknown, forgotten or cleared.
    #[error("the turn is not remembered")]
    TurnNotFound,
    /// The text that a client wants to leave out does not end where an event of the turn ended.
    #[error("the offset is not the id of an event")]
    NotAnOffset,
    /// The record of the turn could not be read.
    #[error(transparent)]
    Unavailable(memory::Error),
}

/// A turn, as seen by one of its clients. Dropping it does not stop the turn.
pub struct Turn {
    id: TurnId,
    source: Source,
    /// Bytes of the reply's text that the client has seen before.
    seen: usize,
    ended: bool,
}

/// Where the frames of a turn come from.
enum Source {
    /// From the turn's task, in this process.
    Own(mpsc::Receiver<Frame>),
    /// From the turn's record.
    Record(Box<Reader>),
}

impl Turn {
    /// Returns the id of the turn.
    #[must_use]
    pub fn id(&self) -> TurnId {
        self.id
    }

    /// Returns the number of bytes of the reply's text that come before the first frame.
    #[must_use]
    pub fn seen(&self) -> usize {
        self.seen
    }

    /// Waits for the next frame and returns it, or `None` after the last. A turn that is read from its record may also
    /// end before its last frame: the client must come back. Cancel-safe: no frame is lost.
    pub async fn next(&mut self) -> Option<Frame> {
        if self.ended {
            return None;
        }
        let frame = match &mut self.source {
            // Only a panic ends the task without a last frame.
            Source::Own(frames) => frames.recv().await.unwrap_or(Frame::Failed {
                code: FailureCode::Internal,
                saved: false,
            }),
            Source::Record(reader) => {
                let Some(frame) = reader.next().await else {
                    self.ended = true;
                    return None;
                };
                frame
            }
        };
        Some(self.given(frame))
    }

    /// Returns the next frame if it is ready, and does not wait.
    pub fn try_next(&mut self) -> Option<Frame> {
        if self.ended {
            return None;
        }
        let Source::Own(frames) = &mut self.source else {
            return None;
        };
        let frame = frames.try_recv().ok()?;
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
    /// `None` if turns are not recorded.
    records: Option<Turns>,
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
    /// Returns a service over this memory and upstream. Turns are recorded in `records`, if it is given. Its running
    /// turns settle, as at their deadlines, when `ending` is cancelled. Does no I/O.
    #[must_use]
    pub fn new(
        memory: Memory,
        records: Option<Turns>,
        characters: Characters,
        llm: Llm,
        context: ContextConfig,
        config: &MemoryConfig,
        ending: CancellationToken,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                memory,
                records,
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

    /// Starts a turn: looks up the character, loads the history and claims the turn concurrently, then spawns the
    /// turn's task. If the same request has begun a turn before, that turn is returned, from its beginning.
    ///
    /// Figures are recorded in `invocation`; the turn drops its handle before it sends the last frame. A history that
    /// cannot be read is not an error: the turn runs without it.
    ///
    /// # Errors
    /// Returns [`Refusal`] if the character is not available, the message does not fit, or the idempotency key is of
    /// another request. Nothing is sent upstream or stored.
    pub async fn begin(&self, ask: Ask, invocation: Invocation) -> Result<Turn, Refusal> {
        let mut replaces = None;
        for _ in 0..MAX_CLAIMS {
            let opening = self.open(&ask, &invocation, replaces).await;
            match opening.claim {
                Claim::Owned | Claim::Unknown => {
                    let (claim, record) = (opening.claim, opening.record.clone());
                    let begun = self.run(ask, invocation.clone(), opening).await;
                    if let (Err(_), Some(record)) = (&begun, record) {
                        match claim {
                            Claim::Owned => record.release(&invocation).await,
                            // The claim may have succeeded, or may yet. The refusal does not wait for that.
                            _ => drop(tokio::spawn(async move {
                                record.release(&Invocation::detached()).await;
                            })),
                        }
                    }
                    return begun;
                }
                Claim::Reused => return Err(Refusal::KeyReused),
                Claim::Other(id) => {
                    replaces = match self.repeat(&ask, &invocation, id).await? {
                        Repeated::Turn(turn) => return Ok(turn),
                        Repeated::Lost => Some(id),
                        Repeated::Gone => None,
                    };
                    // What refused that turn may refuse this one.
                    let character = opening.character?;
                    let (prompt, limits) = (&character.system_prompt, self.inner.limits);
                    context::fit(prompt, Vec::new(), &ask.message, limits)?;
                }
            }
        }
        Err(Refusal::TurnNotFound)
    }

    /// Begins the turn that was opened, in a task of its own.
    async fn run(
        &self,
        ask: Ask,
        invocation: Invocation,
        opening: Opening,
    ) -> Result<Turn, Refusal> {
        let Opening {
            id,
            record,
            claim,
            began_at_unix,
            read_until,
            round_trip,
            history,
            character,
        } = opening;
        let inner = &self.inner;
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
        let start = Frame::Start {
            memory: status,
            history_messages,
            resumable: claim == Claim::Owned,
        };
        let start_text = record::start_text(&start);
        let (relay, frames) = Relay::new(start);
        let task = Task {
            service: Arc::clone(inner),
            id,
            record,
            start_text,
            round_trip,
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
            source: Source::Own(frames),
            seen: 0,
            ended: false,
        })
    }

    /// Waits until all running turns have ended. Call it before the process exits.
    pub async fn settle(&self) {
        self.inner.turns.close();
        self.inner.turns.wait().await;
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
