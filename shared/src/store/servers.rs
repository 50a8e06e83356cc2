//! The Redis servers of a topology, and how an operation reaches one of them: admission by the breaker of the server,
//! attempts, redirections, retries and probes. What an operation may expect is the matter of its [`Policy`].

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use redis::Value;
use tokio::time::{Instant, sleep, timeout_at};

use super::Error;
use super::address::Urls;
use super::breaker::{Admission, Rules};
use super::call::{Call, redirection};
use super::cluster::Cluster;
use super::dial::{ConnectError, Dialer};
use super::failure::Failure;
use super::login::Login;
use super::node::{Node, Place};
use super::read::Read;
use super::sentinel::Sentinels;
use crate::config::{ConfigError, MemoryConfig, RedisConfig, RedisMode};
use crate::secrets::Secrets;

/// Pause before each retry.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Most redirections that one operation follows at once. Two nodes that disagree about a slot agree after a pause.
const MAX_REDIRECTIONS: u32 = 4;

/// What an operation does on its way, and what it may expect. Each policy is described in its own file.
pub(super) trait Policy: Sync {
    /// Number of retries of failures that may pass, in addition to the first attempt. Attempts never exceed the budget.
    const RETRIES: u32;
    /// Longest wait for a probe of a server that is known to be down. It never exceeds the budget.
    const PROBE_WAIT: Duration;
    /// Pause between probes while this operation waits; [`Duration::MAX`] if it does not wait for the next one.
    const PROBE_PAUSE: Duration;

    /// Returns the key that selects the server.
    fn key(&self) -> &str;

    /// Makes one attempt on a server, until `deadline`.
    fn exchange(
        &self,
        way: &Way,
        deadline: Instant,
    ) -> impl Future<Output = Result<Value, Failure>> + Send;

    /// Returns whether a failure that is an outage opens the breaker.
    fn opens_breaker(&self) -> bool {
        true
    }

    /// Returns reads that together have the same reply, if there are several: while a slot moves, each of their keys
    /// may be on another node.
    fn parts(&self) -> Option<Vec<Call>> {
        None
    }
}

/// A server, and how it must be addressed.
pub(super) struct Way {
    pub(super) node: Arc<Node>,
    /// Whether the server is only about to take over the slot.
    pub(super) asking: bool,
}

/// The servers. Cheap to clone; clones share connections and breakers.
#[derive(Clone)]
pub(super) struct Servers {
    topology: Arc<Topology>,
    /// Longest duration of a probe.
    probe_budget: Duration,
}

enum Topology {
    /// A standalone server, or the master that the sentinels name.
    One(Arc<Node>),
    Cluster(Cluster),
}

impl Servers {
    /// Returns the configured servers. Reads the CA file and opens no connection, so an outage does not prevent a
    /// start.
    ///
    /// # Errors
    /// A `REDIS_…` setting is invalid, or the CA file cannot be used.
    pub(super) fn new(
        redis: &RedisConfig,
        memory: &MemoryConfig,
        secrets: &Secrets,
    ) -> Result<Self, ConfigError> {
        let rules = Rules {
            failures: memory.breaker_failures,
            cooldown: memory.breaker_cooldown,
        };
        let Urls {
            mut addresses,
            login,
        } = Urls::parse(&redis.urls)?;
        let dialer = Arc::new(Dialer::new(
            redis,
            &addresses,
            Login::new(redis, secrets)?,
            login,
        )?);
        let one = |place| Topology::One(Arc::new(Node::new(place, Arc::clone(&dialer), rules)));
        let topology = match redis.mode {
            RedisMode::Standalone => one(Place::At(addresses.swap_remove(0))),
            RedisMode::Sentinel => one(Place::Master(Sentinels::new(redis, addresses))),
            RedisMode::Cluster => {
                Topology::Cluster(Cluster::new(addresses, Arc::clone(&dialer), rules))
            }
        };
        Ok(Self {
            topology: Arc::new(topology),
            probe_budget: memory.read_timeout,
        })
    }

