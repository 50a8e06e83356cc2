//! Records the reply of a turn while it streams, in a task of its own.
//!
//! The first write comes 50 ms after the claim, because the commit records a shorter turn as a whole. Later text is
//! written as soon as the write before it has returned, but at most five times a second, and less often if Redis is slow:
//! the commit shares the connection and must not queue up behind writes. While the model is silent, an empty write renews the lease. Each reply says whether the turn shall stop, so a
//! stop is noticed within a second. A write that fails is made again with the next one: nothing is lost but time.

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
/// How long text waits, after that time, for more text to be written with: its arrival wakes the process anyway, and a
/// timer of its own costs as much CPU as the write.
const COMPANY: Duration = Duration::from_millis(40);
/// A Redis that takes longer is slow.
const SLOW: Duration = Duration::from_millis(100);
/// The part of the time that a slow Redis may spend on the writes of a turn.
const LOAD_SHARE: u32 = 4;
/// Longest time from one write to the next. A stop is noticed within a second, with time to spare for the round trip.
const SIGN_OF_LIFE: Duration = Duration::from_millis(800);

/// The task that records a turn. Dropping this ends it; a write that is on its way then changes nothing that matters,
/// because a closed record accepts none.
pub(crate) struct Journal {
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

/// What the turn and the task share.
#[derive(Default)]
struct Shared {
    /// The reply's text so far. Locked for a copy, never across an await.
    text: Mutex<String>,
    grown: Notify,
    /// The number of bytes of the text that are known to be recorded.
    recorded: AtomicUsize,
    /// Cancelled when a client asks the turn to stop.
    stop: CancellationToken,
}

impl Journal {
    /// Begins to record a turn. `start` is what the first event of the stream said, `round_trip` the time that Redis
    /// took last.
    pub(crate) fn keep(record: Record, start: String, round_trip: Duration) -> Self {
        let shared = Arc::new(Shared::default());
        let keeper = Keeper {
            record,
            start,
            round_trip,
            shared: Arc::clone(&shared),
        };
        Self {
            shared,
            // The turn owns the task, and ends it before it commits.
            _task: AbortOnDropHandle::new(tokio::spawn(keeper.run().in_current_span())),
        }
    }

    /// Appends the next piece of the reply's text.
    pub(crate) fn push(&self, delta: &str) {
        lock(&self.shared.text).push_str(delta);
        self.shared.grown.notify_one();
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

    /// Returns the text from an offset in bytes.
    fn since(&self, offset: usize) -> String {
        let text = lock(&self.text);
        text.get(offset..).unwrap_or_default().to_owned()
    }

    /// Returns whether there is text that is not recorded.
    fn has_more(&self) -> bool {
        lock(&self.text).len() > self.recorded()
    }
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
            let pause = match self.write().await {
                Ok(answer) if answer == "ended" => return,
                Ok(answer) => {
                    if answer == "stop" {
                        self.shared.stop.cancel();
                    }
                    BETWEEN_WRITES.max(written_at.elapsed() * LOAD_SHARE)
                }
                // The store has logged the error. Text that waits is no reason to ask again soon.
                Err(_) => SIGN_OF_LIFE,
            };
            self.wait(written_at, pause).await;
        }
    }

    /// Waits until the next write is due: after the pause if there is text, and otherwise for a sign of life.
    async fn wait(&self, written_at: Instant, pause: Duration) {
        let due = written_at + pause;
        let silence = sleep_until(written_at + pause.max(SIGN_OF_LIFE));
        tokio::pin!(silence);
        loop {
            let has_more = self.shared.has_more();
            tokio::select! {
                () = &mut silence => return,
                () = sleep_until(due + COMPANY), if has_more => return,
                () = self.shared.grown.notified() => {
                    if Instant::now() >= due && self.shared.has_more() {
                        return;
                    }
                }
            }
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
