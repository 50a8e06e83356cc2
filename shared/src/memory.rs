//! Short-term memory: the sessions of users with characters, stored in Redis.
//!
//! Every operation is one round trip within a time budget and is recorded in the invocation that calls it. A write that
//! is the first request on its connection takes one more, to read the server's clock. An error means that memory is
//! unavailable. It never stands for an empty memory.

mod mark;
mod scripts;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use self::mark::{ChangeId, Mark};
use crate::clock::unix_micros;
use crate::config::{KeyLayout, MemoryConfig};
use crate::ids::{CharacterId, TurnId, UserId};
use crate::keys::SessionKeys;
use crate::message::Message;
use crate::record::{Closing, LONGEST_TURN_SECONDS};
use crate::session::{self, Session, State};
pub use crate::store::Error;
use crate::store::{Call, Store, Value};
use crate::telemetry::{CommitResult, Invocation, Operation};

/// Largest allowed difference between the local clock and Redis's clock. It only matters for a turn that began while
/// Redis could not report its time.
const CLOCK_SKEW: Duration = Duration::from_secs(5);

/// When a turn began. A later clear wins over the turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Began {
    /// The moment on Redis's clock, in Unix microseconds.
    redis_micros: u64,
    /// The mark of the last clear that the turn has read; `None` if it could not be read. Then the moment decides
    /// whether a clear was later.
    mark: Option<Mark>,
}

impl Began {
    /// Returns the beginning of a turn whose history could not be read, so that its time on Redis's clock is unknown.
    /// The time is set early by the largest allowed clock difference, so that a clear still wins over the turn.
    #[must_use]
    pub fn on_local_clock(now: SystemTime) -> Self {
        let early = now.checked_sub(CLOCK_SKEW).unwrap_or(UNIX_EPOCH);
        Self {
            redis_micros: unix_micros(early),
            mark: None,
        }
    }
}

/// The newest part of a conversation.
#[derive(Debug)]
pub struct History {
    /// The newest messages, oldest first.
    pub messages: Vec<Message>,
    /// The number of elements that were read but are not valid messages, and were left out.
    pub skipped: usize,
    /// The number of elements in the stored list, including those that were not read.
    pub stored: usize,
    /// When the history was read. This is when the turn that reads it began.
    pub read_at: Began,
}

impl History {
    /// Returns the number of elements that were read, including those that were left out.
    #[must_use]
    pub fn read(&self) -> usize {
        self.messages.len() + self.skipped
    }
}

/// A user's message and its reply, stored together or not at all.
#[derive(Debug)]
pub struct NewTurn {
    /// The turn's id. Committing it again stores nothing, for 10 minutes or until 127 later turns are stored.
    pub id: TurnId,
    /// When the turn began.
    pub began: Began,
    /// The user's message.
    pub user: Message,
    /// The character's reply.
    pub assistant: Message,
}

/// The outcome of a commit to which Redis replied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// This commit stored the turn.
    Saved,
    /// An earlier attempt, whose reply was lost, stored the turn.
    Duplicate,
    /// The turn is not stored: the session was cleared after the turn began.
    Fenced,
    /// The turn is not stored: another turn has its idempotency key.
    Conflict,
    /// The turn is not stored: its record was closed because the lease of its process had run out.
    Lost,
}

impl Commit {
    /// Returns whether the turn is in Redis.
    #[must_use]
    pub fn is_saved(self) -> bool {
        match self {
            Self::Saved | Self::Duplicate => true,
            Self::Fenced | Self::Conflict | Self::Lost => false,
        }
    }
}

/// Short-term memory. Cheap to clone; clones share one connection.
#[derive(Clone)]
pub struct Memory {
    store: Store,
    layout: KeyLayout,
    max_messages: usize,
    ttl_seconds: u64,
    cleared_ttl_seconds: u64,
}

impl Memory {
    /// Returns the memory that is stored in `store`. Connects to nothing.
    #[must_use]
    pub fn new(store: Store, layout: KeyLayout, config: &MemoryConfig) -> Self {
        Self {
            store,
            layout,
            max_messages: config.max_messages,
            ttl_seconds: config.ttl_seconds,
            // A record of before the clear must not outlive the mark that hides it.
            cleared_ttl_seconds: scripts::CLEARED_TTL_SECONDS
                .max(config.turn_ttl_seconds + LONGEST_TURN_SECONDS),
        }
    }

    /// Returns the newest messages of a session, at most `most` of them. A session that does not exist has an empty
    /// history.
    ///
    /// # Errors
    /// Memory is unavailable.
    pub async fn load(
        &self,
        invocation: &Invocation,
        user: &UserId,
        character: &CharacterId,
        most: usize,
    ) -> Result<History, Error> {
        let call = load(&self.keys(user, character), most);
        let loaded: Loaded = self.store.read(invocation, Operation::Load, &call).await?;
        Ok(history(invocation, loaded))
    }

