//! Records the reply of a turn while it streams, in a task of its own.
//!
//! The first write comes 50 ms after the claim, because the commit records a shorter turn as a whole. Later text is
//! written as soon as the write before it has returned, but at most five times a second. It is written less often if Redis
//! is slow, because the commit shares the connection and must not queue up behind writes, and if many turns run in the
//! process, because their writes would take the CPU from their deltas. While the model is silent, an empty write renews the
//! lease. Each reply says whether the turn shall stop, so a stop is noticed within a second, or later if Redis is slow. A
//! write that fails is made again with the next one: nothing is lost but time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::{Error, Record, lease_millis, scripts};
use crate::clock::lock;
use crate::store::Call;
use crate::telemetry::Operation;

/// Time from the claim to the first write, which says how the stream began and brings the text so far.
const FIRST_WRITE: Duration = Duration::from_millis(50);
/// Shortest time from one write to the next.
const BETWEEN_WRITES: Duration = Duration::from_millis(200);
/// What each turn that the process records adds to that time, once the sum exceeds it, up to a sign of life: 200 to 800
/// turns together make at most 1,000 writes a second.
const BETWEEN_WRITES_PER_TURN: Duration = Duration::from_millis(1);
/// How long text waits, after the shortest time, for more text to be written with: its arrival wakes the process anyway,
/// and a timer of its own costs as much CPU as the write.
const COMPANY: Duration = Duration::from_millis(40);
/// A Redis that takes longer is slow.
const SLOW: Duration = Duration::from_millis(100);
/// The part of the time that a slow Redis may spend on the writes of a turn.
const LOAD_SHARE: u32 = 4;
/// Longest time from one write to the next, unless Redis is slow. A stop is noticed within a second, with time to spare
/// for the round trip.
const SIGN_OF_LIFE: Duration = Duration::from_millis(800);
/// Longest pause between two writes, unless Redis is slow: text waits for company after it.
const LONGEST_PAUSE: Duration = SIGN_OF_LIFE.saturating_sub(COMPANY);
/// The same for a slow Redis. The lease is four times as long.
const LONGEST_PAUSE_IF_SLOW: Duration = Duration::from_millis(2_500);

/// The task that records a turn. Dropping this ends it; a write that is on its way then changes nothing that matters,
/// because a closed record accepts none.
pub(crate) struct Journal {
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

/// What the turn and the task share.
#[derive(Default)]
struct Shared {
    /// Locked to append or to copy, never across an await.
    reply: Mutex<Reply>,
    /// Wakes the task when text arrives and a write is due.
    due: Notify,
    /// The number of bytes of the text that are known to be recorded.
    recorded: AtomicUsize,
    /// Cancelled when a client asks the turn to stop.
    stop: CancellationToken,
}

/// The reply so far, and when the next write is due.
#[derive(Default)]
struct Reply {
    text: String,
    /// Earliest time of the next write. `None` before the first write, and while one is on its way.
    due: Option<Instant>,
}

impl Journal {
    /// Begins to record a turn. `start` is what the first event of the stream said, `round_trip` the time that Redis
    /// took last.
    pub(crate) fn keep(record: Record, start: String, round_trip: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let journals = record.turns.journals.clone();
        let keeper = Keeper {
            record,
            start,
            round_trip,
            shared: Arc::clone(&shared),
        };
        Self {
            shared,
            // The turn owns the task, and ends it before it commits.
            _task: AbortOnDropHandle::new(journals.spawn(keeper.run().in_current_span())),
        }
    }

    /// Appends the next piece of the reply's text.
    pub(crate) fn push(&self, delta: &str) {
        self.shared.push(delta);
    }

    /// Waits until a client asks the turn to stop.
    pub(crate) async fn stop_asked(&self) {
        self.shared.stop.cancelled().await;
    }
}

impl Shared {
    fn recorded(&self) -> usize {
        self.recorded.load(Ordering::Relaxed)
    }

    fn push(&self, delta: &str) {
        let mut reply = lock(&self.reply);
        reply.text.push_str(delta);
        if reply.due.is_some_and(|due| Instant::now() >= due) {
            // `notify_one` would keep a notice that nobody waits for, and bring the next write forward.
            self.due.notify_waiters();
        }
    }

    /// Returns the text from an offset in bytes.
    fn since(&self, offset: usize) -> String {
        let reply = lock(&self.reply);
        reply.text.get(offset..).unwrap_or_default().to_owned()
    }

    /// Returns whether there is text that is not recorded.
    fn has_more(&self) -> bool {
        lock(&self.reply).text.len() > self.recorded()
    }

    fn set_due(&self, due: Option<Instant>) {
        lock(&self.reply).due = due;
    }

