//! A write uses its whole budget, and a read fails fast.

use std::time::{Duration, Instant};

use shared::memory::{Commit, Error};
use testkit::proxy::Proxy;
use testkit::redis::Server;
use tokio::time::sleep;

use crate::BUDGET;
use crate::subject::{SLACK, Subject};

/// How long the server is away.
const AWAY: Duration = Duration::from_millis(400);

#[tokio::test]
async fn a_commit_is_stored_after_a_restart_shorter_than_its_budget() {
    for away in [100, 400, 700].map(Duration::from_millis) {
        let mut server = Server::start().await;
        let subject = Subject::new(&[("REDIS_URL", &server.url())]);
        subject.say("before").await;
        let turn = subject.turn("during").await;
        server.kill().await;
        let started = Instant::now();
        let (committed, ()) = tokio::join!(subject.try_commit(&turn), async {
            sleep(away).await;
            server.restart().await;
        });
        println!(
            "server away for {} ms: committed after {} ms",
            away.as_millis(),
            started.elapsed().as_millis()
        );
        assert_eq!(committed.expect("stored within the budget"), Commit::Saved);
        assert_eq!(subject.contents().await, ["during", "re: during"]);
    }
}

#[tokio::test]
async fn while_the_breaker_is_open_a_commit_waits_for_the_next_probe_and_a_read_does_not() {
    let mut server = Server::start().await;
    // The cooldown is longer than the budget: it is the commit that makes the probes follow.
    let subject = Subject::new(&[
        ("REDIS_URL", &server.url()),
        ("REDIS_BREAKER_COOLDOWN_MS", "60000"),
    ]);
    subject.say("before").await;
    let turn = subject.turn("during").await;
    server.kill().await;
    assert!(subject.try_load().await.is_err(), "this opens the breaker");
    // The first probe is due at once, and fails.
    assert!(subject.try_load().await.is_err());
    let started = Instant::now();
    assert!(matches!(subject.try_load().await, Err(Error::BreakerOpen)));
    assert!(started.elapsed() < Duration::from_millis(50));

    let (committed, ()) = tokio::join!(subject.try_commit(&turn), async {
        sleep(AWAY).await;
        server.restart().await;
    });
    assert_eq!(committed.expect("stored within the budget"), Commit::Saved);
    assert_eq!(subject.contents().await, ["during", "re: during"]);
}

#[tokio::test]
async fn a_commit_gives_up_when_its_budget_ends() {
    let mut server = Server::start().await;
    let subject = Subject::new(&[("REDIS_URL", &server.url())]);
    subject.say("before").await;
    let turn = subject.turn("lost").await;
    server.kill().await;
    for _ in 0..2 {
        let started = Instant::now();
        assert!(subject.try_commit(&turn).await.is_err());
        let took = started.elapsed();
        assert!(BUDGET - Duration::from_millis(200) < took, "{took:?}");
        assert!(took < BUDGET + SLACK, "{took:?}");
    }
}

#[tokio::test]
async fn a_commit_on_a_dead_socket_is_stored_within_its_budget() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port()).await;
    let subject = Subject::new(&[("REDIS_URL", &proxy.url())]);
    let turn = subject.turn("said").await;
    // The connection was in use a moment ago, so nothing tells that it is dead.
    proxy.swallow_existing();
    assert_eq!(subject.commit(&turn).await, Commit::Saved);
    assert_eq!(subject.contents().await, ["said", "re: said"]);
}