    /// Stores a turn, unless it is stored already or the session was cleared after the turn began.
    ///
    /// # Errors
    /// Memory is unavailable. The turn is then either not stored, or stored once by an attempt whose reply was lost.
    pub async fn commit_turn(
        &self,
        invocation: &Invocation,
        user: &UserId,
        character: &CharacterId,
        turn: &NewTurn,
    ) -> Result<Commit, Error> {
        self.commit_and_close(invocation, user, character, turn, None)
            .await
    }

    /// As [`Memory::commit_turn`], and closes the turn's record in the same step, whatever comes of the commit.
    ///
    /// # Errors
    /// Memory is unavailable. The turn is then either not stored, or stored once by an attempt whose reply was lost.
    pub(crate) async fn commit_and_close(
        &self,
        invocation: &Invocation,
        user: &UserId,
        character: &CharacterId,
        turn: &NewTurn,
        closing: Option<&Closing>,
    ) -> Result<Commit, Error> {
        let keys = self.keys(user, character);
        let id = turn.id.to_string();
        let messages = [&turn.user, &turn.assistant];
        let tokens: i64 = messages
            .iter()
            .map(|message| message.token_count.max(0))
            .fold(0, i64::saturating_add);
        let messages = messages.map(Message::to_json);
        let commit = |until: u64| {
            let call = Call::script(
                &scripts::COMMIT,
                [&keys.messages, &keys.meta, &keys.cleared],
            )
            .arg(&id)
            .arg(turn.began.redis_micros)
            .arg(self.max_messages)
            .arg(self.ttl_seconds)
            .arg(tokens)
            .arg(until)
            .arg(turn.began.mark.as_ref().map_or(UNREAD, Mark::as_bytes));
            let call = match closing {
                Some(closing) => closing.add_to(call),
                None => call,
            };
            call.arg(&messages)
        };
        let answer: Result<String, Error> = self
            .store
            .write_to_replicas(
                invocation,
                Operation::Commit,
                &keys.messages,
                is_stored,
                &commit,
            )
            .await;
        let commit = answer.and_then(|answer| {
            let mut words = answer.split(':');
            let commit = match words.next() {
                Some("saved") => Commit::Saved,
                Some("duplicate") => Commit::Duplicate,
                Some("fenced") => Commit::Fenced,
                Some("conflict") => Commit::Conflict,
                Some("lost") => Commit::Lost,
                _ => return Err(Error::Unexpected),
            };
            words.for_each(warn);
            Ok(commit)
        });
        let result = match &commit {
            Ok(Commit::Saved) => CommitResult::Saved,
            Ok(Commit::Duplicate) => CommitResult::Duplicate,
            Ok(Commit::Fenced) => CommitResult::Fenced,
            Ok(Commit::Conflict) => CommitResult::Conflict,
            Ok(Commit::Lost) => CommitResult::Lost,
            Err(_) => CommitResult::Failed,
        };
        invocation.note(|figures| figures.commit = Some(result));
        commit
    }

    /// Deletes a session. A turn that began before the deletion is never stored after it.
    ///
    /// # Errors
    /// Memory is unavailable. The session may have been deleted nevertheless.
    pub async fn clear(
        &self,
        invocation: &Invocation,
        user: &UserId,
        character: &CharacterId,
    ) -> Result<(), Error> {
        let keys = self.keys(user, character);
        let id = ChangeId::new().to_string();
        let clear = |until: u64| {
            Call::script(&scripts::CLEAR, [&keys.messages, &keys.meta, &keys.cleared])
                .arg(self.cleared_ttl_seconds)
                .arg(until)
                .arg(&id)
        };
        let answer: String = self
            .store
            .write_to_replicas(
                invocation,
                Operation::Clear,
                &keys.messages,
                |_| true,
                &clear,
            )
            .await?;
        match answer.as_str() {
            "cleared" => Ok(()),
            _ => Err(Error::Unexpected),
        }
    }

    /// Returns a session, or `None` if it does not exist.
    ///
    /// # Errors
    /// Memory is unavailable.
    pub async fn session(
        &self,
        invocation: &Invocation,
        user: &UserId,
        character: &CharacterId,
    ) -> Result<Option<Session>, Error> {
        let keys = self.keys(user, character);
        let call = Call::script(
            &scripts::SESSION,
            [&keys.messages, &keys.meta, &keys.cleared],
        )
        .arg("");
        let fields = self
            .store
            .read(invocation, Operation::Session, &call)
            .await?;
        Ok(read_session(invocation, fields))
    }

