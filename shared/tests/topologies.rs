//! The memory on every topology, with real servers: it works, survives the faults of the topology, and recovers by
//! itself.
//!
//! `cargo test -p shared --test topologies -- --nocapture` prints the recovery times.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that prints its measurements"
)]

mod subject;

use std::time::{Duration, Instant};

use shared::memory::{Commit, Error};
use testkit::cluster::Cluster;
use testkit::proxy::Proxy;
use testkit::redis::Server;
use testkit::sentinel::Sentinels;
use testkit::tls::TlsServer;

use self::subject::{SLACK, Subject, probing_often};

const BUDGET: Duration = Duration::from_secs(1);

#[tokio::test]
async fn tls_with_a_private_authority() {
    let server = TlsServer::start().await;
    let url = server.url();
    let ca_file = server.ca_file();
    let ca_file = ca_file.to_str().expect("UTF-8");
    let subject = Subject::new(&[("REDIS_URL", &url), ("REDIS_TLS_CA_FILE", ca_file)]);
    assert_eq!(subject.say("hello").await, Commit::Saved);
    assert_eq!(subject.contents().await, ["hello", "re: hello"]);
    // The system does not trust that authority, and a connection that cannot be verified must fail.
    assert!(
        Subject::new(&[("REDIS_URL", &url)])
            .try_load()
            .await
            .is_err()
    );
    assert_eq!(subject.say("again").await, Commit::Saved);
}

#[tokio::test]
async fn sentinels_name_the_master_and_its_successor() {
    let mut sentinels = Sentinels::start_with(Some("of-the-nodes"), Some("of-the-sentinels")).await;
    let subject = Subject::of("alice", probing_often(&sentinels.env()));
    assert_eq!(subject.say("before").await, Commit::Saved);

    // A sentinel that is down is skipped.
    sentinels.kill_sentinel(0).await;
    let fresh = Subject::of("alice", probing_often(&sentinels.env()));
    assert_eq!(fresh.contents().await, ["before", "re: before"]);

    // A sentinel that hangs delays nothing: the others are queried concurrently.
    sentinels.pause_sentinel(1);
    let started = Instant::now();
    let fresh = Subject::of("alice", probing_often(&sentinels.env()));
    assert_eq!(fresh.contents().await, ["before", "re: before"]);
    println!(
        "one sentinel dead, one hanging: connected after {} ms",
        started.elapsed().as_millis()
    );
    assert!(started.elapsed() < BUDGET + SLACK);
}

#[tokio::test]
async fn a_failover_moves_us_to_the_new_master() {
    let mut sentinels = Sentinels::start().await;
    let subject = Subject::of("alice", probing_often(&sentinels.env()));
    let turn = subject.turn("before").await;
    assert_eq!(subject.commit(&turn).await, Commit::Saved);
    sentinels.replicated().await;

    let started = Instant::now();
    let old = sentinels.kill_master().await;
    let first = Instant::now();
    assert!(subject.try_load().await.is_err());
    assert!(first.elapsed() < BUDGET + SLACK);
    let (messages, _) = subject.load_when_back().await;
    println!(
        "master killed: memory was back after {} ms",
        started.elapsed().as_millis()
    );
    assert_eq!(messages, 2);
    assert_ne!(sentinels.wait_for_new_master(old).await, old);
    // The new master also recognises the turn that was committed before the failover.
    assert_eq!(subject.commit(&turn).await, Commit::Duplicate);
    assert_eq!(subject.say("after").await, Commit::Saved);

    // The old master comes back as a replica, and no write goes to it.
    sentinels.heal().await;
    assert_eq!(subject.say("later").await, Commit::Saved);
    assert_eq!(subject.contents().await.len(), 6);
}

/// Runs turns during a planned failover. Returns how many were acknowledged, and how many of those the new master
/// lacks.
async fn planned_failover(wait_replicas: &str, min_replicas: &str) -> (usize, usize) {
    let mut sentinels = Sentinels::start().await;
    sentinels
        .configure("min-replicas-to-write", min_replicas)
        .await;
    let mut env = sentinels.env();
    env.push(("REDIS_WAIT_REPLICAS".into(), wait_replicas.into()));
    env.push(("MEMORY_MAX_MESSAGES".into(), "10000".into()));
    let subject = Subject::of("alice", probing_often(&env));
    let stored = async || -> Vec<String> {
        sentinels
            .command(&["LRANGE", "chat:alice:luna:messages", "0", "-1"])
            .await
    };
    let content = |said: &str| format!("\"content\":\"{said}\"");
    subject.say("first").await;

    let old = sentinels.master_port().await;
    sentinels.failover().await;
    let started = Instant::now();
    let mut acknowledged = Vec::new();
    let mut number = 0;
    loop {
        let said = number.to_string();
        number += 1;
        if subject.try_say(&said).await.is_ok_and(Commit::is_saved) {
            acknowledged.push(said.clone());
            // Go on until the new master has stored a turn.
            if sentinels.master_port().await != old
                && stored()
                    .await
                    .iter()
                    .any(|element| element.contains(&content(&said)))
            {
                break;
            }
        }
        assert!(started.elapsed() < Duration::from_secs(30), "no failover");
    }
    sentinels.heal().await;
    let stored: Vec<String> = sentinels
        .command(&["LRANGE", "chat:alice:luna:messages", "0", "-1"])
        .await;
    let found = |said: &String| {
        stored
            .iter()
            .filter(|element| element.contains(&content(said)))
            .count()
    };
    assert!(
        (0..number).all(|said| found(&said.to_string()) <= 1),
        "doubled"
    );
    let session = subject.session().await.expect("a session");
    assert_eq!(session.stored_messages, session.message_count);
    let lost = acknowledged.iter().filter(|said| found(said) == 0).count();
    (acknowledged.len(), lost)
}

