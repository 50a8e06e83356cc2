//! One Redis server: how it is reached, its connections, and its breaker. What happens to one server costs the users of
//! another nothing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use redis::Value;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::address::Address;
use super::breaker::{Breaker, Rules};
use super::call::Call;
use super::dial::{ConnectError, Connection, Dialer};
use super::failure::Failure;
use super::lane::{Lane, Link};
use super::sentinel::Sentinels;
use crate::clock::lock;

/// Most connections to one server on which writes wait for replicas. Further writes wait for one of them.
const MAX_WAITING_LANES: usize = 16;

/// A Redis server.
pub(super) struct Node {
    place: Place,
    dialer: Arc<Dialer>,
    /// The connection that all operations share, except writes that wait for replicas.
    shared: Lane,
    /// WAIT blocks its connection, and counts only writes of the same connection. So each write that waits for replicas
    /// has a connection to itself.
    waiting: Mutex<Vec<Lane>>,
    permits: Semaphore,
    pub(super) breaker: Breaker,
    /// Wakes the operations that wait for a probe.
    pub(super) probed: Notify,
}

/// How a server is found.
pub(super) enum Place {
    /// At a fixed address.
    At(Address),
    /// At the address that the sentinels name.
    Master(Sentinels),
    /// Nowhere: it stands for the slots that no known node of a cluster serves.
    Nowhere,
}

/// A connection to which one write has the sole right. It is closed when this is dropped, because a WAIT may still
/// block it.
pub(super) struct OwnLane<'a> {
    node: &'a Node,
    pub(super) lane: Lane,
    _permit: SemaphorePermit<'a>,
}

impl OwnLane<'_> {
    /// Keeps the connection for the next write. All its requests must be answered.
    pub(super) fn give_back(self) {
        lock(&self.node.waiting).push(self.lane);
    }
}

impl Node {
    pub(super) fn new(place: Place, dialer: Arc<Dialer>, rules: Rules) -> Self {
        Self {
            place,
            dialer,
            shared: Lane::default(),
            waiting: Mutex::default(),
            permits: Semaphore::new(MAX_WAITING_LANES),
            breaker: Breaker::new(rules),
            probed: Notify::new(),
        }
    }

    /// Returns the shared connection, and opens it if there is none.
    pub(super) async fn link(&self, deadline: Instant) -> Result<Link<'_>, Failure> {
        self.link_on(&self.shared, deadline, true).await
    }

    /// As [`Node::link`], without fetching the password again if the server rejects it.
    pub(super) async fn link_as_before(&self, deadline: Instant) -> Result<Link<'_>, Failure> {
        self.link_on(&self.shared, deadline, false).await
    }

    /// Returns a lane that no other write uses until it is dropped.
    pub(super) async fn own_lane(&self, deadline: Instant) -> Result<OwnLane<'_>, Failure> {
        let timed_out = Failure::Timeout { reused: false };
        let permit = match timeout_at(deadline, self.permits.acquire()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => return Err(timed_out),
        };
        Ok(OwnLane {
            node: self,
            // The lane that was used last is the least likely to be dead.
            lane: lock(&self.waiting).pop().unwrap_or_default(),
            _permit: permit,
        })
    }

    /// Returns the connection of `lane`, and opens it if there is none.
    pub(super) async fn link_on<'a>(
        &'a self,
        lane: &'a Lane,
        deadline: Instant,
        may_renew: bool,
    ) -> Result<Link<'a>, Failure> {
        let open = || -> BoxFuture<'a, _> { Box::pin(self.open(may_renew)) };
        lane.link(deadline, open).await
    }

    async fn open(&self, may_renew: bool) -> Result<Connection, ConnectError> {
        match &self.place {
            Place::At(address) => self.dialer.open(address, may_renew).await,
            Place::Master(sentinels) => sentinels.open_master(&self.dialer).await,
            Place::Nowhere => Err(ConnectError::NobodyServes),
        }
    }

    /// Sends `call` on the shared connection until `deadline`, and once more on a new one if the first was dead.
    pub(super) async fn probe(&self, call: &Call, budget: Duration) -> Result<Value, Failure> {
        let deadline = Instant::now() + budget;
        let attempt = async || self.link(deadline).await?.read(call, false, deadline).await;
        match attempt().await {
            Err(failure) if failure.was_found_dead() => attempt().await,
            outcome => outcome,
        }
    }

    /// Returns whether a connection is open. It may be dead.
    pub(super) fn is_connected(&self) -> bool {
        self.shared.is_open()
    }

    pub(super) fn address(&self) -> Option<&Address> {
        match &self.place {
            Place::At(address) => Some(address),
            Place::Master(_) | Place::Nowhere => None,
        }
    }

    pub(super) fn is_nowhere(&self) -> bool {
        matches!(self.place, Place::Nowhere)
    }
}
