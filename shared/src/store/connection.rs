//! The connection to Redis: opened at first use, reused by every invocation, replaced when it fails.
//!
//! An operation has one budget for connecting, retries and the pauses between them. An idle connection may be dead
//! without a sign of it: closed by the server, dropped by a network gateway, or lost while the process was frozen.
//! The first failure on a reused connection therefore opens a new one at once. A half-open socket never replies at
//! all, so the first reply on an idle connection may take only a part of the budget.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use redis::{RedisResult, Value};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Error;
use super::breaker::{Admission, Breaker, Rules};
use super::call::{Call, CallError};
use super::failure::{Failure, is_outage, is_wrong_server};
use super::topology::{Connection, Topology};
use crate::clock::{lock, unix_millis};
use crate::config::{ConfigError, MemoryConfig, RedisConfig, RedisMode};
use crate::secrets::Secrets;

/// Number of retries of an operation, in addition to its first attempt.
const RETRIES: u32 = 2;
/// Pause before each retry.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Longest time that an operation waits for a probe of a Redis that was down.
const PROBE_WAIT: Duration = Duration::from_millis(50);

/// Idle time after which a connection may be dead.
const IDLE_SUSPECT: Duration = Duration::from_secs(5);

/// Number of breakers in a cluster, each for one range of slots. One shard can be down while the others are healthy,
/// and shards own ranges of slots. An operation on a healthy shard whose range also touches a dead shard gets its
/// answer from a probe of its own key.
const CLUSTER_BREAKERS: usize = 64;

/// The connection in use, shared by all operations.
struct Live {
    connection: Connection,
    /// Identifies this connection, so that a late failure does not drop its successor.
    generation: u64,
    /// Time of the last reply on this connection, in Unix milliseconds. On the wall clock, because a monotonic clock
    /// may stand still while the process is frozen.
    answered_at: Arc<AtomicU64>,
}

/// The connection as one attempt uses it.
struct Link {
    connection: Connection,
    generation: u64,
    answered_at: Arc<AtomicU64>,
    /// Whether an earlier operation opened the connection.
    reused: bool,
}

impl Link {
    /// Returns the time since the last reply on this connection.
    fn idle(&self) -> Duration {
        Duration::from_millis(
            unix_millis(SystemTime::now()).saturating_sub(self.answered_at.load(Ordering::Relaxed)),
        )
    }
}

/// A breaker, and the signal for the operations that wait for its probe.
struct Gate {
    breaker: Breaker,
    probed: Notify,
}

/// A connection to Redis that is replaced when it fails. Cheap to clone; clones share it and the breakers.
#[derive(Clone)]
pub(super) struct Redis {
    inner: Arc<Inner>,
}

struct Inner {
    topology: Topology,
    /// Locked for a few instructions and never across an await, so that dropping a connection never waits.
    live: Mutex<Option<Live>>,
    /// Locked while connecting, so that concurrent turns open one connection.
    connecting: tokio::sync::Mutex<()>,
    generations: AtomicU64,
    /// One breaker for one server, [`CLUSTER_BREAKERS`] for a cluster; never empty.
    gates: Vec<Gate>,
    probe_budget: Duration,
}

