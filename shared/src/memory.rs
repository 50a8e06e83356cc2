//! Short-term memory: the sessions of users with characters, kept in Redis.
//!
//! Every operation is one round trip within a budget, and is recorded in the invocation that asks for it. An error means that
//! memory is unavailable, which is never the same as memory that is empty.

mod scripts;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clock::{micros, unix_micros};
use crate::config::{KeyLayout, MemoryConfig};
use crate::ids::{CharacterId, TurnId, UserId};
use crate::keys::SessionKeys;
use crate::message::Message;
use crate::session::{self, Session, State};
pub use crate::store::Error;
use crate::store::{Call, Pipeline, Store};
use crate::telemetry::{CommitResult, Invocation, Operation};

/// The largest difference between a local clock and Redis's that is allowed for. It only matters for a turn that began while
/// Redis could not be asked for the time.
const CLOCK_SKEW: Duration = Duration::from_secs(2);

/// When a turn began, so that a clear that came later wins over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Began {
    redis_micros: u64,
    /// The same moment on the local clock, from which the elapsed time is measured.
    local: SystemTime,
}

impl Began {
    /// Returns the beginning of a turn whose history could not be read, which Redis has therefore not seen. It is dated early
    /// by the largest clock difference that is allowed for, so that a clear still wins over it.
    #[must_use]
    pub fn on_local_clock(now: SystemTime) -> Self {
        let early = now.checked_sub(CLOCK_SKEW).unwrap_or(UNIX_EPOCH);
        Self {
            redis_micros: unix_micros(early),
            local: early,
        }
    }

    /// Returns an estimate of the present on Redis's clock, in Unix microseconds.
    fn redis_now(self, now: SystemTime) -> u64 {
        let elapsed = now.duration_since(self.local).unwrap_or_default();
        self.redis_micros.saturating_add(micros(elapsed))
    }
}

/// The newest part of a conversation.
#[derive(Debug)]
pub struct History {
    /// The newest messages, oldest first.
    pub messages: Vec<Message>,
    /// The number of elements that could not be read as messages and were left out.
    pub skipped: usize,
    /// The number of stored elements, those that were not asked for included.
    pub stored: usize,
    /// When the history was read.
    pub read_at: Began,
}

impl History {
    /// How many elements were read, those that were left out included.
    #[must_use]
    pub fn read(&self) -> usize {
        self.messages.len() + self.skipped
    }
}

/// A message and its reply, to be stored together or not at all.
#[derive(Debug)]
pub struct NewTurn {
    /// The turn's id. A commit is idempotent by it.
    pub id: TurnId,
    /// When the turn began.
    pub began: Began,
    /// The user's message.
    pub user: Message,
    /// The character's reply.
    pub assistant: Message,
}

/// The outcome of a commit that Redis answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// The turn is stored now.
    Saved,
    /// An earlier attempt, whose answer was lost, has stored the turn.
    Duplicate,
    /// The turn is not stored: the session was cleared after the turn began.
    Fenced,
}

impl Commit {
    /// Returns whether the turn is in Redis.
    #[must_use]
    pub fn is_saved(self) -> bool {
        match self {
            Self::Saved | Self::Duplicate => true,
            Self::Fenced => false,
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
}

impl Memory {
    /// Returns the memory behind `store`. Touches no network.
    #[must_use]
    pub fn new(store: Store, layout: KeyLayout, config: &MemoryConfig) -> Self {
        Self {
            store,
            layout,
            max_messages: config.max_messages,
            ttl_seconds: config.ttl_seconds,
        }
    }

    /// Reads the newest `most` messages.
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
        let keys = self.keys(user, character);
        let call = load(&keys.messages, most);
        let ((seconds, micros), elements, stored): ((u64, u64), Vec<Vec<u8>>, usize) =
            self.store.read(invocation, Operation::Load, &call).await?;
        record_stored(invocation, u64::try_from(stored).unwrap_or(u64::MAX));
        let read = elements.len();
        let messages: Vec<Message> = elements
            .iter()
            .rev()
            .filter_map(|element| Message::from_json(element).ok())
            .collect();
        Ok(History {
            skipped: read - messages.len(),
            stored,
            messages,
            read_at: Began {
                redis_micros: seconds.saturating_mul(1_000_000).saturating_add(micros),
                local: SystemTime::now(),
            },
        })
    }

    /// Stores a turn, unless it is stored already or the session was cleared after the turn began.
    ///
    /// # Errors
    /// Memory is unavailable. The turn is then stored at most once: not at all, or by an attempt whose answer was lost.
    pub async fn commit_turn(
        &self,
        invocation: &Invocation,
        user: &UserId,
        character: &CharacterId,
        turn: &NewTurn,
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
            Call::script(
                &scripts::COMMIT,
                [&keys.messages, &keys.meta, &keys.cleared],
            )
            .arg(&id)
            .arg(turn.began.redis_micros)
            .arg(self.max_messages)
            .arg(self.ttl_seconds)
            .arg(tokens)
            .arg(until)
            .arg(&messages)
        };
        let redis_now = turn.began.redis_now(SystemTime::now());
        let answer = self
            .store
            .write(invocation, Operation::Commit, redis_now, commit)
            .await;
        let commit = answer.and_then(|answer| match answer.as_str() {
            "saved" => Ok(Commit::Saved),
            "duplicate" => Ok(Commit::Duplicate),
            "fenced" => Ok(Commit::Fenced),
            _ => Err(Error::Unexpected),
        });
        let result = match &commit {
            Ok(Commit::Saved) => CommitResult::Saved,
            Ok(Commit::Duplicate) => CommitResult::Duplicate,
            Ok(Commit::Fenced) => CommitResult::Fenced,
            Err(_) => CommitResult::Failed,
        };
        invocation.note(|figures| figures.commit = Some(result));
        commit
    }

