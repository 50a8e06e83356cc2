//! The policy of reads: fail fast.
//!
//! A turn's first text waits for its read, so a read promises to wait as little as possible. A server that is known to
//! be down costs at most [`Read::PROBE_WAIT`]. Otherwise a read ends within its budget, and gives up earlier if three
//! attempts have failed. A connection that has been idle for long, and may be dead, is replaced while there is still
//! time to use another one.

use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::call::Call;
use super::failure::Failure;
use super::servers::{Policy, Way};

/// A read, or a request that is made beside one.
pub(super) struct Read<'a> {
    pub(super) call: &'a Call,
    /// Whether a failure opens the breaker. One of a request beside a read does not: it would take the read's attempts.
    pub(super) opens_breaker: bool,
}

impl Policy for Read<'_> {
    const RETRIES: u32 = 2;
    const PROBE_WAIT: Duration = Duration::from_millis(50);
    const PROBE_PAUSE: Duration = Duration::MAX;

    fn key(&self) -> &str {
        self.call.key()
    }

    async fn exchange(&self, way: &Way, deadline: Instant) -> Result<Value, Failure> {
        way.node
            .link(deadline)
            .await?
            .read(self.call, way.asking, deadline)
            .await
    }

    fn opens_breaker(&self) -> bool {
        self.opens_breaker
    }

    fn parts(&self) -> Option<Vec<Call>> {
        self.call.parts()
    }
}
