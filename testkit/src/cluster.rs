//! A real Redis Cluster of three masters and three replicas, killed on drop.

use std::time::{Duration, Instant};

use ::redis::FromRedisValue;

use crate::proxy::Proxy;
use crate::redis::Server;

const MASTERS: usize = 3;
const SLOTS: u16 = 16_384;
/// The time that the nodes may take to agree: on joining, promoting a replica, or moving a slot.
const SETTLE_WITHIN: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(20);

/// A running cluster of three masters, each with one replica.
pub struct Cluster {
    nodes: Vec<Server>,
    /// One in front of each node; empty if clients reach the nodes directly.
    proxies: Vec<Proxy>,
}

impl Cluster {
    /// Starts six nodes, joins them, and waits until every slot is served and every replica is in sync.
    ///
    /// # Panics
    /// If a node does not start, or the cluster is not complete in time.
    pub async fn start() -> Self {
        Self::start_nodes([0; 2 * MASTERS], Vec::new()).await
    }

    /// As [`Cluster::start`], with wall clocks that are ahead of the machine's by these milliseconds, first the masters',
    /// and with a proxy in front of each node. The nodes announce the ports of their proxies, so clients and replicas use
    /// these, and so do the other methods.
    ///
    /// # Panics
    /// As [`Cluster::start`].
    pub async fn start_behind_proxies(ahead_ms: [i64; 2 * MASTERS]) -> Self {
        let mut proxies = Vec::new();
        for _ in ahead_ms {
            proxies.push(Proxy::start(0).await);
        }
        Self::start_nodes(ahead_ms, proxies).await
    }