    /// Waits until the next write is due: after the pause if there is text, and otherwise for a sign of life.
    async fn wait(&self, written_at: Instant, pause: Duration) {
        // Created before a push can see that a write is due, so no notice is missed.
        let due = self.due.notified();
        tokio::pin!(due);
        self.set_due(Some(written_at + pause));
        for wake_after in [pause + COMPANY, pause.max(SIGN_OF_LIFE)] {
            tokio::select! {
                () = &mut due => return,
                () = sleep_until(written_at + wake_after) => {
                    if self.has_more() {
                        return;
                    }
                }
            }
        }
    }
}

/// Returns the shortest time from the beginning of one write of a turn to that of the next, if the first took `took` and
/// the process records `turns` turns.
fn pause(took: Duration, turns: usize) -> Duration {
    let turns = u32::try_from(turns).unwrap_or(u32::MAX);
    let for_all = BETWEEN_WRITES_PER_TURN
        .saturating_mul(turns)
        .min(LONGEST_PAUSE);
    let for_redis = took.saturating_mul(LOAD_SHARE).min(LONGEST_PAUSE_IF_SLOW);
    BETWEEN_WRITES.max(for_all).max(for_redis)
}

struct Keeper {
    record: Record,
    start: String,
    round_trip: Duration,
    shared: Arc<Shared>,
}

impl Keeper {
    async fn run(self) {
        // A short reply from a fast model is over before Redis is asked, and a slow Redis is asked later.
        let slow = self.round_trip > SLOW;
        sleep(match slow {
            true => SIGN_OF_LIFE.min(self.round_trip * LOAD_SHARE),
            false => FIRST_WRITE,
        })
        .await;
        loop {
            let written_at = Instant::now();
            self.shared.set_due(None);
            let answer = self.write().await;
            let took = written_at.elapsed();
            let pause = match answer {
                Ok(answer) if answer == "ended" => return,
                Ok(answer) => {
                    if answer == "stop" {
                        self.shared.stop.cancel();
                    }
                    pause(took, self.record.turns.journals.len())
                }
                // The store has logged the error. Text that waits is no reason to ask again soon.
                Err(_) => took + LONGEST_PAUSE,
            };
            self.shared.wait(written_at, pause).await;
        }
    }

    async fn write(&self) -> Result<String, Error> {
        let offset = self.shared.recorded();
        let text = self.shared.since(offset);
        let keys = &self.record.keys;
        let call = Call::script(
            &scripts::JOURNAL,
            [
                &keys.record,
                &keys.text,
                &keys.index,
                &keys.cleared,
                &keys.erased,
            ],
        )
        .arg(&self.record.entry)
        .arg(lease_millis())
        .arg(self.record.open_seconds())
        .arg(&self.start)
        .arg(offset)
        .arg(&text)
        .arg(&self.record.began.erased)
        .arg(self.record.began.redis_micros);
        // It may be sent again, so it is under the policy of reads: what matters is that it does not pile up. A server
        // that pauses writes can still be read, so a failure does not open the breaker.
        let store = &self.record.turns.store;
        let answer: String = store.beside(Operation::Journal, &call).await?;
        let recorded = match answer.as_str() {
            // Redis has evicted the text. All of it is written again.
            "gap" => 0,
            "go" | "stop" => offset + text.len(),
            _ => offset,
        };
        self.shared.recorded.store(recorded, Ordering::Relaxed);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{MemoryConfig, RedisConfig, Section};
    use crate::ids::{CharacterId, TurnId, UserId};
    use crate::secrets::Secrets;
    use crate::store::Store;
    use crate::turns::Turns;

    #[tokio::test]
    async fn the_turns_that_are_recorded_are_counted() {
        let redis = RedisConfig::from_lookup(&|_| None).expect("defaults");
        let memory = MemoryConfig::from_lookup(&|_| None).expect("defaults");
        let store = Store::new(&redis, &memory, &Secrets::new()).expect("defaults");
        let turns = Turns::new(store, redis.key_layout, &memory).expect("turns are recorded");
        let user = UserId::parse("user").expect("an id");
        let character = CharacterId::parse("luna").expect("an id");
        let begin = || {
            let record = turns.record(&user, &character, TurnId::new(), None);
            Journal::keep(record, String::new(), Duration::ZERO)
        };
        let journals = [begin(), begin()];
        assert_eq!(turns.journals.len(), 2);
        drop(journals);
        // Returns when none is left.
        turns.journals.close();
        turns.journals.wait().await;
    }

    #[test]
    fn a_slow_redis_and_many_turns_lengthen_the_pause() {
        for (took_ms, turns, pause_ms) in [
            (0, 1, 200),
            (50, 1, 200),
            (60, 1, 240),
            (1_000, 1, 2_500),
            (0, 200, 200),
            (0, 500, 500),
            (0, 100_000, 760),
            (300, 500, 1_200),
        ] {
            let pause = pause(Duration::from_millis(took_ms), turns);
            assert_eq!(pause.as_millis(), pause_ms, "{took_ms} {turns}");
        }
    }

    /// When text comes after a write, in milliseconds, and when the next write begins, after a pause of 200 ms.
    #[tokio::test(start_paused = true)]
    async fn the_next_write_begins_with_text_that_comes_when_it_is_due() {
        for (texts_ms, next_ms) in [
            (&[][..], 800),
            (&[199], 240),
            (&[0, 50, 199, 210], 210),
            (&[230], 230),
            (&[500], 500),
            (&[799], 799),
        ] {
            let shared = Shared::default();
            // A notice of an earlier pause is not one of this.
            shared.set_due(Some(Instant::now()));
            shared.push("");
            let began = Instant::now();
            let texts = async {
                for at_ms in texts_ms {
                    sleep_until(began + Duration::from_millis(*at_ms)).await;
                    shared.push("x");
                }
                std::future::pending().await
            };
            tokio::select! {
                () = shared.wait(began, BETWEEN_WRITES) => {}
                () = texts => {}
            }
            assert_eq!(began.elapsed().as_millis(), next_ms, "{texts_ms:?}");
        }
    }
}