impl Redis {
    /// Returns a client that connects at the first operation, so an outage does not prevent a start.
    ///
    /// # Errors
    /// A `REDIS_…` setting is invalid.
    pub(super) fn new(
        redis: &RedisConfig,
        memory: &MemoryConfig,
        secrets: &Secrets,
    ) -> Result<Self, ConfigError> {
        let rules = Rules {
            failures: memory.breaker_failures,
            cooldown: memory.breaker_cooldown,
        };
        let gates = match redis.mode {
            RedisMode::Standalone | RedisMode::Sentinel => 1,
            RedisMode::Cluster => CLUSTER_BREAKERS,
        };
        let gate = || Gate {
            breaker: Breaker::new(rules),
            probed: Notify::new(),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                topology: Topology::new(redis, memory, secrets)?,
                live: Mutex::new(None),
                connecting: tokio::sync::Mutex::new(()),
                generations: AtomicU64::new(0),
                gates: std::iter::repeat_with(gate).take(gates).collect(),
                probe_budget: memory.read_timeout,
            }),
        })
    }

    /// Sends `call` and returns the reply, within `budget`. Retries failures that may pass.
    pub(super) async fn run(&self, budget: Duration, call: &Call) -> Result<Value, Error> {
        let deadline = Instant::now() + budget;
        let breaker = &self.inner.gate(call.key()).breaker;
        self.admit(call.key()).await?;
        let mut retries = 0;
        loop {
            let failure = match self.inner.attempt(call, deadline).await {
                Ok(value) => {
                    breaker.succeeded();
                    return Ok(value);
                }
                Err(failure) => failure,
            };
            if failure.was_found_dead() && Instant::now() < deadline {
                continue;
            }
            let again_at = Instant::now() + RETRY_PAUSE;
            if !failure.is_passing() || retries == RETRIES || again_at >= deadline {
                if failure.is_outage() {
                    breaker.failed(SystemTime::now());
                } else {
                    breaker.succeeded();
                }
                return Err(failure.into());
            }
            retries += 1;
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Returns whether the breaker for the server of `key` is open.
    pub(super) fn is_known_down(&self, key: &str) -> bool {
        !self.inner.gate(key).breaker.is_closed()
    }

    /// Returns at once while the breaker is closed. Otherwise makes sure that a probe runs and waits briefly for its
    /// result, so that the first turn after an outage has its memory.
    async fn admit(&self, key: &str) -> Result<(), Error> {
        let gate = self.inner.gate(key);
        let probed = gate.probed.notified();
        tokio::pin!(probed);
        probed.as_mut().enable();
        match gate.breaker.admit(SystemTime::now()) {
            Admission::Admitted => return Ok(()),
            Admission::Refused => return Err(Error::BreakerOpen),
            Admission::Probing => {}
            Admission::StartProbe => {
                let probe = Probe {
                    inner: Arc::clone(&self.inner),
                    call: Call::probe(key.to_owned()),
                };
                // Not awaited: it ends within its own budget, which is longer than a turn may wait.
                tokio::spawn(probe.run());
            }
        }
        let _ = timeout(PROBE_WAIT, probed).await;
        if gate.breaker.is_closed() {
            Ok(())
        } else {
            Err(Error::BreakerOpen)
        }
    }
}

impl Inner {
    fn gate(&self, key: &str) -> &Gate {
        let index = match self.gates.len() {
            1 => 0,
            gates => usize::from(slot(key)) * gates / usize::from(SLOTS),
        };
        #[expect(
            clippy::indexing_slicing,
            reason = "a slot is less than SLOTS, so the index is less than the length"
        )]
        &self.gates[index]
    }

    async fn attempt(self: &Arc<Self>, call: &Call, deadline: Instant) -> Result<Value, Failure> {
        let mut link = timeout_at(deadline, self.link())
            .await
            .map_err(|_| Failure::Timeout { reused: false })?
            .map_err(Failure::Connect)?;
        let suspect = link.reused && link.idle() > IDLE_SUSPECT;
        let limit = if suspect {
            let left = deadline.saturating_duration_since(Instant::now());
            deadline - left.mul_f32(0.6)
        } else {
            deadline
        };
        let reused = link.reused;
        match timeout_at(limit, call.send(&mut link.connection)).await {
            Ok(Ok(value)) => {
                link.answered_at
                    .store(unix_millis(SystemTime::now()), Ordering::Relaxed);
                Ok(value)
            }
            Ok(Err(CallError::NotReplicated)) => Err(Failure::NotReplicated),
            Ok(Err(CallError::Redis(error))) => {
                // A cluster connection repairs itself: it replaces broken sockets and follows moved slots.
                if (error.is_unrecoverable_error() || is_wrong_server(&error))
                    && !link.connection.is_many()
                {
                    self.discard(link.generation);
                }
                if link.connection.is_many() && is_outage(&error) {
                    // A node that no longer accepts the password looks like a node that is down.
                    let _ = timeout_at(deadline, self.topology.renew_login()).await;
                }
                Err(Failure::Command {
                    error,
                    reused: reused && !link.connection.is_many(),
                })
            }
            Err(_) => {
                if link.connection.is_many() && !suspect {
                    // One server does not reply. The others stay reachable on this connection while a new one is
                    // opened.
                    tokio::spawn(Arc::clone(self).replace(link.generation));
                } else {
                    self.discard(link.generation);
                }
                Err(Failure::Timeout { reused })
            }
        }
    }

    /// Returns the connection in use, or opens one.
    async fn link(&self) -> RedisResult<Link> {
        if let Some(link) = self.link_in_use() {
            return Ok(link);
        }
        let _one_at_a_time = self.connecting.lock().await;
        // Another operation may have connected while this one waited for the lock.
        if let Some(link) = self.link_in_use() {
            return Ok(link);
        }
        let connection = self.topology.connect().await?;
        Ok(self.install(&mut lock(&self.live), connection))
    }

    fn link_in_use(&self) -> Option<Link> {
        lock(&self.live).as_ref().map(|live| Link {
            connection: live.connection.clone(),
            generation: live.generation,
            answered_at: Arc::clone(&live.answered_at),
            reused: true,
        })
    }

    fn install(&self, live: &mut Option<Live>, connection: Connection) -> Link {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let answered_at = Arc::new(AtomicU64::new(unix_millis(SystemTime::now())));
        *live = Some(Live {
            connection: connection.clone(),
            generation,
            answered_at: Arc::clone(&answered_at),
        });
        Link {
            connection,
            generation,
            answered_at,
            reused: false,
        }
    }

    /// Drops the connection, unless it has been replaced already.
    fn discard(&self, generation: u64) {
        let mut live = lock(&self.live);
        if live
            .as_ref()
            .is_some_and(|live| live.generation == generation)
        {
            *live = None;
        }
    }

    /// Opens a new connection beside the one in use and switches to it, unless that one has been replaced already.
    async fn replace(self: Arc<Self>, generation: u64) {
        let Ok(Ok(connection)) = timeout(self.probe_budget, self.topology.connect()).await else {
            return;
        };
        let mut live = lock(&self.live);
        if live
            .as_ref()
            .is_some_and(|live| live.generation == generation)
        {
            self.install(&mut live, connection);
        }
    }
}

