//! Follows the record of a turn: first what is recorded, then what comes, then how it ends.
//!
//! A follower polls, from any process. It begins with 50 ms between two polls and backs off to 250 ms while nothing
//! comes. If the owner's lease runs out, the follower closes the record.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Death, Error, Outcome, Record, Time, millis};
use crate::store::Call;
use crate::telemetry::{Invocation, Operation};

/// Pause before a record is read again, if there was text.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause before a record is read again.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// Time for which a reader must have seen the record before it takes the owner for dead. After an outage of Redis the
/// owner needs that long to renew its lease.
const WATCHED: Duration = Duration::from_secs(2);
/// Time for which Redis may be unavailable before a reader is sent away, to come back later.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a follower sees next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// What the first event of the stream said.
    Start(String),
    /// The next piece of the reply's text.
    Text(String),
    /// The turn has ended. Nothing follows. Holds what the last event says besides the outcome.
    End(Outcome, String),
}

/// The result of opening a record to follow it.
pub(crate) enum Opened {
    /// The record exists.
    Found(Box<Follower>),
    /// There is no record: the turn is unknown or forgotten.
    NotFound,
    /// The turn has ended, and its session was cleared after it began.
    Cleared,
    /// The offset is inside a character or beyond the end, so it is not the id of an event.
    NotAnOffset,
}

/// What became of a turn that another request has claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    /// It runs, or has ended.
    Yes,
    /// Its owner died, and it is not stored.
    Lost,
    /// It was refused before it began.
    Refused,
}

/// A reader of a record.
pub(crate) struct Follower {
    record: Record,
    /// What the last event says if this reader finds the owner dead.
    last_if_dead: &'static str,
    snapshot: Snapshot,
    /// Bytes of text that are seen.
    seen: usize,
    wants_start: bool,
    pause: Duration,
    /// Since when every read has succeeded.
    watched_since: Instant,
    /// When Redis was read last.
    read_at: Instant,
}

/// A record at one moment.
struct Snapshot {
    is_dead: bool,
    is_cleared: bool,
    /// Whether the text was asked for from beyond its end.
    is_beyond: bool,
    start: Option<String>,
    end: Option<(Outcome, String)>,
    /// The text that was not seen before.
    text: Vec<u8>,
}

impl Follower {
    /// Opens a record. With `after`, the first event and that many bytes of text are left out.
    ///
    /// # Errors
    /// Redis is unavailable.
    pub(crate) async fn open(
        invocation: &Invocation,
        record: Record,
        after: Option<usize>,
        last_if_dead: &'static str,
    ) -> Result<Opened, Error> {
        let seen = after.unwrap_or(0);
        let Some(snapshot) = record.snapshot(invocation, seen).await? else {
            return Ok(Opened::NotFound);
        };
        // What was cleared never comes back. A turn that still runs finds out at its end.
        if (snapshot.end.is_some() || snapshot.is_dead) && snapshot.is_cleared {
            return Ok(Opened::Cleared);
        }
        let is_inside = |byte: &u8| byte & 0xC0 == 0x80;
        if snapshot.is_beyond || snapshot.text.first().is_some_and(is_inside) {
            return Ok(Opened::NotAnOffset);
        }
        Ok(Opened::Found(Box::new(Self {
            record,
            last_if_dead,
            snapshot,
            seen,
            wants_start: after.is_none(),
            pause: FIRST_PAUSE,
            watched_since: Instant::now(),
            read_at: Instant::now(),
        })))
    }

    /// Waits until the turn has begun, and finds out whether the same request may run again.
    ///
    /// # Errors
    /// Redis is unavailable.
    pub(crate) async fn begun(&mut self, invocation: &Invocation) -> Result<Begun, Error> {
        loop {
            match &self.snapshot.end {
                Some((Outcome::Lost, _)) => return Ok(Begun::Lost),
                Some(_) => return Ok(Begun::Yes),
                None => {}
            }
            if self.seems_dead() {
                let death = self.record.close_if_dead(invocation, self.last_if_dead);
                if death.await? == Death::Lost {
                    return Ok(Begun::Lost);
                }
            } else if self.snapshot.start.is_some() && !self.snapshot.is_dead {
                return Ok(Begun::Yes);
            }
            sleep(FIRST_PAUSE).await;
            match self.record.snapshot(invocation, self.seen).await? {
                Some(snapshot) => self.snapshot = snapshot,
                None => return Ok(Begun::Refused),
            }
        }
    }

