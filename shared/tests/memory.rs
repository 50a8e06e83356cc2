//! Memory against a real Redis.
#![expect(clippy::expect_used, reason = "a test")]

use std::time::{Duration, SystemTime};

use shared::config::{KeyLayout, MemoryConfig, RedisConfig, RedisMode};
use shared::ids::{CharacterId, TurnId, UserId};
use shared::memory::{Began, Commit, Memory, Turn};
use shared::message::{Message, Role};
use shared::session::State;
use testkit::redis::Server;

const MESSAGES: &str = "chat:alice:luna:messages";
const META: &str = "chat:alice:luna:meta";
const CLEARED: &str = "chat:alice:luna:cleared";

fn config() -> MemoryConfig {
    MemoryConfig {
        max_messages: 100,
        ttl_seconds: 86_400,
        read_timeout: Duration::from_secs(1),
        write_timeout: Duration::from_secs(1),
        breaker_failures: 1,
        breaker_cooldown: Duration::from_millis(500),
    }
}

fn redis_config(url: String) -> RedisConfig {
    RedisConfig {
        mode: RedisMode::Standalone,
        urls: vec![url.into()],
        sentinel_master: "mymaster".into(),
        username: None,
        password: None,
        sentinel_username: None,
        sentinel_password: None,
        tls_ca_file: None,
        wait_replicas: 0,
        key_layout: KeyLayout::Plain,
    }
}

/// One user's session with one character.
struct Subject {
    memory: Memory,
    user: UserId,
    character: CharacterId,
}

impl Subject {
    fn new(server: &Server) -> Self {
        Self::with(server, config())
    }

    fn with(server: &Server, config: MemoryConfig) -> Self {
        Self {
            memory: Memory::new(&redis_config(server.url()), &config).expect("valid settings"),
            user: UserId::parse("alice").expect("valid"),
            character: CharacterId::parse("luna").expect("valid"),
        }
    }

    async fn load(&self) -> shared::memory::History {
        self.memory
            .load(&self.user, &self.character, 50)
            .await
            .expect("memory is up")
    }

    /// Begins a turn as the chat does: by reading.
    async fn turn(&self, said: &str) -> Turn {
        let began = self.load().await.read_at;
        Turn {
            id: TurnId::new(),
            began,
            user: Message::new(Role::User, said.into(), 1, 2),
            assistant: Message::new(Role::Assistant, format!("re: {said}"), 2, 3),
        }
    }

    async fn commit(&self, turn: &Turn) -> Commit {
        self.memory
            .commit_turn(&self.user, &self.character, turn)
            .await
            .expect("memory is up")
    }

    async fn say(&self, said: &str) -> Commit {
        let turn = self.turn(said).await;
        self.commit(&turn).await
    }

    async fn contents(&self) -> Vec<String> {
        self.load()
            .await
            .messages
            .into_iter()
            .map(|message| message.content)
            .collect()
    }

    async fn session(&self) -> Option<shared::session::Session> {
        self.memory
            .session(&self.user, &self.character)
            .await
            .expect("memory is up")
    }

    async fn clear(&self) {
        self.memory
            .clear(&self.user, &self.character)
            .await
            .expect("memory is up");
    }
}

#[tokio::test]
async fn a_turn_reads_back_in_order() {
    let server = Server::start().await;
    let subject = Subject::new(&server);
    assert_eq!(subject.contents().await, Vec::<String>::new());
    assert_eq!(subject.say("one").await, Commit::Saved);
    assert_eq!(subject.say("two").await, Commit::Saved);
    assert_eq!(
        subject.contents().await,
        ["one", "re: one", "two", "re: two"]
    );
    // The newest is at the head of the list.
    let head: String = server.command(&["LINDEX", MESSAGES, "0"]).await;
    assert!(head.contains("re: two"), "{head}");
    assert_eq!(
        subject
            .memory
            .stored_messages(&subject.user, &subject.character)
            .await
            .expect("up"),
        4
    );
}

#[tokio::test]
async fn only_the_newest_messages_are_read() {
    let server = Server::start().await;
    let subject = Subject::new(&server);
    for n in 0..3 {
        subject.say(&n.to_string()).await;
    }
    let history = subject
        .memory
        .load(&subject.user, &subject.character, 2)
        .await
        .expect("up");
    let contents: Vec<_> = history
        .messages
        .iter()
        .map(|message| message.content.as_str())
        .collect();
    assert_eq!(contents, ["2", "re: 2"]);
}

