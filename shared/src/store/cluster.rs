//! The map of a cluster: which node serves which slot. Nodes tell it (CLUSTER SLOTS) and correct it (MOVED).
//!
//! The map is read at first use, and again when a node fails or redirects. Several nodes are asked at the same time and
//! the first reply serves, so a node that hangs delays nothing. A refresh never touches the connections to nodes that
//! stay in the map.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::address::Address;
use super::breaker::Rules;
use super::dial::{ConnectError, Dialer};
use super::failure::Failure;
use super::node::{Node, Place};
use super::slots::{Range, SLOTS, ranges, slot};
use crate::clock::lock;

/// Time after which the seeds are asked for the map too, if the connected nodes are silent.
const SEEDS_AFTER: Duration = Duration::from_millis(50);

/// The nodes of a cluster.
pub(super) struct Cluster {
    seeds: Vec<Address>,
    dialer: Arc<Dialer>,
    rules: Rules,
    /// Stands for every slot that is not in the map.
    nowhere: Arc<Node>,
    /// Locked for a search or a change, never across an await.
    map: Mutex<Map>,
    /// Number of maps that were read. Locked by whoever reads one.
    read: tokio::sync::Mutex<()>,
    reads: watch::Sender<u64>,
}

struct Map {
    /// For each slot the place of its master in `nodes`, or more than that if nobody serves the slot.
    slots: Box<[u16]>,
    nodes: Vec<Arc<Node>>,
}

impl Cluster {
    /// Returns a cluster that is known by these seeds. Connects to nothing.
    pub(super) fn new(seeds: Vec<Address>, dialer: Arc<Dialer>, rules: Rules) -> Self {
        Self {
            seeds,
            nowhere: Arc::new(Node::new(Place::Nowhere, Arc::clone(&dialer), rules)),
            dialer,
            rules,
            map: Mutex::new(Map {
                slots: vec![u16::MAX; usize::from(SLOTS)].into(),
                nodes: Vec::new(),
            }),
            read: tokio::sync::Mutex::default(),
            reads: watch::Sender::new(0),
        }
    }

    /// Returns the node that serves a key according to the map, or the one that stands for unserved slots.
    pub(super) fn node(&self, key: &str) -> Arc<Node> {
        let map = lock(&self.map);
        let place = map.slots.get(usize::from(slot(key)));
        let node = place.and_then(|place| map.nodes.get(usize::from(*place)));
        Arc::clone(node.unwrap_or(&self.nowhere))
    }

    /// Returns the node at the address of a redirection that `from` has sent.
    pub(super) fn redirected(&self, from: &Node, host: &str, port: u16) -> Option<Arc<Node>> {
        let address = from.address()?.neighbour(host, port)?;
        let mut map = lock(&self.map);
        let place = self.place(&mut map, &address)?;
        map.nodes.get(usize::from(place)).cloned()
    }

    /// Corrects the map after a MOVED.
    pub(super) fn moved(&self, slot: u16, to: &Arc<Node>) {
        let mut map = lock(&self.map);
        let place = to
            .address()
            .and_then(|address| self.place(&mut map, address));
        if let (Some(place), Some(of_slot)) = (place, map.slots.get_mut(usize::from(slot))) {
            *of_slot = place;
        }
    }

    /// Reads the map again. If another task does so already, waits for that instead. `failed` is a node that is not
    /// asked, because it failed.
    pub(super) async fn refresh(
        &self,
        failed: Option<&Arc<Node>>,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let reads = *self.reads.borrow();
        let _one_at_a_time = self.read.lock().await;
        if *self.reads.borrow() != reads {
            return Ok(());
        }
        let ranges = match self.ask(failed, deadline, false).await {
            // Only now may the password be outdated: a node that has another one must not have it fetched again.
            Err(Failure::Connect(error)) if error.is_refused_login() => {
                self.ask(failed, deadline, true).await?
            }
            outcome => outcome?,
        };
        self.install(ranges);
        self.reads.send_modify(|reads| *reads += 1);
        Ok(())
    }

