//! Memory when Redis is down, slow or back again. Works, is cut off, fails honestly, is restored, works.
#![expect(clippy::expect_used, reason = "a test")]

use std::time::{Duration, Instant};

use shared::config::{KeyLayout, MemoryConfig, RedisConfig, RedisMode};
use shared::ids::{CharacterId, TurnId, UserId};
use shared::memory::{Commit, Error, Memory, Turn};
use shared::message::{Message, Role};
use testkit::redis::Server;

const BUDGET: Duration = Duration::from_secs(1);
/// What scheduling on a loaded machine may add to a time limit.
const SLACK: Duration = Duration::from_millis(400);

fn memory(server: &Server) -> Memory {
    let redis = RedisConfig {
        mode: RedisMode::Standalone,
        urls: vec![server.url().into()],
        sentinel_master: "mymaster".into(),
        username: None,
        password: None,
        sentinel_username: None,
        sentinel_password: None,
        tls_ca_file: None,
        wait_replicas: 0,
        key_layout: KeyLayout::Plain,
    };
    let memory = MemoryConfig {
        max_messages: 100,
        ttl_seconds: 86_400,
        read_timeout: BUDGET,
        write_timeout: BUDGET,
        breaker_failures: 1,
        breaker_cooldown: Duration::from_millis(100),
    };
    Memory::new(&redis, &memory).expect("valid settings")
}

fn ids() -> (UserId, CharacterId) {
    (
        UserId::parse("alice").expect("valid"),
        CharacterId::parse("luna").expect("valid"),
    )
}

async fn load(memory: &Memory) -> Result<usize, Error> {
    let (user, character) = ids();
    memory
        .load(&user, &character, 50)
        .await
        .map(|history| history.messages.len())
}

/// Asks until the breaker's probe has found Redis again.
async fn load_when_back(memory: &Memory) -> usize {
    let started = Instant::now();
    loop {
        if let Ok(count) = load(memory).await {
            return count;
        }
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "memory does not come back"
        );
        tokio::task::yield_now().await;
    }
}

async fn say(memory: &Memory) -> Result<(), Error> {
    let (user, character) = ids();
    let began = memory.load(&user, &character, 50).await?.read_at;
    let turn = Turn {
        id: TurnId::new(),
        began,
        user: Message::new(Role::User, "hello".into(), 0, 1),
        assistant: Message::new(Role::Assistant, "hi".into(), 0, 1),
    };
    memory
        .commit_turn(&user, &character, &turn)
        .await
        .map(|_| ())
}

#[tokio::test]
async fn works_then_killed_then_fails_honestly_then_restarted_then_works() {
    let mut server = Server::start().await;
    let memory = memory(&server);
    say(&memory).await.expect("up");
    assert_eq!(load(&memory).await.expect("up"), 2);

    server.kill().await;
    let started = Instant::now();
    assert!(load(&memory).await.is_err());
    assert!(started.elapsed() < BUDGET + SLACK);
    // From now on nobody waits: the breaker is open.
    let started = Instant::now();
    assert!(load(&memory).await.is_err());
    assert!(say(&memory).await.is_err());
    assert!(started.elapsed() < 2 * Duration::from_millis(50) + SLACK);

    server.restart().await;
    assert_eq!(load_when_back(&memory).await, 0);
    say(&memory).await.expect("up again");
}

#[tokio::test]
async fn a_connection_that_the_server_closed_costs_nothing() {
    let server = Server::start().await;
    let memory = memory(&server);
    say(&memory).await.expect("up");
    for _ in 0..3 {
        server
            .command::<i64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
            .await;
        assert_eq!(load(&memory).await.expect("read over a new connection"), 2);
    }
    server
        .command::<i64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
        .await;
    say(&memory).await.expect("written over a new connection");
}

#[tokio::test]
async fn a_server_that_stands_still_costs_one_budget_and_then_nothing() {
    let server = Server::start().await;
    let memory = memory(&server);
    say(&memory).await.expect("up");

    server.pause();
    let started = Instant::now();
    assert!(matches!(load(&memory).await, Err(Error::Timeout)));
    let first = started.elapsed();
    assert!(first < BUDGET + SLACK, "{first:?}");
    let started = Instant::now();
    assert!(matches!(load(&memory).await, Err(Error::BreakerOpen)));
    assert!(started.elapsed() < Duration::from_millis(50) + SLACK);

    server.resume();
    assert_eq!(load_when_back(&memory).await, 2);
    // Nothing that was given up came back doubled, and no connection is left over.
    say(&memory).await.expect("up again");
    assert_eq!(load(&memory).await.expect("up"), 4);
}

#[tokio::test]
async fn a_commit_that_was_given_up_is_not_done_later() {
    let server = Server::start().await;
    let memory = memory(&server);
    say(&memory).await.expect("up");
    let (user, character) = ids();
    let began = memory
        .load(&user, &character, 50)
        .await
        .expect("up")
        .read_at;
    let turn = Turn {
        id: TurnId::new(),
        began,
        user: Message::new(Role::User, "late".into(), 0, 1),
        assistant: Message::new(Role::Assistant, "later".into(), 0, 1),
    };
    // The server takes the command, and finds it when nobody waits for it any longer.
    server.pause();
    assert!(memory.commit_turn(&user, &character, &turn).await.is_err());
    server.resume();
    // What was given up is not done afterwards: it would stand behind later turns.
    assert_eq!(load_when_back(&memory).await, 2);
    let again = memory
        .commit_turn(&user, &character, &turn)
        .await
        .expect("up again");
    assert_eq!(again, Commit::Saved);
    assert_eq!(load(&memory).await.expect("up"), 4);
}

#[tokio::test]
async fn a_clear_that_was_given_up_takes_nothing_with_it_later() {
    let server = Server::start().await;
    let memory = memory(&server);
    let (user, character) = ids();
    say(&memory).await.expect("up");
    server.pause();
    assert!(memory.clear(&user, &character).await.is_err());
    server.resume();
    assert_eq!(load_when_back(&memory).await, 2);
}

#[tokio::test]
async fn a_hundred_faults_leave_no_connection_behind() {
    let server = Server::start().await;
    let memory = memory(&server);
    for _ in 0..100 {
        server
            .command::<i64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
            .await;
        load_when_back(&memory).await;
    }
    let clients: String = server.command(&["CLIENT", "LIST", "TYPE", "normal"]).await;
    // One of them asks.
    assert!(clients.lines().count() <= 3, "{clients}");
}

#[tokio::test]
async fn nothing_is_connected_before_it_is_needed() {
    let mut server = Server::start().await;
    server.kill().await;
    let memory = memory(&server);
    assert!(load(&memory).await.is_err());
    server.restart().await;
    assert_eq!(load_when_back(&memory).await, 0);
}
