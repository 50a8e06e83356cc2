//! A part of a cluster that hangs is the problem of its own users, and seeds that hang are nobody's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use shared::characters::Characters;
use shared::ids::CharacterId;
use shared::memory::{Commit, Memory};
use shared::telemetry::Invocation;
use testkit::cluster::Cluster;
use testkit::sentinel::Sentinels;
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::Times;
use crate::subject::{Subject, probing_often, store};

/// What a fault of another server may cost.
const UNTOUCHED: Duration = Duration::from_millis(20);

/// Returns users of the shard of `hanging`, and users of the others.
async fn users(cluster: &Cluster, hanging: u16, memory: &Memory) -> (Vec<Subject>, Vec<Subject>) {
    let (mut of_it, mut of_others) = (Vec::new(), Vec::new());
    for number in 0..60 {
        let name = format!("user{number}");
        let subject = Subject::of(&name, memory.clone());
        subject.say("before").await;
        let master = cluster
            .master_of(&format!("chat:{{{name}}}:luna:messages"))
            .await;
        if master == hanging {
            of_it.push(subject);
        } else {
            of_others.push(subject);
        }
    }
    (of_it, of_others)
}

#[tokio::test]
async fn a_hanging_shard_delays_nobody_else_and_has_one_replacement_at_a_time() {
    let cluster = Cluster::start().await;
    let memory = probing_often(&cluster.env());
    let hanging = cluster.masters().await[0];
    let (of_it, of_others) = users(&cluster, hanging, &memory).await;
    let healthy: Vec<u16> = cluster
        .masters()
        .await
        .into_iter()
        .filter(|port| *port != hanging)
        .collect();
    let received = async || {
        let mut received = Vec::new();
        for port in &healthy {
            received.push(cluster.node(*port).connections_received().await);
        }
        received
    };
    let before = received().await;

    cluster.pause(hanging);
    let started = Instant::now();
    let waiting: Vec<_> = of_it
        .into_iter()
        .flat_map(|subject| {
            let again = Subject::of(subject.user.as_str(), subject.memory.clone());
            [subject, again]
        })
        .map(|subject| tokio::spawn(async move { subject.try_load().await.is_ok() }))
        .collect();
    let mut times = Times::default();
    // For as long as operations of the hanging shard time out, and its replacement is looked for.
    while started.elapsed() < Duration::from_millis(1_800) {
        for other in &of_others {
            let asked = Instant::now();
            assert_eq!(other.load().await.messages.len(), 2);
            times.0.push(asked.elapsed());
        }
        sleep(Duration::from_millis(1)).await;
    }
    for waiting in waiting {
        waiting.await.expect("no panic");
    }
    times.assert_under(UNTOUCHED, "a shard hangs: loads of the others' users");
    // The product needs no new connection to a healthy node. The one is this question's own.
    for (port, (before, after)) in healthy.iter().zip(before.iter().zip(received().await)) {
        assert_eq!(after - before, 1, "new connections to node {port}");
    }
    cluster.resume();
}

#[tokio::test]
async fn a_hanging_shard_is_used_again_as_soon_as_it_is_back() {
    let cluster = Cluster::start().await;
    let memory = probing_often(&cluster.env());
    let alice = Subject::of("alice", memory.clone());
    alice.say("before").await;
    let master = cluster.master_of("chat:{alice}:luna:messages").await;
    // It is back before the others have replaced it.
    let turn = alice.turn("during").await;
    cluster.pause(master);
    let (committed, ()) = tokio::join!(alice.try_commit(&turn), async {
        sleep(Duration::from_millis(600)).await;
        cluster.resume();
    });
    assert!(committed.expect("stored within the budget").is_saved());
    assert_eq!(alice.contents().await.len(), 4);
}

