//! How long clients talk, and how long they read on.

use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::time::sleep_until;

/// The time after the end of a period after which a client reads no longer. A stream of a dead process may be silent.
const READS_ON_FOR: Duration = Duration::from_secs(2);

/// How long clients talk.
pub(crate) struct Period {
    /// Told at each turn that was saved.
    pub(crate) first_saved: Notify,
    /// Not known before that.
    until: watch::Sender<Option<Instant>>,
}

impl Period {
    pub(crate) fn new() -> Self {
        Self {
            first_saved: Notify::new(),
            until: watch::Sender::new(None),
        }
    }

    pub(crate) fn end_at(&self, until: Instant) {
        self.until.send_replace(Some(until));
    }

    pub(crate) fn is_on(&self) -> bool {
        self.until
            .borrow()
            .is_none_or(|until| Instant::now() < until)
    }

    /// Waits until no client may read any longer.
    pub(crate) async fn over(&self) {
        let mut until = self.until.subscribe();
        let known = until.wait_for(Option::is_some).await;
        let until = known
            .ok()
            .and_then(|until| *until)
            .unwrap_or_else(Instant::now);
        sleep_until((until + READS_ON_FOR).into()).await;
    }
}