#[tokio::test]
async fn a_commit_that_is_repeated_stores_and_counts_once() {
    let server = Server::start().await;
    let subject = Subject::new(&server);
    let turn = subject.turn("one").await;
    assert_eq!(subject.commit(&turn).await, Commit::Saved);
    // Others come in between, so the repetition does not meet its own turn at the head.
    for n in 0..60 {
        subject.say(&n.to_string()).await;
    }
    assert_eq!(subject.commit(&turn).await, Commit::Duplicate);
    let session = subject.session().await.expect("a session");
    assert_eq!((session.message_count, session.total_tokens), (122, 61 * 5));
    assert_eq!(session.stored_messages, 100);
}

#[tokio::test]
async fn a_clear_wins_over_turns_that_began_before_it() {
    let server = Server::start().await;
    let subject = Subject::new(&server);
    subject.say("old").await;
    let before = subject.turn("began before").await;
    subject.clear().await;
    assert_eq!(subject.commit(&before).await, Commit::Fenced);
    assert_eq!(
        server.command::<Vec<String>>(&["KEYS", "*"]).await,
        [CLEARED]
    );
    assert_eq!(subject.session().await, None);
    assert_eq!(subject.say("after").await, Commit::Saved);
    assert_eq!(subject.contents().await, ["after", "re: after"]);
    // The mark outlives the longest turn.
    let ttl: i64 = server.command(&["TTL", CLEARED]).await;
    assert!(ttl > 900, "{ttl}");
}

#[tokio::test]
async fn a_clear_wins_over_a_turn_whose_beginning_redis_did_not_see() {
    let server = Server::start().await;
    let subject = Subject::new(&server);
    let mut turn = subject.turn("began in an outage").await;
    turn.began = Began::by_local_clock(SystemTime::now());
    subject.clear().await;
    assert_eq!(subject.commit(&turn).await, Commit::Fenced);
}

#[tokio::test]
async fn a_turn_older_than_the_mark_of_a_clear_can_be_is_not_stored() {
    let server = Server::start().await;
    let subject = Subject::new(&server);
    let mut turn = subject.turn("from long ago").await;
    turn.began = Began::by_local_clock(SystemTime::now() - Duration::from_secs(3_700));
    assert_eq!(subject.commit(&turn).await, Commit::Fenced);
}

#[tokio::test]
async fn the_list_is_trimmed_to_whole_turns() {
    let server = Server::start().await;
    let subject = Subject::with(
        &server,
        MemoryConfig {
            max_messages: 5,
            ..config()
        },
    );
    for n in 0..4 {
        subject.say(&n.to_string()).await;
        let contents = subject.contents().await;
        assert!(contents.len() <= 5);
        assert!(
            contents
                .first()
                .is_some_and(|first| !first.starts_with("re:")),
            "{contents:?}"
        );
    }
    assert_eq!(subject.contents().await, ["2", "re: 2", "3", "re: 3"]);
    assert_eq!(subject.session().await.expect("a session").message_count, 8);
}

#[tokio::test]
async fn trimming_never_takes_what_was_just_stored() {
    let server = Server::start().await;
    let subject = Subject::with(
        &server,
        MemoryConfig {
            max_messages: 2,
            ..config()
        },
    );
    for n in 0..2 {
        server
            .command::<i64>(&["LPUSH", MESSAGES, &format!("not a message {n}")])
            .await;
    }
    assert_eq!(subject.say("one").await, Commit::Saved);
    assert_eq!(subject.contents().await, ["one", "re: one"]);
}

#[tokio::test]
async fn elements_that_cannot_be_read_are_counted_and_not_fatal() {
    let server = Server::start().await;
    let subject = Subject::new(&server);
    subject.say("one").await;
    for element in ["", "{", "[]", "{\"role\":\"user\"}", "\u{0}\u{1}"] {
        server.command::<i64>(&["LPUSH", MESSAGES, element]).await;
    }
    let history = subject.load().await;
    assert_eq!((history.messages.len(), history.skipped), (2, 5));
}

