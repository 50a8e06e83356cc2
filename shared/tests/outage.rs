//! The memory while Redis is down, slow or back again: it works, is cut off, fails honestly, is restored, works.
#![expect(clippy::expect_used, reason = "a test")]

mod subject;

use std::time::{Duration, Instant};

use shared::memory::{Commit, Error};
use shared::telemetry::Invocation;
use testkit::redis::Server;

use self::subject::{SLACK, Subject};

const BUDGET: Duration = Duration::from_secs(1);

fn subject(server: &Server) -> Subject {
    Subject::new(&[
        ("REDIS_URL", &server.url()),
        ("REDIS_BREAKER_COOLDOWN_MS", "100"),
    ])
}

#[tokio::test]
async fn works_then_killed_then_fails_honestly_then_restarted_then_works() {
    let mut server = Server::start().await;
    let subject = subject(&server);
    subject.say("hello").await;
    assert_eq!(subject.load().await.messages.len(), 2);

    server.kill().await;
    let started = Instant::now();
    assert!(subject.try_load().await.is_err());
    assert!(started.elapsed() < BUDGET + SLACK);
    // The breaker is open now, so later operations do not wait.
    let started = Instant::now();
    assert!(subject.try_load().await.is_err());
    assert!(subject.try_say("hello").await.is_err());
    assert!(started.elapsed() < 2 * Duration::from_millis(50) + SLACK);

    server.restart().await;
    assert_eq!(subject.load_when_back().await.0, 0);
    subject.say("hello").await;
}

#[tokio::test]
async fn an_operation_that_has_failed_says_why_though_another_opens_the_breaker() {
    let mut server = Server::start().await;
    let subject = subject(&server);
    server.kill().await;
    let later = async {
        // Its last attempt comes after that of the other.
        tokio::time::sleep(Duration::from_millis(30)).await;
        subject.try_load().await
    };
    for outcome in <[_; 2]>::from(tokio::join!(subject.try_load(), later)) {
        assert_eq!(outcome.expect_err("nobody listens").reason(), "refused");
    }
    assert!(matches!(subject.try_load().await, Err(Error::BreakerOpen)));
}

#[tokio::test]
async fn a_connection_that_the_server_closed_costs_nothing() {
    let server = Server::start().await;
    let subject = subject(&server);
    subject.say("hello").await;
    for _ in 0..3 {
        server
            .command::<i64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
            .await;
        assert_eq!(subject.load().await.messages.len(), 2);
    }
    server
        .command::<i64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
        .await;
    subject
        .try_say("hello")
        .await
        .expect("written over a new connection");
}

#[tokio::test]
async fn a_stopped_server_costs_one_budget_and_then_nothing() {
    let server = Server::start().await;
    let subject = subject(&server);
    subject.say("hello").await;

    server.pause();
    let started = Instant::now();
    assert!(matches!(subject.try_load().await, Err(Error::Timeout)));
    let first = started.elapsed();
    assert!(first < BUDGET + SLACK, "{first:?}");
    let started = Instant::now();
    assert!(matches!(subject.try_load().await, Err(Error::BreakerOpen)));
    assert!(started.elapsed() < Duration::from_millis(50) + SLACK);

    server.resume();
    assert_eq!(subject.load_when_back().await.0, 2);
    // No abandoned operation took effect twice.
    subject.say("hello").await;
    assert_eq!(subject.load().await.messages.len(), 4);
}

#[tokio::test]
async fn an_abandoned_commit_does_not_take_effect_later() {
    let server = Server::start().await;
    let subject = subject(&server);
    subject.say("hello").await;
    let turn = subject.turn("late").await;
    // The stopped server still receives the command, and reads it only after the caller has given up.
    server.pause();
    assert!(subject.try_commit(&turn).await.is_err());
    server.resume();
    // An abandoned commit must not take effect later: it would be stored after later turns.
    assert_eq!(subject.load_when_back().await.0, 2);
    assert_eq!(subject.commit(&turn).await, Commit::Saved);
    assert_eq!(subject.load().await.messages.len(), 4);
}

#[tokio::test]
async fn an_abandoned_clear_does_not_take_effect_later() {
    let server = Server::start().await;
    let subject = subject(&server);
    subject.say("hello").await;
    server.pause();
    assert!(
        subject
            .memory
            .clear(&Invocation::detached(), &subject.user, &subject.character)
            .await
            .is_err()
    );
    server.resume();
    assert_eq!(subject.load_when_back().await.0, 2);
}

#[tokio::test]
async fn a_hundred_faults_leave_no_connection_behind() {
    let server = Server::start().await;
    let subject = subject(&server);
    for _ in 0..100 {
        server
            .command::<i64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
            .await;
        subject.load_when_back().await;
    }
    let clients: String = server.command(&["CLIENT", "LIST", "TYPE", "normal"]).await;
    // One of the connections runs CLIENT LIST itself.
    assert!(clients.lines().count() <= 3, "{clients}");
}

#[tokio::test]
async fn nothing_is_connected_before_it_is_needed() {
    let mut server = Server::start().await;
    server.kill().await;
    let subject = subject(&server);
    assert!(subject.try_load().await.is_err());
    server.restart().await;
    assert_eq!(subject.load_when_back().await.0, 0);
}

#[tokio::test]
async fn giving_up_does_not_wait_for_another_task_that_connects() {
    let server = Server::start().await;
    let subject = subject(&server);
    subject.say("hello").await;
    server.pause();
    let wait = async |after: u64| {
        tokio::time::sleep(Duration::from_millis(after)).await;
        let started = Instant::now();
        assert!(subject.try_load().await.is_err());
        started.elapsed()
    };
    // The first gives the connection up at 1.0 s and opens the breaker. The third then tries to connect until 2.1 s,
    // while the second gives up at 1.3 s.
    let (first, second, third) = tokio::join!(wait(0), wait(300), wait(1_100));
    for (which, waited) in [("first", first), ("second", second)] {
        assert!(waited < BUDGET + SLACK, "{which}: {waited:?}");
    }
    assert!(third < Duration::from_millis(50) + SLACK, "{third:?}");
    server.resume();
    assert_eq!(subject.load_when_back().await.0, 2);
}
