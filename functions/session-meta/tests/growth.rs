//! A process that lives through many faults grows neither in memory nor in connections.
#![expect(clippy::expect_used, reason = "a test")]

use testkit::events;
use testkit::redis::Server;
use testkit::runtime::Function;
use testkit::tokens::{secret, token};

/// Resident memory of a process, in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("a figure");
    line.trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number")
}

#[tokio::test]
async fn a_thousand_faults_leave_nothing_behind() {
    let redis = Server::start().await;
    let session = Function::builder("session-meta")
        .env("REDIS_URL", redis.url())
        .env("JWT_SECRET", secret())
        .env("LOG_LEVEL", "error")
        .start()
        .await;
    let event = events::session(&token("alice"), "luna");
    let mut admin = redis.connection().await;
    let mut settled = 0;
    for fault in 0..1_000 {
        let mut kill = redis::cmd("CLIENT");
        kill.arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]);
        kill.query_async::<i64>(&mut admin)
            .await
            .expect("the command succeeds");
        // It has no session, and it finds that out over a new connection.
        assert_eq!(session.invoke(&event).await.status, 404);
        if fault == 200 {
            settled = resident(session.pid());
        }
    }
    let grown = resident(session.pid()).saturating_sub(settled);
    assert!(grown < 1_024, "{grown} KiB more after 800 further faults");
    let connections = session.connections();
    assert_eq!(
        connections
            .iter()
            .filter(|(_, port, _)| *port == redis.port())
            .count(),
        1,
        "{connections:?}"
    );
}