#[tokio::test]
async fn a_session_keeps_its_figures_and_its_expiry() {
    let server = Server::start().await;
    let subject = Subject::new(&server);
    assert_eq!(subject.session().await, None);
    subject.say("one").await;
    let first = subject.session().await.expect("a session");
    assert_eq!(first.state, State::Active);
    assert_eq!(
        (
            first.message_count,
            first.stored_messages,
            first.total_tokens
        ),
        (2, 2, 5)
    );
    assert_eq!(first.session_start, first.last_active_at);
    assert!(
        first
            .expires_in
            .is_some_and(|seconds| (86_390..=86_400).contains(&seconds))
    );

    // Both keys expire together, a day after the last turn.
    server.command::<i64>(&["EXPIRE", MESSAGES, "100"]).await;
    server.command::<i64>(&["EXPIRE", META, "100"]).await;
    server
        .command::<i64>(&["HSET", META, "session_start", "7"])
        .await;
    subject.say("two").await;
    let ttls: (i64, i64) = (
        server.command(&["TTL", MESSAGES]).await,
        server.command(&["TTL", META]).await,
    );
    assert!(ttls.0 > 86_390 && ttls.1 > 86_390, "{ttls:?}");
    assert_eq!(
        subject.session().await.expect("a session").session_start,
        Some(7)
    );
}

#[tokio::test]
async fn setting_a_state_creates_nothing_and_prolongs_nothing() {
    let server = Server::start().await;
    let subject = Subject::new(&server);
    let set = async |state| {
        subject
            .memory
            .set_state(&subject.user, &subject.character, state)
            .await
            .expect("up")
    };
    assert_eq!(set(State::Ended).await, None);
    assert_eq!(
        server.command::<Vec<String>>(&["KEYS", "*"]).await,
        Vec::<String>::new()
    );

    subject.say("one").await;
    server.command::<i64>(&["EXPIRE", META, "100"]).await;
    let session = set(State::Ended).await.expect("a session");
    assert_eq!(session.state, State::Ended);
    assert!(session.expires_in.is_some_and(|seconds| seconds <= 100));
    subject.say("two").await;
    assert_eq!(
        subject.session().await.expect("a session").state,
        State::Active
    );
}

#[tokio::test]
async fn one_message_can_be_appended() {
    let server = Server::start().await;
    let subject = Subject::new(&server);
    let greeting = Message::new(Role::Assistant, "hello".into(), 1, 1);
    let appended = subject
        .memory
        .append(&subject.user, &subject.character, &greeting)
        .await
        .expect("up");
    assert_eq!(appended, Commit::Saved);
    assert_eq!(subject.contents().await, ["hello"]);
    assert_eq!(subject.session().await.expect("a session").message_count, 1);
}

#[tokio::test]
async fn a_refused_commit_leaves_nothing_behind() {
    let server = Server::start().await;
    let subject = Subject::new(&server);

    // A key of the wrong type, each of the three in turn.
    for (key, others) in [
        (MESSAGES, [META, CLEARED]),
        (META, [MESSAGES, CLEARED]),
        (CLEARED, [MESSAGES, META]),
    ] {
        server.command::<String>(&["FLUSHALL"]).await;
        let turn = subject.turn("one").await;
        server.command::<i64>(&["ZADD", key, "1", "x"]).await;
        let refused = subject
            .memory
            .commit_turn(&subject.user, &subject.character, &turn)
            .await;
        assert!(refused.is_err(), "{key}");
        for other in others {
            assert_eq!(
                server.command::<i64>(&["EXISTS", other]).await,
                0,
                "{key} was wrong, {other} was written"
            );
        }
    }

    // A server that is full.
    server.command::<String>(&["FLUSHALL"]).await;
    let turn = subject.turn("one").await;
    server
        .command::<String>(&["CONFIG", "SET", "maxmemory", "1"])
        .await;
    assert!(
        subject
            .memory
            .commit_turn(&subject.user, &subject.character, &turn)
            .await
            .is_err()
    );
    server
        .command::<String>(&["CONFIG", "SET", "maxmemory", "0"])
        .await;
    assert_eq!(
        server.command::<Vec<String>>(&["KEYS", "*"]).await,
        Vec::<String>::new()
    );
    assert_eq!(subject.commit(&turn).await, Commit::Saved);
}

#[tokio::test]
async fn a_full_server_can_still_be_cleared() {
    let server = Server::start().await;
    let subject = Subject::new(&server);
    subject.say("one").await;
    server
        .command::<String>(&["CONFIG", "SET", "maxmemory", "1"])
        .await;
    subject.clear().await;
    assert_eq!(subject.contents().await, Vec::<String>::new());
}

