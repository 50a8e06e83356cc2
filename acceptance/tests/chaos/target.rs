//! The servers that faults strike.

use std::time::Duration;

use fastrand::Rng;
use serde_json::Value;
use testkit::cluster::Cluster;
use testkit::redis::Server;
use testkit::sentinel::Sentinels;
use tokio::time::sleep;

use super::CHARACTERS;
use super::checker::{Session, Stored};

/// A topology under fire.
pub(crate) enum Target {
    /// One server, which writes every command to disk before it answers: so a crash loses nothing that was acknowledged.
    Standalone(Server),
    /// A master, two replicas and three sentinels. Commits wait for both replicas, because whichever of them succeeds the
    /// master must have what was acknowledged.
    Sentinel(Sentinels),
    /// Three shards of a master and a replica each. Commits wait for the replica.
    Cluster(Cluster),
}

impl Target {
    pub(crate) async fn start(topology: &str) -> Self {
        match topology {
            "standalone" => {
                let durable = ["--appendonly", "yes", "--appendfsync", "always"];
                Self::Standalone(Server::start_with(&durable).await)
            }
            "sentinel" => Self::Sentinel(Sentinels::start().await),
            "cluster" => Self::Cluster(Cluster::start().await),
            other => panic!("no such topology: {other}"),
        }
    }

    pub(crate) fn env(&self) -> Vec<(String, String)> {
        let wait = |mut env: Vec<(String, String)>, replicas: &str| {
            env.push(("REDIS_WAIT_REPLICAS".into(), replicas.into()));
            env
        };
        match self {
            Self::Standalone(server) => vec![("REDIS_URL".into(), server.url())],
            Self::Sentinel(sentinels) => wait(sentinels.env(), "2"),
            Self::Cluster(cluster) => wait(cluster.env(), "1"),
        }
    }

    /// Strikes one fault and, where it does not pass by itself, ends it.
    pub(crate) async fn strike(&mut self, rng: &mut Rng) -> &'static str {
        match self {
            Self::Standalone(server) => strike_server(server, rng).await,
            Self::Sentinel(sentinels) => strike_sentinels(sentinels, rng).await,
            Self::Cluster(cluster) => strike_cluster(cluster, rng).await,
        }
    }

    /// Ends whatever is still broken.
    pub(crate) async fn heal(&mut self) {
        match self {
            Self::Standalone(server) => {
                server.command::<String>(&["CLIENT", "UNPAUSE"]).await;
            }
            Self::Sentinel(sentinels) => sentinels.heal().await,
            Self::Cluster(cluster) => cluster.heal().await,
        }
    }

    pub(crate) async fn stored(&self, session: &Session) -> Stored {
        let (user, character) = session;
        let key = |part: &str| match self {
            Self::Standalone(_) | Self::Sentinel(_) => format!("chat:{user}:{character}:{part}"),
            Self::Cluster(_) => format!("chat:{{{user}}}:{character}:{part}"),
        };
        let (messages, meta) = (key("messages"), key("meta"));
        let list = ["LRANGE", &messages, "0", "-1"];
        let count = ["HGET", &meta, "message_count"];
        let (elements, message_count): (Vec<String>, Option<i64>) = match self {
            Self::Standalone(server) => (server.command(&list).await, server.command(&count).await),
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
        }
    }
}

async fn strike_server(server: &mut Server, rng: &mut Rng) -> &'static str {
    match rng.u8(..7) {
        0 => {
            server.kill().await;
            sleep(Duration::from_millis(rng.u64(..500))).await;
            server.restart().await;
            "server killed"
        }
        1 => {
            server.pause();
            sleep(Duration::from_millis(rng.u64(50..1_500))).await;
            server.resume();
            "server stopped"
        }
        2 => {
            let milliseconds = rng.u64(50..1_500).to_string();
            server
                .command::<String>(&["CLIENT", "PAUSE", &milliseconds, "WRITE"])
                .await;
            "clients paused"
        }
        3 => {
            server.command::<String>(&["SCRIPT", "FLUSH"]).await;
            "scripts flushed"
        }
        4 => {
            server
                .command::<String>(&["CONFIG", "SET", "maxmemory", "1"])
                .await;
            sleep(Duration::from_millis(rng.u64(50..500))).await;
            server
                .command::<String>(&["CONFIG", "SET", "maxmemory", "0"])
                .await;
            "memory full"
        }
        _ => {
            server
                .command::<i64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
                .await;
            "connections killed"
        }
    }
}

async fn strike_sentinels(sentinels: &mut Sentinels, rng: &mut Rng) -> &'static str {
    match rng.u8(..6) {
        0 => {
            let old = sentinels.kill_master().await;
            sentinels.wait_for_new_master(old).await;
            sentinels.heal().await;
            "master killed"
        }
        1 => {
            let old = sentinels.pause_master().await;
            sentinels.wait_for_new_master(old).await;
            sentinels.heal().await;
            "master stopped and replaced"
        }
        2 => {
            sentinels.failover().await;
            "failover"
        }
        3 => {
            sentinels.pause_master().await;
            sleep(Duration::from_millis(rng.u64(50..400))).await;
            sentinels.resume();
            "master stopped"
        }
        4 => {
            sentinels.command::<String>(&["SCRIPT", "FLUSH"]).await;
            "scripts flushed"
        }
        _ => {
            sentinels
                .command::<i64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
                .await;
            "connections killed"
        }
    }
}

async fn strike_cluster(cluster: &mut Cluster, rng: &mut Rng) -> &'static str {
    let key = format!(
        "chat:{{u{}}}:{}:messages",
        rng.usize(..super::USERS),
        CHARACTERS[0]
    );
    let master = cluster.master_of(&key).await;
    match rng.u8(..6) {
        0 => {
            cluster.kill(master).await;
            cluster.wait_for_new_master(&key, master).await;
            cluster.heal().await;
            "master killed"
        }
        1 => {
            cluster.pause(master);
            sleep(Duration::from_millis(rng.u64(50..600))).await;
            cluster.resume();
            "master stopped"
        }
        2 => {
            let slot = cluster.slot(&key).await;
            let masters = cluster.masters().await;
            if let Some(to) = masters.into_iter().find(|port| *port != master) {
                cluster.begin_migration(slot, master, to).await;
                cluster.migrate_keys(slot, master, to).await;
                cluster.finish_migration(slot, master, to).await;
            }
            "slot moved"
        }
        3 => {
            cluster
                .node(master)
                .command::<String>(&["SCRIPT", "FLUSH"])
                .await;
            "scripts flushed"
        }
        _ => {
            let kill = ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];
            cluster.node(master).command::<i64>(&kill).await;
            "connections killed"
        }
    }
}