/// The request that checks whether Redis is back. Dropping it updates the breaker and wakes the waiting operations,
/// so this happens however the probe ends.
struct Probe {
    inner: Arc<Inner>,
    call: Call,
}

impl Probe {
    async fn run(self) {
        let deadline = Instant::now() + self.inner.probe_budget;
        let mut outcome = self.inner.attempt(&self.call, deadline).await;
        if outcome.as_ref().is_err_and(Failure::was_found_dead) {
            outcome = self.inner.attempt(&self.call, deadline).await;
        }
        // An error about the request, as opposed to the server, also shows that the server replies.
        if outcome
            .as_ref()
            .err()
            .is_none_or(|failure| !failure.is_outage())
        {
            self.gate().breaker.succeeded();
        }
    }

    fn gate(&self) -> &Gate {
        self.inner.gate(self.call.key())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // After a success the breaker is closed, and this has no effect.
        self.gate().breaker.probe_failed(SystemTime::now());
        self.gate().probed.notify_waiters();
    }
}

/// Number of hash slots in a Redis cluster.
const SLOTS: u16 = 16_384;

/// Returns the slot of a key according to the cluster specification: CRC-16 of the hash tag, or of the whole key if
/// it has no tag.
fn slot(key: &str) -> u16 {
    let tag = key
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .map(|(tag, _)| tag)
        .filter(|tag| !tag.is_empty());
    crc16::State::<crc16::XMODEM>::calculate(tag.unwrap_or(key).as_bytes()) % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot("123456789"), 12_739);
        assert_eq!(slot("foo"), 12_182);
        assert_eq!(slot("chat:{foo}:x:messages"), 12_182);
        assert_eq!(
            slot("foo{}"),
            crc16::State::<crc16::XMODEM>::calculate(b"foo{}") % SLOTS
        );
    }
}
