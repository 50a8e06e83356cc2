//! The record of a turn in Redis, by which a client can come back to it, repeat its request, or stop it from any
//! process.
//!
//! The owner of a turn claims it while the history is loaded, in the same round trip, records the reply while it
//! streams (`journal`), and closes the record with the commit. Readers follow a record by polling (`follow`): text is
//! ordered by its offset, so there is no gap to lose and nothing to reorder. An owner that is dead no longer renews its
//! lease, and a reader closes the record in its place. Recording never delays a stream, and losing a record costs only
//! the possibility to come back.

mod follow;
mod journal;
mod scripts;

use std::time::Duration;

use tokio_util::task::TaskTracker;

pub use self::follow::StoredTurn;
pub(crate) use self::follow::{Begun, Follower, Opened, Seen};
pub(crate) use self::journal::Journal;
use crate::config::{KeyLayout, MemoryConfig};
use crate::ids::{CharacterId, IdempotencyKey, TurnId, UserId};
use crate::keys::{self, TurnEntry, TurnKeys, UserKeys};
use crate::record::{
    Beginning, Charge, Closing, LONGEST_TURN_SECONDS, RequestKey, UNREAD, limited,
};
pub use crate::store::Error;
use crate::store::{Call, Store, Value, from_redis_value};
use crate::telemetry::{Invocation, Operation};

/// Time after its last sign of life for which the owner of a turn is taken for alive.
const LEASE: Duration = Duration::from_secs(10);
/// The newest turns of a user among which the one to stop or to come back to is sought.
const NEWEST: isize = 128;

/// How a turn ended, as far as its storage is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The turn is stored.
    Saved,
    /// It is not stored, because the session was cleared while it ran.
    Cleared,
    /// It is not stored, because another turn has its key or its place.
    Conflict,
    /// It is not stored, because Redis refused the write.
    Memory,
    /// It is not stored, because there is no reply, or one that shows nothing.
    Empty,
    /// It is not stored, because its owner was taken for dead.
    Lost,
}

impl Outcome {
    const ALL: [Self; 6] = [
        Self::Saved,
        Self::Cleared,
        Self::Conflict,
        Self::Memory,
        Self::Empty,
        Self::Lost,
    ];

    /// Returns the word in the record.
    fn as_str(self) -> &'static str {
        match self {
            Self::Saved => "saved",
            Self::Cleared => "cleared",
            Self::Conflict => "conflict",
            Self::Memory => "memory",
            Self::Empty => "empty",
            Self::Lost => "lost",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|outcome| outcome.as_str() == word)
    }
}

/// The reply to a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The record is open and belongs to this turn.
    Owned,
    /// The same request has begun this turn before.
    Other(TurnId),
    /// The key belongs to another request.
    Reused,
    /// The user has used up a limit, and may try again after this number of seconds.
    Limited(u64),
    /// Redis could not be asked.
    Unknown,
}

impl Claim {
    /// Reads the reply of the script; `None` if it failed.
    fn read(reply: Option<&str>) -> Self {
        match reply {
            Some("claimed") => Self::Owned,
            Some("reused") => Self::Reused,
            Some(reply) if let Some(seconds) = limited(reply) => Self::Limited(seconds),
            Some(reply) => {
                let id = reply.strip_prefix("turn:").map(TurnId::parse);
                id.and_then(Result::ok).map_or(Self::Unknown, Self::Other)
            }
            None => Self::Unknown,
        }
    }
}

/// What came of the attempt to close the record of an owner that seems dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// The record is closed as lost. Its turn is not stored, and never will be.
    Lost,
    /// The owner is alive after all.
    Running,
    /// The turn had ended otherwise.
    Ended,
}

/// The records of turns. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Turns {
    store: Store,
    layout: KeyLayout,
    remember_seconds: u64,
    /// The tasks that record turns. Their number decides how often each turn is written.
    journals: TaskTracker,
}

impl Turns {
    /// Returns the records that are stored in `store`, or `None` if the settings switch them off. Connects to nothing.
    #[must_use]
    pub fn new(store: Store, layout: KeyLayout, config: &MemoryConfig) -> Option<Self> {
        (config.turn_ttl_seconds > 0).then_some(Self {
            store,
            layout,
            remember_seconds: config.turn_ttl_seconds,
            journals: TaskTracker::new(),
        })
    }