#[tokio::test]
async fn figures_that_make_no_sense_are_begun_anew() {
    let server = Server::start().await;
    let subject = Subject::new(&server);
    server
        .command::<i64>(&[
            "HSET",
            META,
            "message_count",
            "many",
            "total_tokens",
            "",
            "recent_turns",
            "damaged",
            "state",
            "?",
        ])
        .await;
    assert_eq!(subject.say("one").await, Commit::Saved);
    let session = subject.session().await.expect("a session");
    assert_eq!(
        (session.message_count, session.total_tokens, session.state),
        (2, 5, State::Active)
    );
}

#[tokio::test]
async fn what_the_python_service_stored_is_read_and_continued() {
    let server = Server::start().await;
    let subject = Subject::new(&server);
    // Its commands, in its order: one LPUSH a message, then the figures, and no session_start.
    for message in [
        r#"{"msg_id":"0d0d7e5e-9d5f-4d25-8f5e-6f4f1b4e7a10","role":"user","content":"你好","timestamp":1732430000,"token_count":2,"metadata":null}"#,
        r#"{"msg_id":"4a4c1e0b-6c3e-4d3c-9d0a-0b9a4a1f2c33","role":"assistant","content":"你好呀！","timestamp":1732430002,"token_count":5,"metadata":null}"#,
    ] {
        server.command::<i64>(&["LPUSH", MESSAGES, message]).await;
    }
    server
        .command::<i64>(&[
            "HSET",
            META,
            "state",
            "ACTIVE",
            "last_active_at",
            "1732430002",
        ])
        .await;
    server
        .command::<i64>(&["HINCRBY", META, "message_count", "2"])
        .await;
    server
        .command::<i64>(&["HINCRBY", META, "total_tokens", "7"])
        .await;

    assert_eq!(subject.contents().await, ["你好", "你好呀！"]);
    let session = subject.session().await.expect("a session");
    assert_eq!((session.session_start, session.expires_in), (None, None));
    subject.say("three").await;
    assert_eq!(
        subject.contents().await,
        ["你好", "你好呀！", "three", "re: three"]
    );
    let session = subject.session().await.expect("a session");
    assert_eq!((session.message_count, session.total_tokens), (4, 12));
    assert!(session.session_start.is_some() && session.expires_in.is_some());
}

#[tokio::test]
async fn each_operation_is_one_round_trip() {
    let server = Server::start().await;
    let subject = Subject::new(&server);
    // The scripts and the connection are there after this.
    subject.say("warm").await;
    subject.session().await;
    subject.clear().await;
    let turn = subject.turn("one").await;
    let reads = async || -> u64 {
        let info: String = server.command(&["INFO", "stats"]).await;
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("total_reads_processed:"));
        line.expect("a figure").parse().expect("a number")
    };
    // Every packet that the server reads counts: this is what asking itself costs.
    let (before, after) = (reads().await, reads().await);
    let asking = after - before;
    let before = reads().await;
    subject.commit(&turn).await;
    subject.load().await;
    subject.session().await;
    subject.clear().await;
    assert_eq!(reads().await - before - asking, 4);
}

#[tokio::test]
async fn a_socket_a_database_and_a_login_by_url_or_by_settings() {
    let server = Server::start_with(&["--requirepass", "of-a-test"]).await;
    let login = redis_config(format!("redis://:of-a-test@127.0.0.1:{}/3", server.port()));
    let mut by_settings = redis_config(format!("redis://:wrong@127.0.0.1:{}/3", server.port()));
    by_settings.password = Some("of-a-test".to_owned().into());
    let mut by_socket = redis_config(server.unix_url().replace("db=0", "db=3"));
    by_socket.password = Some("of-a-test".to_owned().into());
    let user = UserId::parse("alice").expect("valid");
    let character = CharacterId::parse("luna").expect("valid");
    for (number, redis) in [login, by_settings, by_socket].iter().enumerate() {
        let memory = Memory::new(redis, &config()).expect("valid settings");
        let message = Message::new(Role::User, number.to_string(), 0, 0);
        memory
            .append(&user, &character, &message)
            .await
            .expect("up");
        assert_eq!(
            memory.stored_messages(&user, &character).await.expect("up"),
            number + 1
        );
    }
    let wrong = redis_config(format!("redis://:wrong@127.0.0.1:{}", server.port()));
    let memory = Memory::new(&wrong, &config()).expect("valid settings");
    assert!(memory.load(&user, &character, 50).await.is_err());
}