    /// Deletes a session. Turns that began before are not stored after it.
    ///
    /// # Errors
    /// Memory is unavailable, and the session may or may not be deleted.
    pub async fn clear(
        &self,
        invocation: &Invocation,
        user: &UserId,
        character: &CharacterId,
    ) -> Result<(), Error> {
        let keys = self.keys(user, character);
        let clear = |until: u64| {
            Call::script(&scripts::CLEAR, [&keys.messages, &keys.meta, &keys.cleared])
                .arg(scripts::CLEARED_TTL_SECONDS)
                .arg(until)
        };
        let redis_now = unix_micros(SystemTime::now());
        let answer = self
            .store
            .write(invocation, Operation::Clear, redis_now, clear)
            .await?;
        match answer.as_str() {
            "cleared" => Ok(()),
            _ => Err(Error::Unexpected),
        }
    }

    /// Reads a session; `None` where there is none.
    ///
    /// # Errors
    /// Memory is unavailable.
    pub async fn session(
        &self,
        invocation: &Invocation,
        user: &UserId,
        character: &CharacterId,
    ) -> Result<Option<Session>, Error> {
        let call = self.session_call(user, character, "");
        let fields = self
            .store
            .read(invocation, Operation::Session, &call)
            .await?;
        Ok(read_session(invocation, fields))
    }

    /// Sets a session's state and reads the session; `None` where there is none. Never creates one and never changes when one
    /// expires.
    ///
    /// # Errors
    /// Memory is unavailable.
    pub async fn set_state(
        &self,
        invocation: &Invocation,
        user: &UserId,
        character: &CharacterId,
        state: State,
    ) -> Result<Option<Session>, Error> {
        let call = self.session_call(user, character, state.as_str());
        let fields = self
            .store
            .change(invocation, Operation::SetState, &call)
            .await?;
        Ok(read_session(invocation, fields))
    }

    fn session_call(&self, user: &UserId, character: &CharacterId, state: &str) -> Call {
        let keys = self.keys(user, character);
        Call::script(&scripts::SESSION, [&keys.messages, &keys.meta]).arg(state)
    }

    fn keys(&self, user: &UserId, character: &CharacterId) -> SessionKeys {
        SessionKeys::new(self.layout, user, character)
    }
}

/// Returns the request for the newest `most` messages. The time comes first: a clear between the commands is then one that
/// came after the turn began, and the turn is not stored after it.
fn load(messages: &str, most: usize) -> Call {
    let (first, last) = match most.checked_sub(1) {
        Some(last) => (0, last),
        None => (1, 0),
    };
    let mut commands = Pipeline::new();
    commands
        .cmd("TIME")
        .cmd("LRANGE")
        .arg(messages)
        .arg(first)
        .arg(last)
        .cmd("LLEN")
        .arg(messages);
    Call::script(&scripts::LOAD, [messages])
        .arg(first)
        .arg(last)
        .or_plain(commands)
}

/// Returns the session in the answer of the session script, and records its length.
fn read_session(invocation: &Invocation, fields: Option<Vec<Option<String>>>) -> Option<Session> {
    let fields = fields?;
    let field = |index: usize| fields.get(index).and_then(Option::as_deref);
    let figure = |index| field(index).and_then(session::figure);
    let moment = |index| field(index).and_then(session::moment);
    let stored_messages = figure(5).unwrap_or(0);
    record_stored(invocation, u64::try_from(stored_messages).unwrap_or(0));
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