#[tokio::test]
async fn a_dead_socket_to_one_node_is_noticed_although_others_are_busy() {
    let cluster = Cluster::start().await;
    let memory = probing_often(&cluster.env());
    let master = cluster.master_of("chat:{alice}:luna:messages").await;
    let (_, of_others) = users(&cluster, master, &memory).await;
    let alice = Subject::of("alice", memory.clone());
    alice.say("before").await;
    // The others keep their connections busy while this user's connection is idle, and then dead.
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(5_200) {
        of_others[0].load().await;
        sleep(Duration::from_millis(20)).await;
    }
    cluster.pause(master);
    let (loaded, ()) = tokio::join!(
        async {
            let started = Instant::now();
            (alice.try_load().await, started.elapsed())
        },
        async {
            // The replacement finds a server that replies.
            sleep(Duration::from_millis(450)).await;
            cluster.resume();
        }
    );
    let (loaded, took) = loaded;
    assert_eq!(loaded.expect("read within the budget").messages.len(), 2);
    assert!(took < Duration::from_millis(700), "{took:?}");
}

#[tokio::test]
async fn a_character_on_a_hanging_shard_delays_a_turn_only_briefly() {
    static AHEAD_SECONDS: AtomicU64 = AtomicU64::new(0);
    const KEY: &str = "character:luna";
    let character = |name: &str| format!(r#"{{"name":"{name}","system_prompt":"x"}}"#);
    let cluster = Cluster::start().await;
    cluster
        .command::<String>(KEY, &["SET", KEY, &character("first")])
        .await;
    let characters = Characters::new(store(&cluster.env()), || {
        SystemTime::now() + Duration::from_secs(AHEAD_SECONDS.load(Ordering::SeqCst))
    });
    let luna = CharacterId::parse("luna").expect("valid");
    let name = async || {
        let found = characters.find(&luna, &Invocation::detached()).await;
        found.expect("a character").name().to_owned()
    };
    assert_eq!(name().await, "first");

    cluster.pause(cluster.master_of(KEY).await);
    AHEAD_SECONDS.store(61, Ordering::SeqCst);
    let mut times = Times::default();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(500) {
        let asked = Instant::now();
        assert_eq!(name().await, "first");
        times.0.push(asked.elapsed());
    }
    times.assert_under(UNTOUCHED, "the shard of the character hangs: look-ups");
    // The newer copy is used once the shard is back.
    cluster.resume();
    cluster
        .command::<String>(KEY, &["SET", KEY, &character("second")])
        .await;
    AHEAD_SECONDS.store(122, Ordering::SeqCst);
    let began = Instant::now();
    while name().await != "second" {
        assert!(began.elapsed() < Duration::from_secs(20), "no newer copy");
        tokio::task::yield_now().await;
    }
}

/// A server that accepts connections and never replies.
async fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    (listener, format!("redis://127.0.0.1:{port}"))
}

/// Returns the environment with silent servers before and behind its own URLs.
fn among_silent(env: Vec<(String, String)>, silent: &str) -> Vec<(String, String)> {
    env.into_iter()
        .map(|(name, value)| match name.as_str() {
            "REDIS_URL" => (name, format!("{silent},{silent},{value},{silent}")),
            _ => (name, value),
        })
        .collect()
}

#[tokio::test]
async fn seeds_that_hang_cost_a_cold_start_nothing() {
    let cluster = Cluster::start().await;
    let sentinels = Sentinels::start().await;
    let (_listener, silent) = silent().await;
    for (topology, env) in [("cluster", cluster.env()), ("sentinel", sentinels.env())] {
        let subject = Subject::of("alice", probing_often(&among_silent(env, &silent)));
        let started = Instant::now();
        subject.load().await;
        let took = started.elapsed();
        println!(
            "{topology}: cold start among hanging seeds took {} ms",
            took.as_millis()
        );
        assert!(took < Duration::from_millis(100), "{topology}: {took:?}");
        assert_eq!(subject.say("hello").await, Commit::Saved);
    }
}
