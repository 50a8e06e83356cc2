//! The servers that faults strike.

use std::time::Duration;

use fastrand::Rng;
use serde_json::Value;
use testkit::cluster::Cluster;
use testkit::proxy::Proxy;
use testkit::redis::Server;
use testkit::sentinel::Sentinels;
use tokio::time::sleep;

use super::checker::{Session, Stored};
use super::{CHARACTERS, USERS};

/// The most by which the clocks of two servers differ, in milliseconds.
const CLOCKS_APART_MS: i64 = 3_000;

/// A topology under fire. The clock of each server is ahead of the machine's or behind it.
pub(crate) enum Target {
    /// One server, which writes every command to disk before it answers, so a crash loses nothing that was acknowledged.
    /// The functions reach it through a proxy.
    Standalone(Box<Server>, Proxy),
    /// A master, two replicas and three sentinels. Commits wait for both replicas, because whichever of them succeeds the
    /// master must have what was acknowledged.
    Sentinel(Sentinels),
    /// Three shards of a master and a replica each. Commits wait for the replica.
    Cluster(Cluster),
}

/// A fault that has struck.
pub(crate) struct Struck {
    pub(crate) name: &'static str,
    /// The users whose server does not answer as usual meanwhile.
    pub(crate) users: Vec<usize>,
    /// The users whose server may fail to store something meanwhile. Some of these faults delay nobody.
    pub(crate) touched: Vec<usize>,
}

impl Struck {
    /// A fault that takes no server from anybody.
    pub(crate) fn nobody(name: &'static str) -> Self {
        Self {
            name,
            users: Vec::new(),
            touched: Vec::new(),
        }
    }

    /// A fault that delays nobody, and may keep the servers of these users from storing something.
    fn of_writes(name: &'static str, touched: Vec<usize>) -> Self {
        Self {
            name,
            users: Vec::new(),
            touched,
        }
    }

    fn everybody(name: &'static str) -> Self {
        Self {
            name,
            users: everyone(),
            touched: everyone(),
        }
    }
}

fn everyone() -> Vec<usize> {
    (0..USERS).collect()
}

impl Target {
    pub(crate) async fn start(topology: &str, rng: &mut Rng) -> Self {
        let mut ahead_ms = || rng.i64(-CLOCKS_APART_MS / 2..=CLOCKS_APART_MS / 2);
        match topology {
            "standalone" => {
                let durable = ["--appendonly", "yes", "--appendfsync", "always"];
                let server = Server::start_with_clock(&durable, ahead_ms()).await;
                let proxy = Proxy::start(server.port()).await;
                Self::Standalone(Box::new(server), proxy)
            }
            "sentinel" => {
                let clocks = [(); 3].map(|()| ahead_ms());
                Self::Sentinel(Sentinels::start_behind_proxies(clocks).await)
            }
            "cluster" => {
                let clocks = [(); 6].map(|()| ahead_ms());
                Self::Cluster(Cluster::start_behind_proxies(clocks).await)
            }
            other => panic!("no such topology: {other}"),
        }
    }

    /// Returns whether there is one server alone, which loses nothing.
    pub(crate) fn is_single(&self) -> bool {
        matches!(self, Self::Standalone(..))
    }

    pub(crate) fn env(&self) -> Vec<(String, String)> {
        let wait = |mut env: Vec<(String, String)>, replicas: &str| {
            env.push(("REDIS_WAIT_REPLICAS".into(), replicas.into()));
            env
        };
        match self {
            Self::Standalone(_, proxy) => vec![("REDIS_URL".into(), proxy.url())],
            Self::Sentinel(sentinels) => wait(sentinels.env(), "2"),
            Self::Cluster(cluster) => wait(cluster.env(), "1"),
        }
    }

    /// Strikes one fault and, where it does not pass by itself, ends it.
    pub(crate) async fn strike(&mut self, rng: &mut Rng) -> Struck {
        match self {
            Self::Standalone(server, proxy) => strike_server(server, proxy, rng).await,
            Self::Sentinel(sentinels) => strike_sentinels(sentinels, rng).await,
            Self::Cluster(cluster) => strike_cluster(cluster, rng).await,
        }
    }