    /// Returns the first map that a node reports: connected nodes are asked, and the seeds if those do not reply soon.
    async fn ask(
        &self,
        failed: Option<&Arc<Node>>,
        deadline: Instant,
        may_renew: bool,
    ) -> Result<Vec<Range>, Failure> {
        let is_failed = |node: &Arc<Node>| failed.is_some_and(|failed| Arc::ptr_eq(failed, node));
        let connected: Vec<_> = lock(&self.map)
            .nodes
            .iter()
            .filter(|node| node.is_connected() && !is_failed(node))
            .cloned()
            .collect();
        let mut seeds = Some(self.seeds.iter().map(|seed| self.known_or_new(seed)));
        let mut failure = Failure::Connect(ConnectError::NobodyServes);
        let mut running: FuturesUnordered<_> = connected
            .into_iter()
            .map(|node| ask_node(node, deadline, may_renew))
            .collect();
        loop {
            if running.is_empty() {
                match seeds.take() {
                    Some(seeds) => {
                        running.extend(seeds.map(|node| ask_node(node, deadline, may_renew)))
                    }
                    None => return Err(failure),
                }
            }
            tokio::select! {
                reply = running.next() => match reply {
                    Some(Ok(ranges)) if !ranges.is_empty() => return Ok(ranges),
                    // A refused login says more than a node that is down.
                    Some(Err(error)) if !is_refused_login(&failure) => failure = error,
                    Some(_) | None => {}
                },
                () = sleep(SEEDS_AFTER), if seeds.is_some() => {
                    let seeds = seeds.take().into_iter().flatten();
                    running.extend(seeds.map(|node| ask_node(node, deadline, may_renew)));
                }
            }
        }
    }

    /// Replaces the map. Nodes that are in both maps keep their connections and breakers.
    fn install(&self, ranges: Vec<Range>) {
        let mut map = lock(&self.map);
        let mut known: HashMap<Address, Arc<Node>> = HashMap::new();
        for node in map.nodes.drain(..) {
            if let Some(address) = node.address().cloned() {
                known.insert(address, node);
            }
        }
        map.slots.fill(u16::MAX);
        for Range {
            first,
            last,
            master,
        } in ranges
        {
            if let Some(node) = known.remove(&master) {
                map.nodes.push(node);
            }
            let Some(place) = self.place(&mut map, &master) else {
                continue;
            };
            if let Some(slots) = map.slots.get_mut(usize::from(first)..=usize::from(last)) {
                slots.fill(place);
            }
        }
    }

    /// Returns the place of the node with this address in the map, and adds it if it is new.
    fn place(&self, map: &mut Map, address: &Address) -> Option<u16> {
        let place = map
            .nodes
            .iter()
            .position(|node| node.address() == Some(address));
        let place = place.unwrap_or_else(|| {
            map.nodes.push(Arc::new(self.new_node(address)));
            map.nodes.len() - 1
        });
        u16::try_from(place).ok()
    }

    fn known_or_new(&self, address: &Address) -> Arc<Node> {
        let mut map = lock(&self.map);
        self.place(&mut map, address)
            .and_then(|place| map.nodes.get(usize::from(place)).cloned())
            .unwrap_or_else(|| Arc::clone(&self.nowhere))
    }

    fn new_node(&self, address: &Address) -> Node {
        Node::new(
            Place::At(address.clone()),
            Arc::clone(&self.dialer),
            self.rules,
        )
    }
}

async fn ask_node(
    node: Arc<Node>,
    deadline: Instant,
    may_renew: bool,
) -> Result<Vec<Range>, Failure> {
    let mut link = if may_renew {
        node.link(deadline).await?
    } else {
        node.link_as_before(deadline).await?
    };
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    let reply = link.command(&command, deadline).await?;
    Ok(node
        .address()
        .map(|address| ranges(&reply, address))
        .unwrap_or_default())
}

fn is_refused_login(failure: &Failure) -> bool {
    matches!(failure, Failure::Connect(error) if error.is_refused_login())
}