    /// Returns the record of a turn. `request` is its idempotency key, and the fingerprint by which repeated requests
    /// are recognised.
    pub(crate) fn record(
        &self,
        user: &UserId,
        character: &CharacterId,
        turn: TurnId,
        request: Option<(&IdempotencyKey, &str)>,
    ) -> Record {
        let key = request.map(|(key, _)| key);
        let request = request.map(|(key, fingerprint)| RequestKey {
            name: keys::idempotency(self.layout, user, key),
            value: format!("{turn}:{fingerprint}"),
        });
        let entry = TurnEntry {
            turn,
            key: key.cloned(),
            character: character.clone(),
        };
        Record {
            turns: self.clone(),
            id: turn,
            keys: TurnKeys::new(self.layout, user, character, turn),
            entry: entry.to_string(),
            request,
            began: Beginning {
                erased: UNREAD.to_vec(),
                redis_micros: 0,
            },
        }
    }

    /// Asks a turn to stop. Without an id, that is the newest of the session that runs. Returns the id of the turn, or
    /// `None` if it does not run.
    ///
    /// # Errors
    /// Redis is unavailable. The turn may stop nevertheless, but not later than the write budget.
    pub async fn stop(
        &self,
        invocation: &Invocation,
        user: &UserId,
        character: &CharacterId,
        turn: Option<TurnId>,
    ) -> Result<Option<TurnId>, Error> {
        let newest = match turn {
            Some(turn) => Some(turn),
            None => self.newest_running(invocation, user, character).await?,
        };
        let Some(turn) = newest else {
            return Ok(None);
        };
        let keys = TurnKeys::new(self.layout, user, character, turn);
        let stop = |until: u64| Call::script(&scripts::STOP, [&keys.record]).arg(until);
        let answer: String = self
            .store
            .write(invocation, Operation::Stop, &keys.record, &stop)
            .await?;
        match answer.as_str() {
            "stopping" => Ok(Some(turn)),
            "none" => Ok(None),
            _ => Err(Error::Unexpected),
        }
    }

    /// Returns the newest turn of a session that runs, or `None` if none runs.
    ///
    /// # Errors
    /// Redis is unavailable.
    pub(crate) async fn newest_running(
        &self,
        invocation: &Invocation,
        user: &UserId,
        character: &CharacterId,
    ) -> Result<Option<TurnId>, Error> {
        type Found = (Option<String>, Option<u64>);
        let index = UserKeys::new(self.layout, user).turns;
        let call = Call::reads(&index).and("ZREVRANGE", &index, &[0, NEWEST - 1]);
        let (_, members): (Time, Vec<String>) = self
            .store
            .read(invocation, Operation::Follow, &call)
            .await?;
        let ids: Vec<TurnId> = members
            .iter()
            .filter_map(|member| TurnEntry::parse(member))
            .filter(|entry| entry.character == *character)
            .map(|entry| entry.turn)
            .collect();
        if ids.is_empty() {
            return Ok(None);
        }
        let call = ids.iter().fold(Call::reads(&index), |call, id| {
            let keys = TurnKeys::new(self.layout, user, character, *id);
            call.and("HMGET", &keys.record, &["end", "lease"])
        });
        let mut replies: Vec<Value> = self
            .store
            .read(invocation, Operation::Follow, &call)
            .await?;
        let records = replies.split_off(1);
        let now = from_redis_value::<Time>(replies.swap_remove(0)).map_or(0, millis);
        let runs = |reply| {
            let found: Result<Found, _> = from_redis_value(reply);
            matches!(found, Ok((None, Some(lease))) if lease >= now)
        };
        Ok(ids
            .into_iter()
            .zip(records)
            .find_map(|(id, record)| runs(record).then_some(id)))
    }
}

/// The reply to TIME: seconds and microseconds.
type Time = (u64, u64);

fn millis((seconds, micros): Time) -> u64 {
    seconds.saturating_mul(1_000).saturating_add(micros / 1_000)
}

/// The record of one turn.
#[derive(Clone)]
pub(crate) struct Record {
    turns: Turns,
    id: TurnId,
    keys: TurnKeys,
    /// The member of the sorted set of the user's turns.
    entry: String,
    request: Option<RequestKey>,
    /// When the turn began. A reader's is unknown, and matters to no script that a reader runs.
    began: Beginning,
}

impl Record {
    /// Notes when the turn began. After a later erasure it leaves nothing in Redis.
    pub(crate) fn note_beginning(&mut self, began: Beginning) {
        self.began = began;
    }