    /// Waits for what comes next. Returns `None` if the record is gone or Redis stays unavailable: the reader must come
    /// back later. Cancel-safe: nothing is lost.
    pub(crate) async fn next(&mut self) -> Option<Seen> {
        loop {
            if let Some(seen) = self.take() {
                self.pause = FIRST_PAUSE;
                return Some(seen);
            }
            let closed = self.seems_dead()
                && self
                    .record
                    .close_if_dead(&Invocation::detached(), self.last_if_dead)
                    .await
                    .is_ok_and(|death| death != Death::Running);
            // A record that is closed says how the turn ended, by whomever it was closed.
            if !closed {
                sleep(self.pause).await;
                self.pause = self.pause.mul_f32(1.5).min(LONGEST_PAUSE);
            }
            match self
                .record
                .snapshot(&Invocation::detached(), self.seen)
                .await
            {
                Ok(Some(snapshot)) => {
                    self.snapshot = snapshot;
                    self.read_at = Instant::now();
                }
                Ok(None) => return None,
                Err(_) if self.read_at.elapsed() > PATIENCE => return None,
                Err(_) => self.watched_since = Instant::now(),
            }
        }
    }

    /// Returns whether the lease has run out, although the owner could renew it.
    fn seems_dead(&self) -> bool {
        self.snapshot.is_dead && self.watched_since.elapsed() >= WATCHED
    }

    /// Takes the next thing from the snapshot.
    fn take(&mut self) -> Option<Seen> {
        let snapshot = &mut self.snapshot;
        // A turn that died early has no first event to repeat.
        if self.wants_start && (snapshot.start.is_some() || snapshot.end.is_some()) {
            self.wants_start = false;
            if let Some(start) = snapshot.start.take() {
                return Some(Seen::Start(start));
            }
        }
        if !self.wants_start && !snapshot.text.is_empty() {
            let bytes = std::mem::take(&mut snapshot.text);
            self.seen += bytes.len();
            // The owner records whole characters.
            return Some(Seen::Text(String::from_utf8_lossy(&bytes).into_owned()));
        }
        let (outcome, last) = snapshot.end.take()?;
        Some(Seen::End(outcome, last))
    }
}

impl Record {
    /// Reads the record, and its text from an offset in bytes. Returns `None` if there is no record, or if Redis has
    /// evicted the text of one that is closed.
    async fn snapshot(
        &self,
        invocation: &Invocation,
        from: usize,
    ) -> Result<Option<Snapshot>, Error> {
        type Fields = (Option<String>, Option<u64>, Option<Vec<u8>>, Option<String>);
        let first = isize::try_from(from).unwrap_or(isize::MAX);
        // The record comes first: the text of a record that is closed is whole.
        let call = Call::reads(&self.keys.record)
            .and(
                "HMGET",
                &self.keys.record,
                &["start", "lease", "mark", "end"],
            )
            .and("GETRANGE", &self.keys.text, &[first, -1])
            .and("GETRANGE", &self.keys.cleared, &[0, MARK_LENGTH - 1]);
        let (now, fields, text, cleared): (Time, Fields, Vec<u8>, Vec<u8>) = self
            .turns
            .store
            .read(invocation, Operation::Follow, &call)
            .await?;
        let (start, lease, mark, end) = fields;
        if start.is_none() && lease.is_none() && end.is_none() {
            return Ok(None);
        }
        let mut is_beyond = false;
        let end = match end {
            Some(end) => {
                let (outcome, bytes, last) = closed(&end).ok_or(Error::Unexpected)?;
                // A client of an owner that died may have seen more than is recorded.
                is_beyond = from > bytes && outcome != Outcome::Lost;
                if from + text.len() < bytes {
                    return Ok(None);
                }
                Some((outcome, last))
            }
            None => None,
        };
        Ok(Some(Snapshot {
            is_dead: end.is_none() && lease.is_none_or(|lease| lease < millis(now)),
            is_cleared: !cleared.is_empty()
                && mark.is_some_and(|mark| mark != last_clear(&cleared)),
            is_beyond,
            start,
            end,
            text,
        }))
    }
}

/// What a record says to its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTurn {
    /// Whether the turn has ended.
    pub has_ended: bool,
    /// The reply's text so far.
    pub text: String,
}

impl Record {
    /// Returns what the record says to its user, or `None` if there is no record.
    ///
    /// # Errors
    /// Redis is unavailable.
    pub(crate) async fn remembered(
        &self,
        invocation: &Invocation,
    ) -> Result<Option<StoredTurn>, Error> {
        let snapshot = self.snapshot(invocation, 0).await?;
        Ok(snapshot.map(|snapshot| StoredTurn {
            has_ended: snapshot.end.is_some() || snapshot.is_dead,
            text: String::from_utf8_lossy(&snapshot.text).into_owned(),
        }))
    }
}

/// Reads how a record is closed: its outcome, the length of the text in bytes, and what the last event says besides.
fn closed(end: &str) -> Option<(Outcome, usize, String)> {
    let mut parts = end.splitn(3, ' ');
    let outcome = Outcome::parse(parts.next()?)?;
    Some((
        outcome,
        parts.next()?.parse().ok()?,
        parts.next()?.to_owned(),
    ))
}

/// Length of the part of a clear's mark that is read.
const MARK_LENGTH: isize = 35;

/// Returns what tells the clear with this mark from others, as `last_clear` in `record.lua` does.
fn last_clear(mark: &[u8]) -> &[u8] {
    mark.get(mark.len().saturating_sub(18)..)
        .unwrap_or_default()
}
