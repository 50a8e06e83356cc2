//! The policy of writes that wait for replicas: as [`write`](super::write), and acknowledged by replicas.
//!
//! The reply of the script comes first. If it says that nothing was stored, it is the result, whatever the replicas do.
//! Otherwise WAIT is sent on the same connection, because it counts only writes of its own connection, and may take
//! what is left of the budget. It blocks that connection, so each of these writes has one to itself: reads and other
//! writes never wait for replicas. An outage while WAIT runs means that the write is sent again, to whichever server is
//! the master then; a script that finds the write stored writes something again, so that WAIT has something to count.

use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::failure::Failure;
use super::servers::{Policy, Way};
use super::write::{PROBE_PAUSE, Write};

/// The part of the budget that remains for the reply to WAIT. A server looks for expired waits ten times a second.
const REPLY_MARGIN: Duration = Duration::from_millis(150);

/// A write that replicas must acknowledge.
pub(super) struct WaitingWrite<'a> {
    pub(super) write: Write<'a>,
    /// Number of replicas that must acknowledge the write.
    pub(super) replicas: u32,
    /// Returns whether a reply of the script means that there is something to acknowledge.
    pub(super) is_stored: fn(&Value) -> bool,
}

impl Policy for WaitingWrite<'_> {
    const RETRIES: u32 = u32::MAX;
    const PROBE_WAIT: Duration = Duration::MAX;
    const PROBE_PAUSE: Duration = PROBE_PAUSE;

    fn key(&self) -> &str {
        self.write.key
    }

    async fn exchange(&self, way: &Way, deadline: Instant) -> Result<Value, Failure> {
        let own = way.node.own_lane(deadline).await?;
        let mut link = way.node.link_on(&own.lane, deadline, true).await?;
        let reply = link.write(self.write.build, way.asking, deadline).await?;
        let mut acknowledged = true;
        if (self.is_stored)(&reply) {
            let left = deadline.saturating_duration_since(Instant::now());
            // 0 would mean for ever.
            let milliseconds = u64::try_from(left.saturating_sub(REPLY_MARGIN).as_millis())
                .unwrap_or(u64::MAX)
                .max(1);
            let mut wait = redis::cmd("WAIT");
            wait.arg(self.replicas).arg(milliseconds);
            let count = match link.command(&wait, deadline).await {
                // The server has just replied to the script, so this is the silence of the replicas.
                Err(Failure::Timeout { .. }) => return Err(Failure::NotReplicated),
                count => count?,
            };
            acknowledged = matches!(count, Value::Int(count) if count >= i64::from(self.replicas));
        }
        drop(link);
        own.give_back();
        if acknowledged {
            Ok(reply)
        } else {
            Err(Failure::NotReplicated)
        }
    }
}
