//! One session of a user with a character, for tests of the memory against real servers.
#![allow(dead_code, reason = "each test binary uses only a part")]

use std::time::{Duration, Instant};

use shared::config::{MemoryConfig, RedisConfig, Section};
use shared::ids::{CharacterId, TurnId, UserId};
use shared::memory::{Commit, Error, History, Memory, NewTurn};
use shared::message::{Message, Role};
use shared::secrets::Secrets;
use shared::session::{Session, State};
use shared::store::Store;
use shared::telemetry::Invocation;

/// Time that scheduling on a loaded machine may add to a limit.
pub(crate) const SLACK: Duration = Duration::from_millis(400);

/// Returns a memory built from these variables, as a function builds it from its environment.
pub(crate) fn memory(settings: &[(&str, &str)]) -> Memory {
    let lookup = |name: &str| {
        settings
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| (*value).to_owned())
    };
    let redis = RedisConfig::from_lookup(&lookup).expect("valid settings");
    let memory = MemoryConfig::from_lookup(&lookup).expect("valid settings");
    let store = Store::new(&redis, &memory, &Secrets::new()).expect("valid settings");
    Memory::new(store, redis.key_layout, &memory)
}

/// Returns a client for the servers of a topology.
pub(crate) fn store(env: &[(String, String)]) -> Store {
    let lookup = |name: &str| {
        env.iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    };
    let redis = RedisConfig::from_lookup(&lookup).expect("valid settings");
    let memory = MemoryConfig::from_lookup(&lookup).expect("valid settings");
    Store::new(&redis, &memory, &Secrets::new()).expect("valid settings")
}

/// Returns a memory for the servers of a topology. Its breakers probe every 100 ms.
pub(crate) fn probing_often(env: &[(String, String)]) -> Memory {
    let mut settings: Vec<(&str, &str)> = env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    settings.push(("REDIS_BREAKER_COOLDOWN_MS", "100"));
    memory(&settings)
}

pub(crate) struct Subject {
    pub(crate) memory: Memory,
    pub(crate) user: UserId,
    pub(crate) character: CharacterId,
}

impl Subject {
    pub(crate) fn new(settings: &[(&str, &str)]) -> Self {
        Self::of("alice", memory(settings))
    }

    pub(crate) fn of(user: &str, memory: Memory) -> Self {
        Self {
            memory,
            user: UserId::parse(user).expect("valid"),
            character: CharacterId::parse("luna").expect("valid"),
        }
    }

    pub(crate) async fn try_load(&self) -> Result<History, Error> {
        self.memory
            .load(&Invocation::detached(), &self.user, &self.character, 50)
            .await
    }

    pub(crate) async fn load(&self) -> History {
        self.try_load().await.expect("memory is up")
    }

    /// Loads until the breaker's probe has found Redis again. Returns the number of messages, and how long that took.
    pub(crate) async fn load_when_back(&self) -> (usize, Duration) {
        let started = Instant::now();
        loop {
            if let Ok(history) = self.try_load().await {
                return (history.messages.len(), started.elapsed());
            }
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "the memory does not come back"
            );
            tokio::task::yield_now().await;
        }
    }

    /// Begins a turn as the chat does, by loading the history.
    pub(crate) async fn turn(&self, said: &str) -> NewTurn {
        turn(self.load().await, said)
    }

    pub(crate) async fn try_commit(&self, turn: &NewTurn) -> Result<Commit, Error> {
        self.memory
            .commit_turn(&Invocation::detached(), &self.user, &self.character, turn)
            .await
    }

    pub(crate) async fn commit(&self, turn: &NewTurn) -> Commit {
        self.try_commit(turn).await.expect("memory is up")
    }

    pub(crate) async fn try_say(&self, said: &str) -> Result<Commit, Error> {
        let history = self.try_load().await?;
        self.try_commit(&turn(history, said)).await
    }

    pub(crate) async fn say(&self, said: &str) -> Commit {
        self.try_say(said).await.expect("memory is up")
    }

    pub(crate) async fn contents(&self) -> Vec<String> {
        self.load()
            .await
            .messages
            .into_iter()
            .map(|message| message.content)
            .collect()
    }

    pub(crate) async fn session(&self) -> Option<Session> {
        self.memory
            .session(&Invocation::detached(), &self.user, &self.character)
            .await
            .expect("memory is up")
    }

    pub(crate) async fn set_state(&self, state: State) -> Result<Option<Session>, Error> {
        self.memory
            .set_state(&Invocation::detached(), &self.user, &self.character, state)
            .await
    }

    pub(crate) async fn clear(&self) {
        self.memory
            .clear(&Invocation::detached(), &self.user, &self.character)
            .await
            .expect("memory is up");
    }
}

fn turn(history: History, said: &str) -> NewTurn {
    NewTurn {
        greeting: None,
        id: TurnId::new(),
        began: history.read_at,
        replaces: None,
        user: Message::new(Role::User, said.into(), 1, 2),
        assistant: Message::new(Role::Assistant, format!("re: {said}"), 2, 3),
    }
}