    /// Ends whatever is still broken.
    pub(crate) async fn heal(&mut self) {
        match self {
            Self::Standalone(server, _) => {
                server.command::<String>(&["CLIENT", "UNPAUSE"]).await;
            }
            Self::Sentinel(sentinels) => sentinels.heal().await,
            Self::Cluster(cluster) => cluster.heal().await,
        }
    }

    pub(crate) async fn stored(&self, session: &Session) -> Stored {
        let (user, character) = session;
        let key = |part: &str| match self {
            Self::Standalone(..) | Self::Sentinel(_) => format!("chat:{user}:{character}:{part}"),
            Self::Cluster(_) => format!("chat:{{{user}}}:{character}:{part}"),
        };
        type Figures = (Option<i64>, Option<String>);
        let (messages, meta) = (key("messages"), key("meta"));
        let list = ["LRANGE", &messages, "0", "-1"];
        let count = ["HMGET", &meta, "message_count", "state"];
        let (elements, (message_count, state)): (Vec<String>, Figures) = match self {
            Self::Standalone(server, _) => {
                (server.command(&list).await, server.command(&count).await)
            }
            Self::Sentinel(sentinels) => (
                sentinels.command(&list).await,
                sentinels.command(&count).await,
            ),
            Self::Cluster(cluster) => (
                cluster.command(&messages, &list).await,
                cluster.command(&meta, &count).await,
            ),
        };
        let parse = |element: &String| serde_json::from_str(element).unwrap_or(Value::Null);
        Stored {
            messages: elements.iter().rev().map(parse).collect(),
            message_count,
            state,
        }
    }
}

async fn strike_server(server: &mut Server, proxy: &Proxy, rng: &mut Rng) -> Struck {
    match rng.u8(..8) {
        0 => {
            server.kill().await;
            sleep(Duration::from_millis(rng.u64(..500))).await;
            server.restart().await;
            Struck::everybody("server killed")
        }
        1 => {
            server.pause();
            sleep(Duration::from_millis(rng.u64(50..1_500))).await;
            server.resume();
            Struck::everybody("server stopped")
        }
        2 => {
            let milliseconds = rng.u64(50..1_500);
            server
                .command::<String>(&["CLIENT", "PAUSE", &milliseconds.to_string(), "WRITE"])
                .await;
            // A read waits behind a write of its connection.
            sleep(Duration::from_millis(milliseconds)).await;
            Struck::everybody("writes paused")
        }
        3 => {
            server.command::<String>(&["SCRIPT", "FLUSH"]).await;
            Struck::nobody("scripts flushed")
        }
        4 => {
            server
                .command::<String>(&["CONFIG", "SET", "maxmemory", "1"])
                .await;
            sleep(Duration::from_millis(rng.u64(50..500))).await;
            server
                .command::<String>(&["CONFIG", "SET", "maxmemory", "0"])
                .await;
            Struck::of_writes("memory full", everyone())
        }
        5 | 6 => {
            delay_a_connection(proxy, rng).await;
            Struck::everybody(DELAYED)
        }
        _ => {
            server.command::<i64>(&KILL_CONNECTIONS).await;
            Struck::of_writes("connections killed", everyone())
        }
    }
}

const DELAYED: &str = "a connection delayed";

/// Delays all requests on one of the newest connections for a while. Some of these are of replicas and sentinels.
async fn delay_a_connection(proxy: &Proxy, rng: &mut Rng) {
    let delay = Duration::from_millis(rng.u64(50..1_500));
    let back = rng.u64(..4);
    proxy.delay_one(back, delay);
    sleep(Duration::from_millis(rng.u64(100..1_500))).await;
    proxy.delay_one(back, Duration::ZERO);
    // What is on its way arrives that much later.
    sleep(delay).await;
}

const KILL_CONNECTIONS: [&str; 6] = ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];