    async fn start_nodes(ahead_ms: [i64; 2 * MASTERS], proxies: Vec<Proxy>) -> Self {
        let mut nodes: Vec<Server> = Vec::new();
        for ahead_ms in ahead_ms {
            let announced = proxies.get(nodes.len()).map_or(0, Proxy::port);
            nodes.push(
                Server::start_with_clock(
                    &[
                        "--cluster-announce-port",
                        &announced.to_string(),
                        "--cluster-enabled",
                        "yes",
                        // The usual bus port, 10,000 above the other, can be beyond the last one.
                        "--cluster-port",
                        &crate::redis::free_port().to_string(),
                        "--cluster-node-timeout",
                        "1000",
                        "--cluster-require-full-coverage",
                        "no",
                        "--cluster-replica-validity-factor",
                        "0",
                        "--repl-diskless-sync",
                        "yes",
                        "--repl-diskless-sync-delay",
                        "0",
                        "--appendonly",
                        "yes",
                    ],
                    ahead_ms,
                )
                .await,
            );
        }
        for (proxy, node) in proxies.iter().zip(&nodes) {
            proxy.lead_to(node.port());
        }
        let cluster = Self { nodes, proxies };
        for (number, node) in cluster.nodes.iter().take(MASTERS).enumerate() {
            let range = |number: usize| number * usize::from(SLOTS) / MASTERS;
            let slots: Vec<String> = (range(number)..range(number + 1))
                .map(|slot| slot.to_string())
                .collect();
            let mut parts = vec!["CLUSTER", "ADDSLOTS"];
            parts.extend(slots.iter().map(String::as_str));
            node.command::<String>(&parts).await;
        }
        for (number, node) in cluster.nodes.iter().enumerate() {
            node.command::<String>(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()])
                .await;
            let first = &cluster.nodes[0];
            let port = first.port().to_string();
            let bus = first.bus_port().to_string();
            node.command::<String>(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])
                .await;
        }
        cluster
            .until("the nodes know each other", async |node| {
                known(node).await == 2 * MASTERS
            })
            .await;
        for number in 0..MASTERS {
            let master: String = cluster.nodes[number].command(&["CLUSTER", "MYID"]).await;
            cluster.nodes[MASTERS + number]
                .command::<String>(&["CLUSTER", "REPLICATE", &master])
                .await;
        }
        cluster.settle().await;
        cluster
    }

    /// Returns the value for `REDIS_URL`: the URLs of all nodes.
    #[must_use]
    pub fn urls(&self) -> String {
        let urls: Vec<String> = self
            .nodes
            .iter()
            .enumerate()
            .map(|(number, _)| format!("redis://127.0.0.1:{}", self.port(number)))
            .collect();
        urls.join(",")
    }

    /// Returns the environment variables that make a function use this cluster.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        vec![
            ("REDIS_MODE".into(), "cluster".into()),
            ("REDIS_URL".into(), self.urls()),
        ]
    }

    /// Returns the hash slot of a key.
    pub async fn slot(&self, key: &str) -> u16 {
        self.alive().command(&["CLUSTER", "KEYSLOT", key]).await
    }

    /// Returns the port of the master that serves a key, according to the running nodes.
    ///
    /// # Panics
    /// If no running node knows a master for the key.
    pub async fn master_of(&self, key: &str) -> u16 {
        let slot = self.slot(key).await;
        self.master_of_slot(slot)
            .await
            .expect("some node serves every slot")
    }

    async fn master_of_slot(&self, slot: u16) -> Option<u16> {
        type Node = (String, u16, String);
        let ranges: Vec<Vec<::redis::Value>> = self.alive().command(&["CLUSTER", "SLOTS"]).await;
        ranges.into_iter().find_map(|range| {
            let mut parts = range.into_iter();
            let first: u16 = ::redis::from_redis_value(parts.next()?).ok()?;
            let last: u16 = ::redis::from_redis_value(parts.next()?).ok()?;
            let mut master = match parts.next()? {
                ::redis::Value::Array(fields) => fields.into_iter(),
                _ => return None,
            };
            let node: Node = (
                ::redis::from_redis_value(master.next()?).ok()?,
                ::redis::from_redis_value(master.next()?).ok()?,
                String::new(),
            );
            (first..=last).contains(&slot).then_some(node.1)
        })
    }

    /// Runs a command on the master that serves a key.
    ///
    /// # Panics
    /// If the command fails.
    pub async fn command<T: FromRedisValue>(&self, key: &str, parts: &[&str]) -> T {
        self.node(self.master_of(key).await).command(parts).await
    }

    /// Kills a node, as a crash would.
    pub async fn kill(&mut self, port: u16) {
        let number = self.number(port);
        self.nodes[number].kill().await;
    }

    /// Pauses a node's process: its connections stay open and nothing is answered.
    pub fn pause(&self, port: u16) {
        self.node(port).pause();
    }

    /// Returns the proxy in front of a node.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn proxy(&self, port: u16) -> &Proxy {
        &self.proxies[self.number(port)]
    }

    /// Resumes every paused node.
    pub fn resume(&self) {
        for node in &self.nodes {
            node.resume();
        }
    }

    /// Returns the ports of the masters, according to the running nodes.
    pub async fn masters(&self) -> Vec<u16> {
        let nodes: String = self.alive().command(&["CLUSTER", "NODES"]).await;
        let masters = nodes
            .lines()
            .filter(|line| line.contains("master") && !line.contains("fail"));
        let port = |line: &str| {
            line.split([' ', ':', '@'])
                .nth(2)
                .and_then(|port| port.parse().ok())
        };
        masters.filter_map(port).collect()
    }

    /// Returns the port of the replica of a master, or `None` if it has none at present.
    pub async fn replica_of(&self, master: u16) -> Option<u16> {
        let id = self.id(master).await;
        let nodes: String = self.alive().command(&["CLUSTER", "NODES"]).await;
        let replica = nodes
            .lines()
            .find(|line| line.split(' ').nth(3) == Some(id.as_str()))?;
        replica.split([' ', ':', '@']).nth(2)?.parse().ok()
    }

    /// Returns the node with this port.
    ///
    /// # Panics
    /// If no node of this cluster has the port.
    #[must_use]
    pub fn node(&self, port: u16) -> &Server {
        &self.nodes[self.number(port)]
    }

    /// Waits until a node other than `old` serves a key.
    ///
    /// # Panics
    /// If no node takes over in time.
    pub async fn wait_for_new_master(&self, key: &str, old: u16) -> u16 {
        let slot = self.slot(key).await;
        let started = Instant::now();
        loop {
            if let Some(port) = self.master_of_slot(slot).await
                && port != old
            {
                return port;
            }
            assert!(started.elapsed() < SETTLE_WITHIN, "no replica was promoted");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Begins to move a slot: `from` redirects requests for keys that it no longer has to `to`.
    pub async fn begin_migration(&self, slot: u16, from: u16, to: u16) {
        let slot = slot.to_string();
        let (source, target) = (self.id(from).await, self.id(to).await);
        self.node(to)
            .command::<String>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source])
            .await;
        self.node(from)
            .command::<String>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target])
            .await;
    }

    /// Moves all keys of a slot from one node to another.
    pub async fn migrate_keys(&self, slot: u16, from: u16, to: u16) {
        let slot = slot.to_string();
        loop {
            let keys: Vec<String> = self
                .node(from)
                .command(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"])
                .await;
            if keys.is_empty() {
                return;
            }
            let port = to.to_string();
            let mut parts = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            parts.extend(keys.iter().map(String::as_str));
            self.node(from).command::<String>(&parts).await;
        }
    }

    /// Finishes a migration: from here on `to` owns the slot.
    pub async fn finish_migration(&self, slot: u16, from: u16, to: u16) {
        let slot = slot.to_string();
        let target = self.id(to).await;
        for port in [to, from] {
            self.node(port)
                .command::<String>(&["CLUSTER", "SETSLOT", &slot, "NODE", &target])
                .await;
        }
    }

    /// Restarts killed nodes, resumes paused ones, and waits until the cluster is complete again.
    pub async fn heal(&mut self) {
        self.resume();
        for node in &mut self.nodes {
            if !node.is_running() {
                node.restart().await;
            }
        }
        self.settle().await;
    }

    async fn settle(&self) {
        self.until("every slot is served", async |node| {
            let info: String = node.command(&["CLUSTER", "INFO"]).await;
            info.contains("cluster_state:ok") && info.contains("cluster_slots_ok:16384")
        })
        .await;
        self.until("every replica is in sync", async |node| {
            let info: String = node.command(&["INFO", "replication"]).await;
            if info.contains("role:master") {
                info.contains("state=online")
            } else {
                info.contains("master_link_status:up")
            }
        })
        .await;
    }

    async fn until(&self, what: &str, reached: impl AsyncFn(&Server) -> bool) {
        let started = Instant::now();
        for node in &self.nodes {
            while !reached(node).await {
                assert!(
                    started.elapsed() < SETTLE_WITHIN,
                    "timed out waiting until {what}"
                );
                tokio::time::sleep(POLL).await;
            }
        }
    }

    async fn id(&self, port: u16) -> String {
        self.node(port).command(&["CLUSTER", "MYID"]).await
    }

    fn alive(&self) -> &Server {
        self.nodes
            .iter()
            .find(|node| node.answers())
            .expect("a node is running")
    }

    fn number(&self, port: u16) -> usize {
        (0..self.nodes.len())
            .find(|number| self.port(*number) == port)
            .expect("a port of these servers")
    }

    /// Returns the port at which clients reach a node.
    fn port(&self, number: usize) -> u16 {
        let proxy = self.proxies.get(number).map(Proxy::port);
        proxy.unwrap_or_else(|| self.nodes[number].port())
    }
}

async fn known(node: &Server) -> usize {
    let nodes: String = node.command(&["CLUSTER", "NODES"]).await;
    nodes
        .lines()
        .filter(|line| line.contains("connected") && !line.contains("handshake"))
        .count()
}
