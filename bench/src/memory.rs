//! Load and commit, compared with the bare commands sent by the same client, for sessions of several sizes.

use std::time::Instant;

use redis::aio::MultiplexedConnection;
use shared::config::{MemoryConfig, RedisConfig, Section};
use shared::ids::{CharacterId, TurnId, UserId};
use shared::memory::{Commit, History, Memory, NewTurn};
use shared::message::{Message, Role};
use shared::secrets::Secrets;
use shared::store::Store;
use shared::telemetry::Invocation;
use testkit::redis::Server;

use super::Effort;
use super::report::{Report, Series, heading};

const BARE: &str = "chat:bare:luna";

/// This project's memory and a bare connection to the same server.
pub(crate) struct Subject {
    pub(crate) memory: Memory,
    pub(crate) bare: MultiplexedConnection,
    pub(crate) user: UserId,
    character: CharacterId,
}

/// The times of the four operations that are compared.
#[derive(Default)]
pub(crate) struct Times {
    pub(crate) load: Series,
    pub(crate) commit: Series,
    lrange: Series,
    transaction: Series,
}

impl Subject {
    pub(crate) async fn new(url: &str) -> Self {
        let lookup = |name: &str| (name == "REDIS_URL").then(|| url.to_owned());
        let redis = RedisConfig::from_lookup(&lookup).expect("valid");
        let memory = MemoryConfig::from_lookup(&lookup).expect("valid");
        let store = Store::new(&redis, &memory, &Secrets::new()).expect("valid");
        let client = redis::Client::open(url).expect("valid");
        let settings = redis::AsyncConnectionConfig::new();
        Self {
            memory: Memory::new(store, redis.key_layout, &memory),
            bare: client
                .get_multiplexed_async_connection_with_config(&settings)
                .await
                .expect("Redis answers"),
            user: UserId::parse("measured").expect("valid"),
            character: CharacterId::parse("luna").expect("valid"),
        }
    }

    /// Makes two sessions of this many messages: one with this project's commits, one with the bare commands.
    async fn restore(&mut self, messages: usize) {
        self.memory
            .clear(&Invocation::detached(), &self.user, &self.character)
            .await
            .expect("Redis is up");
        let delete = [format!("{BARE}:messages"), format!("{BARE}:meta")];
        let _: i64 = redis::cmd("DEL")
            .arg(&delete)
            .query_async(&mut self.bare)
            .await
            .expect("answers");
        for _ in 0..messages / 2 {
            self.commit(&mut Times::default()).await;
        }
    }

    /// Loads and stores a turn once each way.
    async fn round(&mut self, times: &mut Times, messages: usize) {
        let asked = Instant::now();
        let elements: Vec<Vec<u8>> = redis::cmd("LRANGE")
            .arg(&[&format!("{BARE}:messages"), "0", "49"])
            .query_async(&mut self.bare)
            .await
            .expect("answers");
        times.lrange.push_time(asked.elapsed());
        assert_eq!(elements.len(), messages.min(50));

        let asked = Instant::now();
        let history = self
            .memory
            .load(&Invocation::detached(), &self.user, &self.character, 50)
            .await
            .expect("Redis is up");
        times.load.push_time(asked.elapsed());
        assert_eq!(history.messages.len(), messages.min(50));
        self.commit(times).await;
    }

    async fn commit(&mut self, times: &mut Times) {
        let history = self
            .memory
            .load(&Invocation::detached(), &self.user, &self.character, 0)
            .await
            .expect("Redis is up");
        let turn = turn(&history);
        // What the Python service sends: one transaction of a push for each message, trim, expiry and figures.
        let (messages, meta) = (format!("{BARE}:messages"), format!("{BARE}:meta"));
        let mut transaction = redis::pipe();
        transaction.atomic();
        for message in [&turn.user, &turn.assistant] {
            transaction
                .cmd("LPUSH")
                .arg(&messages)
                .arg(message.to_json());
        }
        transaction.cmd("LTRIM").arg(&[&messages, "0", "99"]);
        transaction.cmd("EXPIRE").arg(&[&messages, "86400"]);
        transaction
            .cmd("HSET")
            .arg(&[&meta, "state", "ACTIVE", "last_active_at", "1732430000"]);
        transaction
            .cmd("HINCRBY")
            .arg(&[&meta, "message_count", "2"]);
        transaction
            .cmd("HINCRBY")
            .arg(&[&meta, "total_tokens", "28"]);
        transaction.cmd("EXPIRE").arg(&[&meta, "86400"]);
        let asked = Instant::now();
        let _: redis::Value = transaction
            .query_async(&mut self.bare)
            .await
            .expect("answers");
        times.transaction.push_time(asked.elapsed());

        let asked = Instant::now();
        let commit = self
            .memory
            .commit_turn(&Invocation::detached(), &self.user, &self.character, &turn)
            .await
            .expect("Redis is up");
        times.commit.push_time(asked.elapsed());
        assert_eq!(commit, Commit::Saved);
    }

    /// Measures rounds on sessions of this many messages.
    pub(crate) async fn measure(&mut self, rounds: usize, messages: usize) -> Times {
        let mut times = Times::default();
        for _ in 0..rounds {
            self.restore(messages).await;
            self.round(&mut times, messages).await;
        }
        times
    }
}

/// Returns a turn of ordinary length that began when the history was read.
pub(crate) fn turn(history: &History) -> NewTurn {
    NewTurn {
        greeting: None,
        id: TurnId::new(),
        began: history.read_at,
        replaces: None,
        user: Message::new(Role::User, "今天过得怎么样？".into(), 1_732_430_000, 8),
        assistant: Message::new(
            Role::Assistant,
            "还不错，刚刚在海边散步，风很轻。你呢？".into(),
            1_732_430_002,
            20,
        ),
    }
}

/// Measures load and commit for sessions of several sizes.
pub(crate) async fn operations(report: &mut Report, effort: Effort) {
    const GROUP: &str = "memory";
    let server = Server::start().await;
    let mut subject = Subject::new(&server.url()).await;
    for messages in [0, 10, 50, 100] {
        heading(&format!(
            "Memory operations against the bare commands, {messages} messages stored"
        ));
        let times = subject.measure(effort.turns, messages).await;
        let figure = |name: &str| format!("{name}, {messages} messages stored");
        report.measured(GROUP, &figure("load"), "µs", &times.load);
        report.measured(GROUP, &figure("a bare LRANGE"), "µs", &times.lrange);
        let ratio = times.load.median() / times.lrange.median();
        report.single(GROUP, &figure("load / LRANGE"), "x", ratio);
        report.measured(GROUP, &figure("commit of a turn"), "µs", &times.commit);
        let name = figure("the Python service's transaction");
        report.measured(GROUP, &name, "µs", &times.transaction);
        let ratio = times.commit.median() / times.transaction.median();
        report.single(GROUP, &figure("commit / transaction"), "x", ratio);
    }
}
