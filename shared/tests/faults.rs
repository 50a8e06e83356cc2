//! The memory under each fault of a single server: the promises hold, and it recovers by itself.
//!
//! `cargo test -p shared --test faults -- --nocapture` prints the recovery times.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that prints its measurements"
)]

mod subject;

use std::time::{Duration, Instant};

use shared::memory::{Commit, Error};
use testkit::redis::Server;

use self::subject::{SLACK, Subject};

const BUDGET: Duration = Duration::from_secs(1);
/// Time that a turn waits for the breaker's probe while Redis is known to be down.
const KNOWN_DOWN: Duration = Duration::from_millis(50);

fn subject(url: &str) -> Subject {
    Subject::new(&[("REDIS_URL", url), ("REDIS_BREAKER_COOLDOWN_MS", "100")])
}

/// While Redis is down, the first turn waits within its budget, and later turns do not wait. Returns the first error.
async fn waits_once(subject: &Subject) -> Error {
    let started = Instant::now();
    let error = subject.try_load().await.expect_err("it is down");
    assert!(
        started.elapsed() < BUDGET + SLACK,
        "{:?}",
        started.elapsed()
    );
    for _ in 0..3 {
        let started = Instant::now();
        assert!(subject.try_load().await.is_err());
        assert!(
            started.elapsed() < KNOWN_DOWN + SLACK,
            "{:?}",
            started.elapsed()
        );
    }
    error
}

/// Once the fault is gone, the memory recovers by itself. Prints how long that took.
async fn recovers(subject: &Subject, fault: &str, messages: usize) {
    let (found, after) = subject.load_when_back().await;
    assert_eq!(found, messages, "{fault}");
    println!("{fault}: memory was back after {} ms", after.as_millis());
    assert_eq!(subject.say("after").await, Commit::Saved);
}

/// Returns the number of the server's client connections, without the one that runs this command.
async fn connections(server: &Server) -> usize {
    let clients: String = server.command(&["CLIENT", "LIST", "TYPE", "normal"]).await;
    clients
        .lines()
        .filter(|line| !line.contains("cmd=client"))
        .count()
}

#[tokio::test]
async fn a_read_only_server_is_left_for_a_new_connection() {
    let server = Server::start().await;
    let subject = subject(&server.url());
    subject.say("before").await;
    // The server becomes a replica of an unreachable master: it refuses writes, and its reads are stale at best.
    server
        .command::<String>(&["REPLICAOF", "127.0.0.1", "1"])
        .await;
    let turn = subject.turn("during").await;
    assert!(subject.try_commit(&turn).await.is_err());
    server.command::<String>(&["REPLICAOF", "NO", "ONE"]).await;
    recovers(&subject, "READONLY", 2).await;
}

#[tokio::test]
async fn a_server_that_is_loading_is_waited_for_once() {
    let mut server = Server::start_with(&[
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--loading-process-events-interval-bytes",
        "1024",
    ])
    .await;
    let subject = subject(&server.url());
    subject.say("before").await;
    for n in 0..2_000 {
        server
            .command::<String>(&["SET", &format!("filler:{n}"), "x"])
            .await;
    }
    server
        .command::<String>(&["CONFIG", "SET", "aof-use-rdb-preamble", "no"])
        .await;
    server.restart_loading(&["--key-load-delay", "1000"]).await;
    let error = waits_once(&subject).await;
    assert_ne!(error.reason(), "breaker_open");
    recovers(&subject, "LOADING", 2).await;
}

#[tokio::test]
async fn clients_paused_for_longer_than_the_budget() {
    let server = Server::start().await;
    let subject = subject(&server.url());
    subject.say("before").await;
    server
        .command::<String>(&["CLIENT", "PAUSE", "2500", "ALL"])
        .await;
    assert!(matches!(waits_once(&subject).await, Error::Timeout));
    recovers(&subject, "CLIENT PAUSE", 2).await;
    assert!(connections(&server).await <= 2);
}

#[tokio::test]
async fn a_server_without_free_connections_is_waited_for_once() {
    let server = Server::start().await;
    let subject = subject(&server.url());
    subject.say("before").await;
    // The server's connection limit is reached, and the subject's connection is closed.
    let mut admin = server.connection().await;
    let mut command = async |parts: &[&str]| {
        let mut command = redis::Cmd::new();
        command.arg(parts);
        command
            .query_async::<redis::Value>(&mut admin)
            .await
            .expect("the command succeeds")
    };
    command(&["CONFIG", "SET", "maxclients", "1"]).await;
    command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    waits_once(&subject).await;
    command(&["CONFIG", "SET", "maxclients", "1000"]).await;
    recovers(&subject, "maxclients", 2).await;
}

