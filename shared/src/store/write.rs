//! The policy of writes: use the whole budget.
//!
//! Nobody waits for more text while a write runs, and giving up loses something. A write therefore promises to succeed
//! after any outage that ends within its budget: it is sent again until then, and if the server is known to be down, it
//! waits for the next probe, which comes sooner while a write waits. Every write carries an id by which its script
//! recognises it, so it may be sent again although the first attempt is still on its way. It also carries the moment,
//! on the server's clock, until which its sender waits, so it has no effect after it was given up.

use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::call::Call;
use super::failure::Failure;
use super::servers::{Policy, Way};

/// Pause between the probes of a server that is down, while a write waits for it.
pub(super) const PROBE_PAUSE: Duration = Duration::from_millis(100);

/// A write.
pub(super) struct Write<'a> {
    pub(super) key: &'a str,
    /// Returns the request for a deadline in Unix microseconds on the server's clock. Its script replies `late:` and
    /// the time on that clock if the deadline has passed.
    pub(super) build: &'a (dyn Fn(u64) -> Call + Sync),
}

impl Policy for Write<'_> {
    const RETRIES: u32 = u32::MAX;
    const PROBE_WAIT: Duration = Duration::MAX;
    const PROBE_PAUSE: Duration = PROBE_PAUSE;

    fn key(&self) -> &str {
        self.key
    }

    async fn exchange(&self, way: &Way, deadline: Instant) -> Result<Value, Failure> {
        way.node
            .link(deadline)
            .await?
            .write(self.build, way.asking, deadline)
            .await
    }
}
