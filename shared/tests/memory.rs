//! The memory against a real Redis server.
#![expect(clippy::expect_used, reason = "a test")]

#[path = "memory/server.rs"]
mod server;
#[path = "memory/stored.rs"]
mod stored;
mod subject;

use std::time::{Duration, SystemTime};

use shared::memory::{Began, Commit};
use shared::session::State;
use shared::telemetry::Invocation;
use testkit::redis::Server;

use self::subject::{Subject, memory};

const MESSAGES: &str = "chat:alice:luna:messages";
const META: &str = "chat:alice:luna:meta";
const CLEARED: &str = "chat:alice:luna:cleared";

fn subject(server: &Server) -> Subject {
    Subject::new(&[("REDIS_URL", &server.url())])
}

fn keeping(server: &Server, max_messages: &str) -> Subject {
    Subject::new(&[
        ("REDIS_URL", &server.url()),
        ("MEMORY_MAX_MESSAGES", max_messages),
    ])
}

#[tokio::test]
async fn a_turn_reads_back_in_order() {
    let server = Server::start().await;
    let subject = subject(&server);
    assert_eq!(subject.contents().await, Vec::<String>::new());
    assert_eq!(subject.say("one").await, Commit::Saved);
    assert_eq!(subject.say("two").await, Commit::Saved);
    assert_eq!(
        subject.contents().await,
        ["one", "re: one", "two", "re: two"]
    );
    // The newest message is at the head of the list.
    let head: String = server.command(&["LINDEX", MESSAGES, "0"]).await;
    assert!(head.contains("re: two"), "{head}");
    assert_eq!(subject.load().await.stored, 4);
}

#[tokio::test]
async fn only_the_newest_messages_are_read() {
    let server = Server::start().await;
    let subject = subject(&server);
    for n in 0..3 {
        subject.say(&n.to_string()).await;
    }
    let history = subject
        .memory
        .load(
            &Invocation::detached(),
            &subject.user,
            &subject.character,
            2,
        )
        .await
        .expect("Redis is up");
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
    let subject = subject(&server);
    let turn = subject.turn("one").await;
    assert_eq!(subject.commit(&turn).await, Commit::Saved);
    // Other turns come in between, so the repeated commit does not find its own turn at the head.
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
    let subject = subject(&server);
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
    // The mark of the clear outlives the longest turn.
    let ttl: i64 = server.command(&["TTL", CLEARED]).await;
    assert!(ttl > 900, "{ttl}");
}

#[tokio::test]
async fn a_clear_wins_over_a_turn_that_began_while_redis_was_down() {
    let server = Server::start().await;
    let subject = subject(&server);
    let mut turn = subject.turn("began in an outage").await;
    turn.began = Began::on_local_clock(SystemTime::now());
    subject.clear().await;
    assert_eq!(subject.commit(&turn).await, Commit::Fenced);
}

/// Writes the mark of a clear that lies ahead of the server's clock by so many seconds.
async fn mark_ahead(server: &Server, seconds: i64) {
    let (now, _): (i64, i64) = server.command(&["TIME"]).await;
    let mark = format!("{}", (now + seconds) * 1_000_000);
    let _: () = server.command(&["SET", CLEARED, &mark, "EX", "3660"]).await;
}

#[tokio::test]
async fn a_mark_that_is_ahead_is_obeyed_within_the_difference_of_clocks_and_ignored_beyond() {
    let server = Server::start().await;
    let subject = subject(&server);
    for (seconds, commit) in [
        (3, Commit::Fenced),
        (8, Commit::Saved),
        (1_800, Commit::Saved),
        (100_000_000, Commit::Saved),
    ] {
        mark_ahead(&server, seconds).await;
        // A turn that has read the mark began after its clear, whatever the time says.
        assert_eq!(subject.say("hello").await, Commit::Saved);
        let mut turn = subject.turn("began in an outage").await;
        turn.began = Began::on_local_clock(SystemTime::now());
        assert_eq!(subject.commit(&turn).await, commit, "{seconds} s ahead");
    }
    let _: () = server.command(&["SET", CLEARED, "inf"]).await;
    assert_eq!(subject.say("hello").await, Commit::Saved);
}

#[tokio::test]
async fn a_clear_wins_over_turns_that_began_before_it_whatever_mark_it_finds() {
    let server = Server::start().await;
    let subject = subject(&server);
    for seconds in [-10, 3, 8, 1_800] {
        mark_ahead(&server, seconds).await;
        let before = subject.turn("began before").await;
        subject.clear().await;
        let outcome = subject.commit(&before).await;
        assert_eq!(outcome, Commit::Fenced, "{seconds} s ahead");
    }
}

#[tokio::test]
async fn a_turn_that_may_be_older_than_an_expired_mark_is_not_stored() {
    let server = Server::start().await;
    let subject = subject(&server);
    let mut turn = subject.turn("from long ago").await;
    turn.began = Began::on_local_clock(SystemTime::now() - Duration::from_secs(3_700));
    assert_eq!(subject.commit(&turn).await, Commit::Fenced);
}

#[tokio::test]
async fn a_session_keeps_its_figures_and_its_expiry() {
    let server = Server::start().await;
    let subject = subject(&server);
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
async fn setting_a_state_creates_no_session_and_extends_no_expiry() {
    let server = Server::start().await;
    let subject = subject(&server);
    let set = async |state| {
        subject
            .memory
            .set_state(
                &Invocation::detached(),
                &subject.user,
                &subject.character,
                state,
            )
            .await
            .expect("Redis is up")
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