#[tokio::test]
async fn a_planned_failover_with_turns_in_flight_doubles_nothing() {
    for min_replicas in ["0", "1"] {
        let (acknowledged, lost) = planned_failover("0", min_replicas).await;
        println!(
            "planned failover, min-replicas-to-write {min_replicas}: {acknowledged} turns acknowledged, {lost} of them lost"
        );
    }
}

#[tokio::test]
async fn a_planned_failover_loses_nothing_that_all_replicas_had() {
    let (acknowledged, lost) = planned_failover("2", "0").await;
    println!(
        "planned failover, REDIS_WAIT_REPLICAS=2: {acknowledged} turns acknowledged, {lost} of them lost"
    );
    assert_eq!(lost, 0);
}

#[tokio::test]
async fn a_commit_can_wait_for_replicas() {
    let server = Server::start().await;
    let replica =
        Server::start_with(&["--replicaof", "127.0.0.1", &server.port().to_string()]).await;
    let url = server.url();
    let subject = Subject::new(&[("REDIS_URL", &url), ("REDIS_WAIT_REPLICAS", "1")]);
    let started = Instant::now();
    while !server
        .command::<String>(&["INFO", "replication"])
        .await
        .contains("state=online")
    {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "the replica does not follow"
        );
        tokio::task::yield_now().await;
    }
    assert_eq!(subject.say("on both").await, Commit::Saved);
    let copy: i64 = replica.command(&["LLEN", "chat:alice:luna:messages"]).await;
    assert_eq!(copy, 2);

    // Without the replica the commit reports that the turn may be lost, and repeating it stores nothing twice.
    replica.pause();
    let turn = subject.turn("on one").await;
    assert!(matches!(
        subject.try_commit(&turn).await,
        Err(Error::NotReplicated)
    ));
    replica.resume();
    server.replicated(1).await;
    assert_eq!(subject.commit(&turn).await, Commit::Duplicate);
    assert_eq!(subject.contents().await.len(), 4);
}

#[tokio::test]
async fn a_cluster_spreads_users_and_a_migration_is_not_noticed() {
    let cluster = Cluster::start().await;
    let memory = probing_often(&cluster.env());
    for user in 0..30 {
        let subject = Subject::of(&format!("user{user}"), memory.clone());
        assert_eq!(subject.say("hello").await, Commit::Saved);
        assert_eq!(subject.session().await.expect("a session").message_count, 2);
    }

    // The cluster answers ASK while a slot moves, and MOVED once it has moved.
    let key = "chat:{user1}:luna:messages";
    let subject = Subject::of("user1", memory.clone());
    let (slot, from) = (cluster.slot(key).await, cluster.master_of(key).await);
    let to = cluster
        .masters()
        .await
        .into_iter()
        .find(|port| *port != from)
        .expect("another master");
    cluster.begin_migration(slot, from, to).await;
    assert_eq!(
        subject.contents().await.len(),
        2,
        "half way, before the keys have moved"
    );
    cluster.migrate_keys(slot, from, to).await;
    assert_eq!(
        subject.contents().await.len(),
        2,
        "half way, after the keys have moved"
    );
    // A script on several keys has to wait until the migration of its slot ends, which takes milliseconds.
    let (saved, ()) = tokio::join!(
        subject.try_say("during"),
        cluster.finish_migration(slot, from, to)
    );
    assert_eq!(saved.expect("retried inside the budget"), Commit::Saved);
    assert_eq!(subject.say("moved").await, Commit::Saved);
    assert_eq!(
        subject.contents().await,
        [
            "hello",
            "re: hello",
            "during",
            "re: during",
            "moved",
            "re: moved"
        ]
    );

    // If the migration outlasts the budget, a commit that fails has stored nothing.
    cluster.begin_migration(slot, to, from).await;
    let turn = subject.turn("refused").await;
    let committed = subject.try_commit(&turn).await;
    cluster.migrate_keys(slot, to, from).await;
    cluster.finish_migration(slot, to, from).await;
    let (messages, _) = subject.load_when_back().await;
    assert_eq!(messages, if committed.is_ok() { 8 } else { 6 });
    subject.clear().await;
    assert_eq!(subject.contents().await.len(), 0);
}

