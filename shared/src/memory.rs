//! Short-term memory: the sessions of users with characters, stored in Redis.
//!
//! Every operation is within a time budget and is recorded in the invocation that calls it. It is one round trip, but for
//! a list of sessions, an erasure and an odd page of history. A write that is the first request on its connection takes
//! one more, to read the server's clock. An error means that memory is
//! unavailable. It never stands for an empty memory.

mod change;
mod commit;
mod erase;
mod export;
mod list;
mod mark;
mod owned;
mod page;
mod read;
mod scripts;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use self::change::Rewind;
pub use self::commit::{Commit, NewTurn};
pub use self::erase::Erased;
pub use self::export::StoredSession;
pub use self::list::{LastMessage, Listed, Sessions};
use self::mark::Mark;
pub use self::owned::Owned;
pub use self::page::Page;
use crate::clock::unix_micros;
use crate::config::{KeyLayout, MemoryConfig};
use crate::ids::{CharacterId, MessageId, UserId};
use crate::keys::SessionKeys;
use crate::message::{Message, Role};
use crate::record::{Beginning, LONGEST_TURN_SECONDS, UNREAD};
use crate::session;
pub use crate::store::Error;
use crate::store::{Call, Store};
use crate::telemetry::{Invocation, Operation};

/// Largest allowed difference between the local clock and Redis's clock. It only matters for a turn that began while
/// Redis could not report its time.
const CLOCK_SKEW: Duration = Duration::from_secs(5);

/// When a turn began. A later clear or erasure wins over the turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Began {
    /// The moment on Redis's clock, in Unix microseconds.
    redis_micros: u64,
    /// The marks that the turn has read; `None` if they could not be read. Then the moment decides what was later.
    marks: Option<Marks>,
}

/// The marks that a turn reads when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Marks {
    /// The mark of the session's last clear.
    cleared: Mark,
    /// The mark of the last time that the user's data was erased.
    erased: Mark,
}

impl Began {
    /// Returns the beginning of a turn whose history could not be read, so that its time on Redis's clock is unknown.
    /// The time is set early by the largest allowed clock difference, so that a clear still wins over the turn.
    #[must_use]
    pub fn on_local_clock(now: SystemTime) -> Self {
        let early = now.checked_sub(CLOCK_SKEW).unwrap_or(UNIX_EPOCH);
        Self {
            redis_micros: unix_micros(early),
            marks: None,
        }
    }

    /// Returns the mark of the session's last clear, as scripts compare it.
    fn cleared(&self) -> &[u8] {
        self.marks
            .as_ref()
            .map_or(UNREAD, |marks| marks.cleared.as_bytes())
    }

    /// Returns the mark of the last time that the user's data was erased, as scripts compare it.
    fn erased(&self) -> &[u8] {
        self.marks
            .as_ref()
            .map_or(UNREAD, |marks| marks.erased.as_bytes())
    }

    /// Returns what scripts beside the commit need of it.
    pub(crate) fn beginning(&self) -> Beginning {
        Beginning {
            erased: self.erased().to_vec(),
            redis_micros: self.redis_micros,
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
    /// The number of messages that were dropped from the session because it had too many.
    pub trimmed: u64,
    /// The number of the greeting that began the session; `None` if it began without one, or that is not known.
    pub greeting: Option<usize>,
    /// When the history was read. This is when the turn that reads it began.
    pub read_at: Began,
}

impl History {
    /// Returns the number of elements that were read, including those that were left out.
    #[must_use]
    pub fn read(&self) -> usize {
        self.messages.len() + self.skipped
    }

    /// Returns whether the session has had no message, but for those that were removed on request.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.stored == 0 && self.trimmed == 0
    }

    /// Returns the number of messages of the session that are older than those that were read, stored or not.
    #[must_use]
    pub(crate) fn older(&self) -> u64 {
        let unread = self.stored.saturating_sub(self.read());
        let unread = u64::try_from(unread).unwrap_or(u64::MAX);
        self.trimmed.saturating_add(unread)
    }

    /// Removes a message of the user and all after it, and returns it; `None` if there is no such message.
    pub(crate) fn cut_at(&mut self, id: &MessageId) -> Option<Message> {
        let is_it = |message: &Message| message.role == Role::User && message.msg_id == id.as_str();
        let at = self.messages.iter().rposition(is_it)?;
        self.stored = self.stored.saturating_sub(self.messages.len() - at);
        self.messages.drain(at..).next()
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

    fn keys(&self, user: &UserId, character: &CharacterId) -> SessionKeys {
        SessionKeys::new(self.layout, user, character)
    }
}

/// The reply to [`load`]: the time in seconds and microseconds, the marks of the last clear and of the last erasure, the
/// elements from the newest to the oldest, the length of the list, and two fields of the session.
type Loaded = (
    (u64, u64),
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Vec<Vec<u8>>,
    usize,
    [Option<Vec<u8>>; 2],
);

/// Returns the history from the reply to [`load`], and records its length.
fn history(
    invocation: &Invocation,
    ((seconds, micros), cleared, erased, elements, stored, figures): Loaded,
) -> History {
    record_stored(invocation, u64::try_from(stored).unwrap_or(u64::MAX));
    let read = elements.len();
    let messages = parsed(&elements);
    let [trimmed, greeting] = figures.map(|figure| {
        let figure = session::figure(str::from_utf8(&figure?).ok()?)?;
        u64::try_from(figure).ok()
    });
    History {
        skipped: read - messages.len(),
        stored,
        trimmed: trimmed.unwrap_or(0),
        greeting: greeting.and_then(|number| usize::try_from(number).ok()),
        messages,
        read_at: Began {
            redis_micros: seconds.saturating_mul(1_000_000).saturating_add(micros),
            marks: Some(Marks {
                cleared: Mark::read(cleared.as_deref()),
                erased: Mark::read(erased.as_deref()),
            }),
        },
    }
}

/// Returns the messages of a list, oldest first. Elements that are none are left out.
fn parsed(elements: &[Vec<u8>]) -> Vec<Message> {
    let newest_first = elements.iter().rev();
    newest_first
        .filter_map(|element| Message::from_json(element).ok())
        .collect()
}

/// Returns the request for the newest `most` messages. It reads the marks first: a clear between the commands then
/// leaves another mark than the turn has read, and the turn is not stored. HMGET, because a commit needs the right to it
/// anyway.
fn load(keys: &SessionKeys, most: usize) -> Call {
    Call::reads(&keys.messages)
        .and::<&str>("GET", &keys.cleared, &[])
        .and::<&str>("GET", &keys.erased, &[])
        .and("LRANGE", &keys.messages, &newest(most))
        .and::<&str>("LLEN", &keys.messages, &[])
        .and("HMGET", &keys.meta, &["trimmed", "greeting"])
}

/// Returns the range of a list that holds its newest `most` elements.
fn newest(most: usize) -> [isize; 2] {
    match isize::try_from(most) {
        Ok(0) => [1, 0],
        Ok(most) => [0, most - 1],
        Err(_) => [0, -1],
    }
}

fn record_stored(invocation: &Invocation, messages: u64) {
    invocation.note(|figures| figures.stored_messages = Some(messages));
}

/// Logs that Redis has evicted a part of a session: `no_messages` or `no_figures`.
fn warn_evicted(missing: &str) {
    tracing::warn!(
        missing,
        "a part of a session is gone; Redis may have evicted it for lack of memory"
    );
}
