//! Writes that wait for replicas hold up nobody else, and the reply of the script comes first.

use std::time::{Duration, Instant};

use shared::memory::{Commit, Error, Memory};
use testkit::redis::Server;
use tokio::time::sleep;

use crate::Times;
use crate::subject::{Subject, memory};

/// Otherwise a master waits for more replicas before it sends its data.
const WITHOUT_DELAY: [&str; 2] = ["--repl-diskless-sync", "no"];

async fn pair() -> (Server, Server, Memory) {
    let master = Server::start_with(&WITHOUT_DELAY).await;
    let replica =
        Server::start_with(&["--replicaof", "127.0.0.1", &master.port().to_string()]).await;
    master.replicated(1).await;
    let memory = waiting(&master);
    (master, replica, memory)
}

/// Returns a memory whose writes wait for one replica.
fn waiting(master: &Server) -> Memory {
    memory(&[("REDIS_URL", &master.url()), ("REDIS_WAIT_REPLICAS", "1")])
}

#[tokio::test]
async fn a_stopped_replica_delays_no_read() {
    let (_master, replica, memory) = pair().await;
    let writers: Vec<_> = (0..20)
        .map(|number| Subject::of(&format!("writer{number}"), memory.clone()))
        .collect();
    let mut turns = Vec::new();
    for writer in &writers {
        turns.push(writer.turn("said").await);
    }
    let reader = Subject::of("reader", memory.clone());
    reader.say("hello").await;
    replica.pause();
    let commits: Vec<_> = writers
        .into_iter()
        .zip(turns)
        .map(|(writer, turn)| tokio::spawn(async move { writer.try_commit(&turn).await }))
        .collect();
    let times = Times::of(
        async || commits.iter().all(tokio::task::JoinHandle::is_finished),
        async || {
            assert_eq!(reader.load().await.messages.len(), 2);
            sleep(Duration::from_millis(1)).await;
        },
    )
    .await;
    times.assert_under(
        Duration::from_millis(50),
        "20 commits wait for a stopped replica: reads",
    );
    for commit in commits {
        let committed = commit.await.expect("no panic");
        assert!(matches!(
            committed,
            Err(Error::NotReplicated | Error::Timeout)
        ));
    }
    replica.resume();
}

#[tokio::test]
async fn a_turn_that_is_not_stored_does_not_wait_for_replicas() {
    let (_master, replica, memory) = pair().await;
    let alice = Subject::of("alice", memory);
    alice.say("warm").await;
    let turn = alice.turn("began before").await;
    alice.clear().await;
    replica.pause();
    let started = Instant::now();
    assert_eq!(alice.commit(&turn).await, Commit::Fenced);
    assert!(started.elapsed() < Duration::from_millis(300));
    replica.resume();
}

#[tokio::test]
async fn a_repeated_commit_is_acknowledged_only_if_replicas_have_it() {
    let (master, replica, memory) = pair().await;
    let alice = Subject::of("alice", memory);
    let turn = alice.turn("said").await;
    replica.pause();
    // Each repetition finds the turn stored, and none may report that a replica has it, also over a new connection,
    // where WAIT has no write of its own to wait for. (Redis 7.0 waits there for the writes of others; 7.2 does not.)
    for _ in 0..3 {
        let process = Subject::of("alice", waiting(&master));
        let committed = process.try_commit(&turn).await;
        assert!(
            matches!(committed, Err(Error::NotReplicated)),
            "{committed:?}"
        );
    }
    replica.resume();
    assert_eq!(alice.commit(&turn).await, Commit::Duplicate);
    master.replicated(1).await;
    let copy: i64 = replica.command(&["LLEN", "chat:alice:luna:messages"]).await;
    assert_eq!(copy, 2);
}

/// Redis since 7.2 and Valkey count for WAIT only what its connection has written. Redis 7.0 counts more, so there this
/// test could not fail.
#[tokio::test]
async fn on_valkey_a_repeated_commit_waits_for_replicas_on_a_new_connection_too() {
    let master = Server::start_valkey(&WITHOUT_DELAY).await;
    let port = master.port().to_string();
    let replica = Server::start_valkey(&["--replicaof", "127.0.0.1", &port]).await;
    master.replicated(1).await;
    let process = || Subject::of("alice", waiting(&master));
    let turn = process().turn("said").await;
    replica.pause();
    // The script recognises a turn by the ids in the figures, and without them by its messages.
    for are_figures_gone in [false, false, true] {
        if are_figures_gone {
            let _: i64 = master.command(&["DEL", "chat:alice:luna:meta"]).await;
        }
        let committed = process().try_commit(&turn).await;
        assert!(
            matches!(committed, Err(Error::NotReplicated)),
            "figures gone: {are_figures_gone}: {committed:?}"
        );
    }
    replica.resume();
    assert_eq!(process().commit(&turn).await, Commit::Duplicate);
    master.replicated(1).await;
    let copy: i64 = replica.command(&["LLEN", "chat:alice:luna:messages"]).await;
    assert_eq!(copy, 2);
}