async fn strike_sentinels(sentinels: &mut Sentinels, rng: &mut Rng) -> Struck {
    match rng.u8(..8) {
        7 => {
            let proxy = sentinels.master_proxy().await;
            delay_a_connection(proxy, rng).await;
            Struck::everybody(DELAYED)
        }
        0 => {
            let old = sentinels.kill_master().await;
            sentinels.wait_for_new_master(old).await;
            sentinels.heal().await;
            Struck::everybody("master killed")
        }
        1 => {
            let old = sentinels.pause_master().await;
            sentinels.wait_for_new_master(old).await;
            sentinels.heal().await;
            Struck::everybody("master stopped and replaced")
        }
        2 => {
            sentinels.failover().await;
            sleep(FAILOVER_TAKES).await;
            // One that has begun may take longer.
            sentinels.heal().await;
            Struck::everybody("failover")
        }
        3 => {
            sentinels.pause_master().await;
            sleep(Duration::from_millis(rng.u64(50..400))).await;
            sentinels.resume();
            Struck::everybody("master stopped")
        }
        4 => {
            sentinels.pause_replica().await;
            sleep(Duration::from_millis(rng.u64(50..1_500))).await;
            sentinels.resume();
            Struck::of_writes("replica stopped", everyone())
        }
        5 => {
            sentinels.command::<String>(&["SCRIPT", "FLUSH"]).await;
            Struck::nobody("scripts flushed")
        }
        _ => {
            sentinels.command::<i64>(&KILL_CONNECTIONS).await;
            Struck::of_writes("connections killed", everyone())
        }
    }
}

/// The time after which a failover that was asked for has begun, or was refused.
const FAILOVER_TAKES: Duration = Duration::from_secs(4);

async fn strike_cluster(cluster: &mut Cluster, rng: &mut Rng) -> Struck {
    let key = |user: usize| format!("chat:{{u{user}}}:{}:messages", CHARACTERS[0]);
    let user = rng.usize(..USERS);
    let key_of_it = key(user);
    let master = cluster.master_of(&key_of_it).await;
    let mut masters_of_users = Vec::new();
    for user in 0..USERS {
        masters_of_users.push(cluster.master_of(&key(user)).await);
    }
    let of = |masters: &[u16]| -> Vec<usize> {
        let users = 0..USERS;
        users
            .filter(|user| masters.contains(&masters_of_users[*user]))
            .collect()
    };
    let mut users = of(&[master]);
    let name = match rng.u8(..9) {
        8 => {
            delay_a_connection(cluster.proxy(master), rng).await;
            DELAYED
        }
        0 => {
            cluster.kill(master).await;
            cluster.wait_for_new_master(&key_of_it, master).await;
            cluster.heal().await;
            "master killed"
        }
        1 => {
            cluster.pause(master);
            cluster.wait_for_new_master(&key_of_it, master).await;
            cluster.heal().await;
            "master stopped and replaced"
        }
        2 | 3 => {
            cluster.pause(master);
            sleep(Duration::from_millis(rng.u64(50..600))).await;
            cluster.resume();
            "master stopped"
        }
        4 => {
            if let Some(replica) = cluster.replica_of(master).await {
                cluster.pause(replica);
            }
            sleep(Duration::from_millis(rng.u64(50..600))).await;
            cluster.resume();
            return Struck::of_writes("replica stopped", users);
        }
        5 => {
            let slot = cluster.slot(&key_of_it).await;
            let masters = cluster.masters().await;
            if let Some(to) = masters.into_iter().find(|port| *port != master) {
                cluster.begin_migration(slot, master, to).await;
                cluster.migrate_keys(slot, master, to).await;
                cluster.finish_migration(slot, master, to).await;
                // MIGRATE blocks both servers while it copies the keys.
                users = of(&[master, to]);
            }
            "slot moved"
        }
        6 => {
            cluster
                .node(master)
                .command::<String>(&["SCRIPT", "FLUSH"])
                .await;
            return Struck::nobody("scripts flushed");
        }
        _ => {
            cluster.node(master).command::<i64>(&KILL_CONNECTIONS).await;
            return Struck::of_writes("connections killed", users);
        }
    };
    Struck {
        name,
        touched: users.clone(),
        users,
    }
}