    /// Runs an operation as its policy says and returns the reply, within `budget`.
    pub(super) async fn run<P: Policy>(
        &self,
        policy: &P,
        budget: Duration,
    ) -> Result<Value, Error> {
        let deadline = Instant::now() + budget;
        let (mut retries, mut redirections) = (0, 0);
        let mut asked = None;
        let mut failed = None;
        loop {
            let way = match asked.take() {
                Some(way) => way,
                None => match self.admit::<P>(policy.key(), deadline).await {
                    Ok(way) => way,
                    // Another operation has opened the breaker meanwhile. What this one met says more.
                    Err(refusal) => return Err(failed.map_or(refusal, Error::from)),
                },
            };
            let failure = if way.node.is_nowhere() {
                match Box::pin(self.find(policy.key(), deadline)).await {
                    Ok(()) => {
                        way.node.breaker.succeeded();
                        continue;
                    }
                    Err(failure) => failure,
                }
            } else {
                match policy.exchange(&way, deadline).await {
                    Ok(reply) => {
                        way.node.breaker.succeeded();
                        return Ok(reply);
                    }
                    Err(failure) => failure,
                }
            };
            if redirections < MAX_REDIRECTIONS
                && let Some(next) = self.redirection(&way, &failure)
            {
                redirections += 1;
                if next.asking
                    && let Some(parts) = policy.parts()
                {
                    return self.run_parts(parts, deadline).await;
                }
                asked = next.asking.then_some(next);
                continue;
            }
            if failure.is_of_wrong_server() {
                self.doubt(&way.node);
            }
            if failure.was_found_dead() && Instant::now() < deadline {
                continue;
            }
            let again_at = Instant::now() + RETRY_PAUSE;
            if !failure.is_passing() || retries == P::RETRIES || again_at >= deadline {
                if !failure.is_outage() {
                    way.node.breaker.succeeded();
                } else if policy.opens_breaker() {
                    way.node.breaker.failed();
                }
                return Err(failure.into());
            }
            // Keys that are on their way arrive within the budget, or not.
            retries += u32::from(!failure.is_moving());
            failed = Some(failure);
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Returns whether the server of `key` is known to be down.
    pub(super) fn is_known_down(&self, key: &str) -> bool {
        !self.node(key).breaker.is_closed()
    }

    fn node(&self, key: &str) -> Arc<Node> {
        match &*self.topology {
            Topology::One(node) => Arc::clone(node),
            Topology::Cluster(cluster) => cluster.node(key),
        }
    }

    /// Returns the server of `key`, at once while its breaker is closed. Otherwise makes sure that a probe runs, and
    /// waits for its result as long as the policy allows.
    async fn admit<P: Policy>(&self, key: &str, deadline: Instant) -> Result<Way, Error> {
        let mut until = None;
        loop {
            let node = self.node(key);
            let probed = node.probed.notified();
            tokio::pin!(probed);
            probed.as_mut().enable();
            let admission = node.breaker.admit(SystemTime::now(), P::PROBE_PAUSE);
            if admission == Admission::Admitted {
                return Ok(Way {
                    node: Arc::clone(&node),
                    asking: false,
                });
            }
            let until = *until.get_or_insert_with(|| {
                let patience = Instant::now().checked_add(P::PROBE_WAIT);
                patience.map_or(deadline, |until| until.min(deadline))
            });
            match admission {
                Admission::Refused(wait)
                    if P::PROBE_PAUSE < Duration::MAX && Instant::now() + wait < until =>
                {
                    sleep(wait).await;
                    continue;
                }
                Admission::Refused(_) => return Err(Error::BreakerOpen),
                Admission::StartProbe => {
                    let probe = Probe {
                        servers: self.clone(),
                        node: Arc::clone(&node),
                        key: key.to_owned(),
                    };
                    // Not awaited: it ends within its own budget, which is longer than a read may wait.
                    tokio::spawn(probe.run());
                }
                Admission::Admitted | Admission::Probing => {}
            }
            if timeout_at(until, probed).await.is_err() {
                return Err(Error::BreakerOpen);
            }
        }
    }

    /// Reads the map of a cluster until it contains the slot of `key`.
    async fn find(&self, key: &str, deadline: Instant) -> Result<(), Failure> {
        if let Topology::Cluster(cluster) = &*self.topology {
            cluster.refresh(None, deadline).await?;
        }
        if self.node(key).is_nowhere() {
            return Err(Failure::Connect(ConnectError::NobodyServes));
        }
        Ok(())
    }

    /// Returns where a server has redirected an operation, and corrects the map if the redirection is permanent.
    fn redirection(&self, way: &Way, failure: &Failure) -> Option<Way> {
        let (Topology::Cluster(cluster), Failure::Command { error, .. }) =
            (&*self.topology, failure)
        else {
            return None;
        };
        let (slot, host, port) = redirection(error)?;
        let node = cluster.redirected(&way.node, host, port)?;
        let asking = error.code() == Some("ASK");
        if !asking {
            cluster.moved(slot, &node);
            // Where one slot has moved, others have.
            self.refresh_behind(None);
        }
        Some(Way { node, asking })
    }

    /// Runs reads one by one, each where its key is, and returns the list of their replies.
    /// Boxed, because running a read may lead here again.
    fn run_parts(
        &self,
        parts: Vec<Call>,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<Value, Error>> {
        Box::pin(async move {
            let mut replies = Vec::with_capacity(parts.len());
            for call in &parts {
                let left = deadline.saturating_duration_since(Instant::now());
                replies.push(
                    self.run(
                        &Read {
                            call,
                            opens_breaker: true,
                        },
                        left,
                    )
                    .await?,
                );
            }
            Ok(Value::Array(replies))
        })
    }

    /// Has the map of a cluster read again, because another node may have taken over from `node`.
    fn doubt(&self, node: &Arc<Node>) {
        self.refresh_behind(Some(Arc::clone(node)));
    }

    fn refresh_behind(&self, failed: Option<Arc<Node>>) {
        if matches!(&*self.topology, Topology::One(_)) {
            return;
        }
        let servers = self.clone();
        // Not awaited: it ends within its budget, and operations that need the map wait for it themselves.
        tokio::spawn(async move {
            if let Topology::Cluster(cluster) = &*servers.topology {
                let deadline = Instant::now() + servers.probe_budget;
                let _ = timeout_at(deadline, cluster.refresh(failed.as_ref(), deadline)).await;
            }
        });
    }
}

/// The request that checks whether a server is back. Dropping it updates the breaker and wakes the waiting operations,
/// so this happens however the probe ends.
struct Probe {
    servers: Servers,
    node: Arc<Node>,
    key: String,
}

impl Probe {
    async fn run(self) {
        let budget = self.servers.probe_budget;
        let deadline = Instant::now() + budget;
        if self.node.is_nowhere() {
            if matches!(
                timeout_at(deadline, self.servers.find(&self.key, deadline)).await,
                Ok(Ok(()))
            ) {
                self.node.breaker.succeeded();
            }
            return;
        }
        let refreshed = async {
            if let Topology::Cluster(cluster) = &*self.servers.topology {
                let _ = timeout_at(deadline, cluster.refresh(Some(&self.node), deadline)).await;
                // Another node may serve the key now, and operations need not wait for the reply of this one.
                self.node.probed.notify_waiters();
            }
        };
        let call = Call::probe(self.key.clone());
        let (outcome, ()) = tokio::join!(self.node.probe(&call, budget), refreshed);
        // An error about the request, as opposed to the server, also shows that the server replies.
        if outcome.err().is_none_or(|failure| !failure.is_outage()) {
            self.node.breaker.succeeded();
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // After a success the breaker is closed, and this has no effect.
        self.node.breaker.probe_failed(SystemTime::now());
        self.node.probed.notify_waiters();
    }
}