    /// Opens the record, and takes the turn from the user's limits. `takes_over` names a dead turn whose key this one may
    /// take over. A failure is logged, and not measured, like those of the journal. A claim may be sent again, and no turn
    /// waits long for it, so it is under the policy of reads.
    pub(crate) async fn claim(&self, takes_over: Option<TurnId>, charge: Option<&Charge>) -> Claim {
        let keys = [
            self.keys.record.as_str(),
            &self.keys.index,
            &self.keys.cleared,
        ];
        let call = Call::script(&scripts::CLAIM, keys)
            .keys(self.request.iter().map(RequestKey::name))
            .arg(self.id.to_string())
            .arg(lease_millis())
            .arg(self.open_seconds())
            .arg(&self.entry)
            .arg(self.request.as_ref().map_or("", RequestKey::fingerprint))
            .arg(takes_over.map(|id| id.to_string()).unwrap_or_default());
        let call = match charge {
            Some(charge) => charge.add_to(call),
            None => call,
        };
        let store = &self.turns.store;
        let reply: Result<String, Error> = store.beside(Operation::Journal, &call).await;
        Claim::read(reply.ok().as_deref())
    }

    /// Undoes the claim of a turn that did not begin. A failure is logged: the claim then ends with the lease.
    pub(crate) async fn release(&self, invocation: &Invocation) {
        let release = |_until: u64| {
            let keys = [self.keys.record.as_str(), &self.keys.index];
            Call::script(&scripts::RELEASE, keys)
                .keys(self.request.iter().map(RequestKey::name))
                .arg(self.id.to_string())
                .arg(&self.entry)
        };
        let store = &self.turns.store;
        // The store logs why it failed.
        let _: Result<String, Error> = store
            .write(invocation, Operation::Close, &self.keys.record, &release)
            .await;
    }

    /// Returns how the record closes: `start` and `last` are what the first and the last event say, but for the outcome,
    /// and `text` is the whole text.
    pub(crate) fn closing(&self, start: String, last: String, text: String) -> Closing {
        Closing {
            keys: self.keys.clone(),
            request: self.request.clone(),
            start,
            last,
            text,
            remember_seconds: self.turns.remember_seconds,
        }
    }

    /// Closes the record of a turn that is not stored. Returns the outcome that the record has, which is another one if
    /// it was closed before.
    ///
    /// # Errors
    /// Redis is unavailable. The record may be closed nevertheless.
    pub(crate) async fn close(
        &self,
        invocation: &Invocation,
        outcome: Outcome,
        closing: &Closing,
    ) -> Result<Outcome, Error> {
        let answer = self.send_close(invocation, outcome, closing).await?;
        Outcome::parse(&answer).ok_or(Error::Unexpected)
    }

    /// Closes the record if its owner's lease has run out. `last` is what the last event says besides the outcome.
    ///
    /// # Errors
    /// Redis is unavailable. The record may be closed nevertheless.
    async fn close_if_dead(&self, invocation: &Invocation, last: &str) -> Result<Death, Error> {
        let closing = self.closing(String::new(), last.to_owned(), String::new());
        let answer = self.send_close(invocation, Outcome::Lost, &closing).await?;
        Ok(match answer.as_str() {
            "lost" => Death::Lost,
            "running" => Death::Running,
            _ => Death::Ended,
        })
    }

    async fn send_close(
        &self,
        invocation: &Invocation,
        outcome: Outcome,
        closing: &Closing,
    ) -> Result<String, Error> {
        let close = |until: u64| {
            let keys = [
                self.keys.record.as_str(),
                &self.keys.text,
                &self.keys.erased,
            ];
            Call::script(&scripts::CLOSE, keys)
                .keys(closing.request.iter().map(RequestKey::name))
                .arg(outcome.as_str())
                .arg(&closing.start)
                .arg(&closing.last)
                .arg(&closing.text)
                .arg(closing.remember_seconds)
                .arg(closing.request_value())
                .arg(until)
                .arg(&self.began.erased)
                .arg(self.began.redis_micros)
        };
        let store = &self.turns.store;
        store
            .write(invocation, Operation::Close, &self.keys.record, &close)
            .await
    }

    /// Returns the seconds for which Redis keeps a record that nobody closes.
    fn open_seconds(&self) -> u64 {
        self.turns.remember_seconds + LONGEST_TURN_SECONDS
    }
}

fn lease_millis() -> u64 {
    u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_reads_back() {
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::parse(outcome.as_str()), Some(outcome));
        }
        assert_eq!(Outcome::parse("running"), None);
    }

    #[test]
    fn a_claim_is_what_the_script_replies() {
        let id = TurnId::new();
        for (reply, claim) in [
            (Some("claimed".to_owned()), Claim::Owned),
            (Some("reused".to_owned()), Claim::Reused),
            (Some(format!("turn:{id}")), Claim::Other(id)),
            (Some("limited:7".to_owned()), Claim::Limited(7)),
            (Some("turn:x".to_owned()), Claim::Unknown),
            (None, Claim::Unknown),
        ] {
            assert_eq!(Claim::read(reply.as_deref()), claim);
        }
    }
}
