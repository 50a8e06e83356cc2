//! One turn, from the message to the last frame. The only room that uses both the memory and the upstream.
//!
//! [`Chat::begin`] checks the request and loads the history. The turn then runs in its own task, so that a slow or
//! disconnected client can neither stall nor cancel it. Frames reach the client through a bounded channel. The last
//! frame is sent after the commit has been decided, because the platform may freeze the process as soon as the response
//! ends.

mod begin;
mod count;
mod follow;
mod frame;
mod opening;
mod prompt;
mod record;
mod relay;
mod turn;
mod understood;

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::follow::Reader;
pub use self::follow::Resume;
pub use self::frame::{FailureCode, Frame, MemoryStatus, Reply, Unsaved, Usage};
pub(crate) use self::turn::FINISH_MARGIN;
pub use self::understood::Understood;
use crate::capacity::{Capacity, Shortage};
use crate::characters::{self, Characters};
use crate::config::{ContextConfig, MemoryConfig};
use crate::context::{TooLong, Window};
use crate::ids::{CharacterId, IdempotencyKey, MessageId, TurnId, UserId};
use crate::limits::Limits;
use crate::llm::Llm;
use crate::memory::{self, Memory};
use crate::tokens::Counter;
use crate::turns::Turns;

/// A request to start a turn.
#[derive(Debug)]
pub struct Ask {
    /// The authenticated user.
    pub user: UserId,
    /// The character addressed.
    pub character: CharacterId,
    /// The message text; `None` to ask the message again that the turn replaces.
    pub message: Option<String>,
    /// The stored message of the user whose place the turn takes, with all after it.
    pub replaces: Option<MessageId>,
    /// The user's name, for `{{user}}` in cards; `None` for [`characters::USER`].
    pub user_name: Option<String>,
    /// The number of the character's greeting that the client showed, and that the message answers.
    pub greeting: Option<usize>,
    /// Client metadata, stored verbatim with the message.
    pub metadata: Option<Box<RawValue>>,
    /// The key of the request: all requests of the user with the same key are one turn.
    pub key: Option<IdempotencyKey>,
    /// Time at which Lambda ends the invocation, if known.
    pub deadline: Option<Instant>,
}

impl Ask {
    /// Returns the message text; empty if it is not known yet.
    fn text(&self) -> &str {
        self.message.as_deref().unwrap_or_default()
    }
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
    /// The message to replace is not stored.
    #[error("the message to replace is not stored")]
    MessageNotFound,
    /// The character has no greeting of the number that the request names.
    #[error("the character has no such greeting")]
    GreetingNotFound,
    /// The history could not be read, and the turn replaces a part of it.
    #[error(transparent)]
    HistoryUnavailable(memory::Error),
    /// The process carries as many turns as it can.
    #[error("the process is full: it lacks {}", .0.as_str())]
    Full(Shortage),
    /// The user has used up a limit, and may try again after this number of seconds.
    #[error("the user has used up a limit")]
    LimitReached(u64),
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

/// The rooms that a turn uses.
pub struct Rooms {
    /// The sessions.
    pub memory: Memory,
    /// The records of turns; `None` if turns are not recorded.
    pub records: Option<Turns>,
    /// What a user may use; `None` if nothing is limited.
    pub limits: Option<Limits>,
    /// The characters that users talk to.
    pub characters: Characters,
    /// The upstream.
    pub llm: Llm,
    /// How many turns the process carries at once.
    pub capacity: Arc<Capacity>,
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
    capacity: Arc<Capacity>,
    counter: Arc<Counter>,
    /// Allows one exact token count at a time.
    counting: Arc<Semaphore>,
    window: Window,
    /// The system prompt of cards that have none.
    default_system_prompt: String,
    /// What a user may use; `None` if nothing is limited.
    limits: Option<Limits>,
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
    /// Returns a service over these rooms. Turns are recorded and limited if these rooms are given. Running turns settle,
    /// as at their deadlines, when `ending` is cancelled. Does no I/O.
    #[must_use]
    pub fn new(
        rooms: Rooms,
        context: ContextConfig,
        config: &MemoryConfig,
        ending: CancellationToken,
    ) -> Self {
        let Rooms {
            memory,
            records,
            limits,
            characters,
            llm,
            capacity,
        } = rooms;
        Self {
            inner: Arc::new(Inner {
                memory,
                records,
                limits,
                characters,
                llm,
                capacity,
                counter: Arc::new(Counter::new()),
                counting: Arc::new(Semaphore::new(1)),
                window: Window {
                    max_messages: context.max_messages,
                    max_tokens: context.max_tokens,
                },
                default_system_prompt: context.default_system_prompt,
                stored_messages: config.max_messages,
                read_timeout: config.read_timeout,
                write_timeout: config.write_timeout,
                turns: TaskTracker::new(),
                ending,
            }),
        }
    }

    /// Waits until all running turns have ended. Call it before the process exits.
    pub async fn settle(&self) {
        self.inner.turns.close();
        self.inner.turns.wait().await;
    }
}