#[tokio::test]
async fn the_password_is_changed_and_changed_back() {
    let server = Server::start().await;
    let subject = subject(&server.url());
    subject.say("before").await;
    let mut admin = server.connection().await;
    let mut command = async |parts: &[&str]| {
        let mut command = redis::Cmd::new();
        command.arg(parts);
        command
            .query_async::<redis::Value>(&mut admin)
            .await
            .expect("the command succeeds")
    };
    command(&["CONFIG", "SET", "requirepass", "another"]).await;
    command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    waits_once(&subject).await;
    command(&["CONFIG", "SET", "requirepass", ""]).await;
    recovers(&subject, "password", 2).await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve() {
    let subject = subject("redis://no-such-host.invalid:6379/0");
    waits_once(&subject).await;
}

#[tokio::test]
async fn flushed_scripts_are_not_noticed() {
    let server = Server::start().await;
    let subject = subject(&server.url());
    for _ in 0..3 {
        subject.say("hello").await;
        server.command::<String>(&["SCRIPT", "FLUSH"]).await;
    }
    assert_eq!(subject.load().await.messages.len(), 6);
}

#[tokio::test]
async fn a_key_of_the_wrong_type_is_the_problem_of_its_session_only() {
    let server = Server::start().await;
    let alice = subject(&server.url());
    let bob = Subject::of("bob", alice.memory.clone());
    server
        .command::<String>(&["SET", "chat:alice:luna:messages", "not a list"])
        .await;
    assert!(matches!(alice.try_load().await, Err(Error::Redis(_))));
    assert!(
        matches!(alice.try_load().await, Err(Error::Redis(_))),
        "the breaker stays closed"
    );
    assert_eq!(bob.say("hello").await, Commit::Saved);
    // A clear repairs the session.
    alice.clear().await;
    assert_eq!(alice.say("hello").await, Commit::Saved);
}

#[tokio::test]
async fn an_idle_connection_that_the_server_closes_costs_nothing() {
    let server = Server::start_with(&["--timeout", "1"]).await;
    let subject = subject(&server.url());
    subject.say("before").await;
    let open = Instant::now();
    while connections(&server).await > 0 {
        assert!(
            open.elapsed() < Duration::from_secs(10),
            "the server closes idle connections after a second"
        );
        tokio::task::yield_now().await;
    }
    let started = Instant::now();
    assert_eq!(subject.load().await.messages.len(), 2);
    println!(
        "idle connection closed: memory was read after {} ms",
        started.elapsed().as_millis()
    );
}

#[tokio::test]
async fn a_full_server_can_be_read_and_reports_that_it_did_not_save() {
    let server = Server::start().await;
    let subject = subject(&server.url());
    subject.say("before").await;
    server
        .command::<String>(&["CONFIG", "SET", "maxmemory", "1"])
        .await;
    for _ in 0..3 {
        let turn = subject.turn("during").await;
        assert!(subject.try_commit(&turn).await.is_err());
    }
    server
        .command::<String>(&["CONFIG", "SET", "maxmemory", "0"])
        .await;
    recovers(&subject, "OOM", 2).await;
}

#[tokio::test]
async fn the_recommended_settings_work_together() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../redis.conf");
    let server = Server::start_with(&["--include", file]).await;
    let setting = async |name: &str| {
        server
            .command::<Vec<String>>(&["CONFIG", "GET", name])
            .await
            .pop()
    };
    assert_eq!(
        setting("maxmemory-policy").await.as_deref(),
        Some("volatile-lru")
    );
    assert_eq!(setting("timeout").await.as_deref(), Some("300"));
    assert_eq!(setting("appendonly").await.as_deref(), Some("yes"));
    assert_eq!(
        setting("cluster-require-full-coverage").await.as_deref(),
        Some("no")
    );
    let subject = subject(&server.url());
    subject.say("hello").await;

    // A full server evicts sessions instead of refusing writes, and keeps characters.
    server
        .command::<String>(&["SET", "character:rin", "{}"])
        .await;
    let used: String = server.command(&["INFO", "memory"]).await;
    let used: u64 = used
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"))
        .expect("INFO has the line")
        .parse()
        .expect("a number");
    server
        .command::<String>(&["CONFIG", "SET", "maxmemory", &(used + 500_000).to_string()])
        .await;
    for user in 0..300 {
        let other = Subject::of(&format!("user{user}"), subject.memory.clone());
        let mut turn = other.turn("hello").await;
        turn.assistant.content = "x".repeat(4_000);
        assert_eq!(other.commit(&turn).await, Commit::Saved);
    }
    assert_eq!(server.command::<i64>(&["EXISTS", "character:rin"]).await, 1);
}
