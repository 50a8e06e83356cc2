//! Sessions that the production code writes to a real Redis, and the memory that Redis reports for them.

use std::time::{Duration, Instant, SystemTime};

use futures_util::{StreamExt, stream};
use redis::aio::MultiplexedConnection;
use shared::config::{KeyLayout, MemoryConfig, RedisConfig, Section};
use shared::ids::{CharacterId, TurnId, UserId};
use shared::memory::{Began, Commit, Memory, NewTurn};
use shared::message::{Message, Role};
use shared::secrets::Secrets;
use shared::store::Store;
use shared::telemetry::Invocation;
use shared::tokens::estimate;
use testkit::redis::Server;

use crate::text::conversation;

/// The number of concurrent commits. Sessions grow next to each other, as in production, which affects the layout of
/// their memory.
const AT_ONCE: usize = 32;

/// The number of keys that one round trip asks about.
const KEYS_AT_ONCE: usize = 100;

/// The number of processes that connect to measure the memory of a connection.
const PROCESSES: u64 = 20;

/// How long the server may take to notice that connections were closed.
const PATIENCE: Duration = Duration::from_secs(20);

/// The contents of a session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) layout: KeyLayout,
}

/// Sessions in a Redis server that holds nothing else.
pub(crate) struct Sample {
    server: Server,
    shape: Shape,
    /// The number of sessions that were written.
    pub(crate) sessions: u64,
    /// `used_memory` in bytes, before and after the sessions were written.
    before: u64,
    after: u64,
}

/// The parts of a session in bytes, on average over a sample.
#[derive(Debug)]
pub(crate) struct Anatomy {
    /// The text of the messages.
    pub(crate) content: f64,
    /// The JSON around the text: field names, ids, timestamps, counts.
    pub(crate) envelope: f64,
    /// The list without its elements: key, nodes, lengths of elements, rounding by the allocator.
    pub(crate) list: f64,
    /// The ids of recent turns, by which a commit recognizes a turn that is already stored.
    pub(crate) recent_turns: f64,
    /// The hash without the ids of recent turns: key, field names, numbers, table.
    pub(crate) meta: f64,
    /// The list of the user's sessions, with one of them.
    pub(crate) index: f64,
    /// The share in the tables of all keys and all expiries, which `MEMORY USAGE` leaves out.
    pub(crate) tables: f64,
}

impl Sample {
    /// Starts a server and writes this many sessions.
    pub(crate) async fn write(sessions: u64, shape: Shape) -> Self {
        let server = Server::start().await;
        // Before the first measurement the script is loaded and every command was used once, because the server keeps
        // 25 kB of latencies for each command (INFO included).
        write_sessions(&server, 1, shape).await;
        used_memory_alone(&server).await;
        server.command::<()>(&["FLUSHALL", "SYNC"]).await;
        let before = used_memory_alone(&server).await;
        write_sessions(&server, sessions, shape).await;
        let after = used_memory_alone(&server).await;
        Self {
            server,
            shape,
            sessions,
            before,
            after,
        }
    }

    /// Returns the bytes of `used_memory` that a session takes.
    pub(crate) fn bytes_a_session(&self) -> f64 {
        self.after.saturating_sub(self.before) as f64 / self.sessions as f64
    }

    /// Returns the parts of a session, from the size of every key.
    pub(crate) async fn anatomy(&self) -> Anatomy {
        let mut connection = self.server.connection().await;
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg("*")
            .query_async(&mut connection)
            .await
            .expect("Redis answers");
        let mut sums = Sums::default();
        for keys in keys.chunks(KEYS_AT_ONCE) {
            sums.add(&mut connection, keys).await;
        }
        let messages = self.sessions * self.shape.messages;
        assert_eq!(sums.elements, messages, "every message is stored");
        let each = |bytes: u64| bytes as f64 / self.sessions as f64;
        Anatomy {
            content: each(sums.content),
            envelope: each(sums.json - sums.content),
            list: each(sums.lists - sums.json),
            recent_turns: each(sums.recent_turns),
            meta: each(sums.hashes - sums.recent_turns),
            index: each(sums.indexes),
            tables: self.bytes_a_session() - each(sums.lists + sums.hashes + sums.indexes),
        }
    }

    /// Returns the bytes that Redis uses for the connection of one process that has just read a session.
    pub(crate) async fn bytes_a_connection(&self) -> f64 {
        let before = info(&self.server, "used_memory").await;
        let (user, character) = ids(0);
        let mut connected = Vec::new();
        for _ in 0..PROCESSES {
            let memory = memory(&self.server, self.shape.layout);
            memory
                .load(&Invocation::detached(), &user, &character, 50)
                .await
                .expect("Redis is up");
            connected.push(memory);
        }
        let after = info(&self.server, "used_memory").await;
        after.saturating_sub(before) as f64 / PROCESSES as f64
    }