#[tokio::test]
async fn a_lost_shard_is_the_problem_of_its_own_users_until_its_replica_is_promoted() {
    let mut cluster = Cluster::start().await;
    let memory = probing_often(&cluster.env());
    let key = "chat:{alice}:luna:messages";
    let alice = Subject::of("alice", memory.clone());
    let lost = cluster.master_of(key).await;
    // Users whose shard stays up.
    let mut others = Vec::new();
    for user in 0..50 {
        let name = format!("user{user}");
        if cluster
            .master_of(&format!("chat:{{{name}}}:luna:messages"))
            .await
            != lost
        {
            others.push(Subject::of(&name, memory.clone()));
        }
    }
    for subject in others.iter().chain([&alice]) {
        subject.say("before").await;
    }
    cluster.node(lost).replicated(1).await;

    let started = Instant::now();
    cluster.kill(lost).await;
    let mut longest = Duration::ZERO;
    let mut back = None;
    while back.is_none() {
        if alice.try_load().await.is_ok() {
            back = Some(started.elapsed());
        }
        for other in &others {
            let asked = Instant::now();
            assert_eq!(other.load().await.messages.len(), 2, "a healthy shard");
            longest = longest.max(asked.elapsed());
        }
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "no replica was promoted"
        );
    }
    println!(
        "shard lost: memory was back after {} ms; users of the others waited {} ms at most",
        back.expect("the shard is back").as_millis(),
        longest.as_millis()
    );
    assert_eq!(alice.contents().await, ["before", "re: before"]);
    assert_eq!(alice.say("after").await, Commit::Saved);
    cluster.heal().await;
    assert_eq!(alice.say("healed").await, Commit::Saved);
}

#[tokio::test]
async fn a_half_open_socket_costs_one_turn_at_most_and_none_after_a_pause() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port()).await;
    let subject = Subject::new(&[
        ("REDIS_URL", &proxy.url()),
        ("REDIS_BREAKER_COOLDOWN_MS", "100"),
    ]);
    subject.say("before").await;

    // In use: the turn that meets the dead socket waits for its whole budget, and the next one has its memory.
    proxy.swallow_existing();
    let started = Instant::now();
    assert!(matches!(subject.try_load().await, Err(Error::Timeout)));
    assert!(started.elapsed() < BUDGET + SLACK);
    let (messages, after) = subject.load_when_back().await;
    assert_eq!(messages, 2);
    println!(
        "half-open socket in use: memory was back after {} ms",
        after.as_millis()
    );

    // After a pause of more than five seconds a connection is not trusted, so the turn reads its memory within the
    // budget. The sleep is the pause under test.
    tokio::time::sleep(Duration::from_millis(5_100)).await;
    proxy.swallow_existing();
    let started = Instant::now();
    assert_eq!(subject.load().await.messages.len(), 2);
    println!(
        "half-open socket after a pause: memory was read after {} ms",
        started.elapsed().as_millis()
    );
    assert!(started.elapsed() < BUDGET + SLACK);
    assert_eq!(subject.say("after").await, Commit::Saved);
}

#[tokio::test]
async fn a_network_that_is_slow_for_one_request_in_ten() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port()).await;
    let settings = [
        ("REDIS_URL", proxy.url()),
        ("MEMORY_READ_TIMEOUT_MS", "200".into()),
        ("MEMORY_WRITE_TIMEOUT_MS", "200".into()),
    ];
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let subject = Subject::new(&settings);
    subject.say("before").await;
    proxy.slow(10, Duration::from_millis(400));
    let mut without = 0;
    for _ in 0..60 {
        let started = Instant::now();
        without += u32::from(subject.try_load().await.is_err());
        assert!(started.elapsed() < Duration::from_millis(200) + SLACK);
    }
    println!("one request in ten slow: {without} of 60 turns were without memory");
    assert!(without <= 30, "{without}");
    proxy.pass();
    let (messages, _) = subject.load_when_back().await;
    assert_eq!(messages, 2);
}

#[tokio::test]
async fn a_thousand_faults_leave_no_connection_behind() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port()).await;
    let subject = Subject::new(&[
        ("REDIS_URL", &proxy.url()),
        ("REDIS_BREAKER_COOLDOWN_MS", "1"),
    ]);
    for fault in 0..1_000 {
        if fault % 2 == 0 {
            proxy.cut();
        } else {
            server
                .command::<i64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
                .await;
        }
        subject.load_when_back().await;
    }
    assert!(proxy.open() <= 2, "{}", proxy.open());
    let clients: String = server.command(&["CLIENT", "LIST", "TYPE", "normal"]).await;
    assert!(clients.lines().count() <= 4, "{clients}");
}