    /// Sets a session's state and returns the session, or `None` if it does not exist. Never creates a session and
    /// never changes its expiry.
    ///
    /// # Errors
    /// Memory is unavailable. The state may have been set nevertheless, but is not set later.
    pub async fn set_state(
        &self,
        invocation: &Invocation,
        user: &UserId,
        character: &CharacterId,
        state: State,
    ) -> Result<Option<Session>, Error> {
        let keys = self.keys(user, character);
        let id = ChangeId::new().to_string();
        let change = |until: u64| {
            Call::script(
                &scripts::SESSION,
                [&keys.messages, &keys.meta, &keys.cleared],
            )
            .arg(state.as_str())
            .arg(until)
            .arg(&id)
        };
        let fields = self
            .store
            .write(invocation, Operation::SetState, &keys.messages, &change)
            .await?;
        Ok(read_session(invocation, fields))
    }

    fn keys(&self, user: &UserId, character: &CharacterId) -> SessionKeys {
        SessionKeys::new(self.layout, user, character)
    }
}

/// What the commit script gets in place of a mark that the turn could not read.
const UNREAD: &[u8] = b"?";

/// The reply to [`load`]: the time in seconds and microseconds, the mark of the last clear, the elements from the
/// newest to the oldest, and the length of the list.
type Loaded = ((u64, u64), Option<Vec<u8>>, Vec<Vec<u8>>, usize);

/// Returns the history from the reply to [`load`], and records its length.
fn history(
    invocation: &Invocation,
    ((seconds, micros), mark, elements, stored): Loaded,
) -> History {
    record_stored(invocation, u64::try_from(stored).unwrap_or(u64::MAX));
    let read = elements.len();
    let messages: Vec<Message> = elements
        .iter()
        .rev()
        .filter_map(|element| Message::from_json(element).ok())
        .collect();
    History {
        skipped: read - messages.len(),
        stored,
        messages,
        read_at: Began {
            redis_micros: seconds.saturating_mul(1_000_000).saturating_add(micros),
            mark: Some(Mark::read(mark.as_deref())),
        },
    }
}

/// Returns the request for the newest `most` messages. It reads the mark first: a clear between the commands then
/// leaves another mark than the turn has read, and the turn is not stored.
fn load(keys: &SessionKeys, most: usize) -> Call {
    let range = match isize::try_from(most) {
        Ok(0) => [1, 0],
        Ok(most) => [0, most - 1],
        Err(_) => [0, -1],
    };
    Call::reads(&keys.messages)
        .and::<&str>("GET", &keys.cleared, &[])
        .and("LRANGE", &keys.messages, &range)
        .and::<&str>("LLEN", &keys.messages, &[])
}

/// Returns whether the reply of the commit script means that the turn is in Redis.
fn is_stored(reply: &Value) -> bool {
    match reply {
        Value::BulkString(word) => word.starts_with(b"saved") || word == b"duplicate",
        _ => false,
    }
}

/// Logs a notice of the commit script.
fn warn(notice: &str) {
    match notice.strip_prefix("ahead=") {
        Some(seconds) => tracing::warn!(
            seconds,
            "the mark of a clear is ahead of Redis's clock and was ignored"
        ),
        None => warn_evicted(notice),
    }
}

/// Logs that Redis has evicted a part of a session: `no_messages` or `no_figures`.
fn warn_evicted(missing: &str) {
    tracing::warn!(
        missing,
        "a part of a session is gone; Redis may have evicted it for lack of memory"
    );
}

/// Returns the session from the reply of the session script, and records the length of its list.
fn read_session(invocation: &Invocation, fields: Option<Vec<Option<String>>>) -> Option<Session> {
    let fields = fields?;
    let field = |index: usize| fields.get(index).and_then(Option::as_deref);
    let figure = |index| field(index).and_then(session::figure);
    let moment = |index| field(index).and_then(session::moment);
    let stored_messages = figure(5).unwrap_or(0);
    record_stored(invocation, u64::try_from(stored_messages).unwrap_or(0));
    if stored_messages == 0 && figure(7).is_some_and(|stored| stored > 0) {
        warn_evicted("no_messages");
    }
    Some(Session {
        state: field(0).and_then(State::parse).unwrap_or(State::Active),
        last_active_at: moment(1),
        message_count: figure(2).unwrap_or(0).max(0),
        session_start: moment(3),
        total_tokens: figure(4).unwrap_or(0).max(0),
        stored_messages,
        expires_in: figure(6).filter(|seconds| *seconds >= 0),
    })
}

fn record_stored(invocation: &Invocation, messages: u64) {
    invocation.note(|figures| figures.stored_messages = Some(messages));
}