    /// Returns the version of the server.
    pub(crate) async fn version(&self) -> String {
        let text: String = self.server.command(&["INFO", "server"]).await;
        field(&text, "redis_version").unwrap_or("?").to_owned()
    }
}

fn memory(server: &Server, layout: KeyLayout) -> Memory {
    let lookup = |name: &str| match name {
        "REDIS_URL" => Some(server.url()),
        "REDIS_KEY_LAYOUT" => Some(
            match layout {
                KeyLayout::Plain => "plain",
                KeyLayout::Tagged => "tagged",
            }
            .to_owned(),
        ),
        // Time is not measured here, and a busy machine must not fail the measurement.
        "MEMORY_READ_TIMEOUT_MS" | "MEMORY_WRITE_TIMEOUT_MS" => Some("60000".to_owned()),
        _ => None,
    };
    let redis = RedisConfig::from_lookup(&lookup).expect("valid");
    let memory = MemoryConfig::from_lookup(&lookup).expect("valid");
    let store = Store::new(&redis, &memory, &Secrets::new()).expect("valid");
    Memory::new(store, redis.key_layout, &memory)
}

/// Returns a user id as identity providers make them, a UUID, and a character id.
fn ids(session: u64) -> (UserId, CharacterId) {
    let user = format!("5f0c9a52-7d1e-4b8a-9c63-{session:012x}");
    (
        UserId::parse(&user).expect("valid"),
        CharacterId::parse("luna").expect("valid"),
    )
}

async fn write_sessions(server: &Server, sessions: u64, shape: Shape) {
    let memory = memory(server, shape.layout);
    stream::iter(0..sessions)
        .map(|session| write_session(&memory, session, shape))
        .buffer_unordered(AT_ONCE)
        .collect::<()>()
        .await;
}

async fn write_session(memory: &Memory, session: u64, shape: Shape) {
    let (user, character) = ids(session);
    for (question, reply) in conversation(session, shape.messages, shape.bytes) {
        let now = SystemTime::now();
        let turn = NewTurn {
            greeting: None,
            id: TurnId::new(),
            began: Began::on_local_clock(now),
            replaces: None,
            user: message(Role::User, question, now),
            assistant: message(Role::Assistant, reply, now),
        };
        let commit = memory
            .commit_turn(&Invocation::detached(), &user, &character, &turn)
            .await;
        assert_eq!(commit.expect("Redis is up"), Commit::Saved);
    }
}

fn message(role: Role, content: String, now: SystemTime) -> Message {
    let seconds = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |age| age.as_secs());
    let tokens = estimate(&content);
    Message::new(role, content, seconds.cast_signed(), tokens.cast_signed())
}

/// Sums of bytes, by use.
#[derive(Default)]
struct Sums {
    lists: u64,
    json: u64,
    content: u64,
    elements: u64,
    hashes: u64,
    recent_turns: u64,
    indexes: u64,
}

impl Sums {
    async fn add(&mut self, connection: &mut MultiplexedConnection, keys: &[String]) {
        let mut questions = redis::pipe();
        for key in keys {
            questions.cmd("MEMORY").arg(&["USAGE", key, "SAMPLES", "0"]);
        }
        let usages: Vec<u64> = questions
            .query_async(connection)
            .await
            .expect("Redis answers");
        for (key, usage) in keys.iter().zip(usages) {
            if key.ends_with(":messages") {
                let elements: Vec<Vec<u8>> = redis::cmd("LRANGE")
                    .arg(&[key, "0", "-1"])
                    .query_async(connection)
                    .await
                    .expect("Redis answers");
                self.lists += usage;
                self.elements += elements.len() as u64;
                for json in elements {
                    let stored = Message::from_json(&json).expect("a message");
                    self.json += json.len() as u64;
                    self.content += stored.content.len() as u64;
                }
            } else if key.ends_with(":sessions") {
                self.indexes += usage;
            } else {
                let recent: u64 = redis::cmd("HSTRLEN")
                    .arg(&[key, "recent_turns"])
                    .query_async(connection)
                    .await
                    .expect("a session has a list and a hash, and a user a list of sessions");
                self.hashes += usage;
                self.recent_turns += recent;
            }
        }
    }
}

/// Returns `used_memory` once the only connection is the one that asks, which is new. Other connections have buffers,
/// whose changes would be counted as data.
async fn used_memory_alone(server: &Server) -> u64 {
    let begun = Instant::now();
    loop {
        let text: String = server.command(&["INFO"]).await;
        if number(&text, "connected_clients") == 1 {
            return number(&text, "used_memory");
        }
        assert!(begun.elapsed() < PATIENCE, "connections stay open");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn info(server: &Server, name: &str) -> u64 {
    let text: String = server.command(&["INFO", "memory"]).await;
    number(&text, name)
}

fn number(info: &str, name: &str) -> u64 {
    let value = field(info, name).and_then(|value| value.parse().ok());
    value.expect("Redis says it")
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}
