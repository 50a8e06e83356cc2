//! The servers that faults strike.

use std::time::Duration;

use fastrand::Rng;
use serde_json::Value;
use testkit::redis::Server;
use tokio::time::sleep;

use super::checker::{Session, Stored};

/// A topology under fire.
pub(crate) enum Target {
    /// One server, which writes every command to disk before it answers: so a crash loses nothing that was acknowledged.
    Standalone(Server),
}

impl Target {
    pub(crate) async fn start(topology: &str) -> Self {
        match topology {
            "standalone" => {
                let durable = ["--appendonly", "yes", "--appendfsync", "always"];
                Self::Standalone(Server::start_with(&durable).await)
            }
            other => panic!("no such topology: {other}"),
        }
    }

    pub(crate) fn env(&self) -> Vec<(String, String)> {
        match self {
            Self::Standalone(server) => vec![("REDIS_URL".into(), server.url())],
        }
    }

    /// Strikes one fault and, where it does not pass by itself, ends it.
    pub(crate) async fn strike(&mut self, rng: &mut Rng) -> &'static str {
        match self {
            Self::Standalone(server) => match rng.u8(..7) {
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
                    server
                        .command::<String>(&[
                            "CLIENT",
                            "PAUSE",
                            &rng.u64(50..1_500).to_string(),
                            "WRITE",
                        ])
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
            },
        }
    }

    /// Ends whatever is still broken.
    pub(crate) async fn heal(&mut self) {
        match self {
            Self::Standalone(server) => {
                server.command::<String>(&["CLIENT", "UNPAUSE"]).await;
            }
        }
    }

    pub(crate) async fn stored(&self, session: &Session) -> Stored {
        let key = |user: &str, part: &str| format!("chat:{user}:{}:{part}", session.1);
        let (elements, message_count) = match self {
            Self::Standalone(server) => {
                let messages: Vec<String> = server
                    .command(&["LRANGE", &key(&session.0, "messages"), "0", "-1"])
                    .await;
                let count: Option<i64> = server
                    .command(&["HGET", &key(&session.0, "meta"), "message_count"])
                    .await;
                (messages, count)
            }
        };
        let parse = |element: &String| serde_json::from_str(element).unwrap_or(Value::Null);
        Stored {
            messages: elements.iter().rev().map(parse).collect(),
            message_count,
        }
    }
}
