//! Many clients talk through several function processes while faults strike at random; then what they were told is
//! compared with what Redis holds.
//!
//! A short run of each topology is part of the tests. `make chaos` runs longer. The seed is printed; the same seed
//! strikes the same faults in the same order, though not at the same instants of the clients' work.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `CHAOS_TOPOLOGY` | only this one: `standalone`, `sentinel` or `cluster` |
//! | `CHAOS_SECONDS` | how long faults strike |
//! | `CHAOS_SEED` | the seed |
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test, and a tool that prints"
)]

mod checker;
mod target;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fastrand::Rng;
use testkit::events;
use testkit::runtime::Function;
use testkit::tokens::{secret, token};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use self::checker::{Clear, Session, Stored, Turn, Verdict, check};
use self::target::Target;

const PROCESSES: usize = 3;
const CLIENTS: usize = 18;
const USERS: usize = 6;
/// Replicas and sentinels take seconds to find one another, and more on a busy machine.
const FIRST_SAVED_WITHIN: Duration = Duration::from_secs(60);
const CHARACTERS: [&str; 3] = ["luna", "kai", "mei"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_server_keeps_its_promises_under_faults() {
    run_named("standalone", 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_keep_their_promises_under_faults() {
    run_named("sentinel", 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_its_promises_under_faults() {
    run_named("cluster", 10).await;
}

/// Without the line that fences turns behind a clear, and without the one that stores both messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_broken_on_purpose_is_found_out() {
    let source = include_str!("../../../shared/src/memory/scripts/commit.lua");
    let unfenced = source.replace("if is_cleared or", "if");
    let halved = source.replace("unpack(ARGV, FIRST))", "ARGV[FIRST])");
    for broken in [unfenced, halved] {
        assert_ne!(
            broken, source,
            "the script has changed, and the mutation no longer applies"
        );
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), broken).expect("written");
        let path = file.path().to_str().expect("UTF-8").to_owned();
        let broken = Run {
            topology: "standalone",
            length: Duration::from_secs(3),
            seed: 1,
            // Each clear is a chance to notice that there is no fence.
            one_clear_in: 3,
            broken_commit: Some(&path),
        };
        let verdict = run(&broken).await;
        assert!(!verdict.violations.is_empty(), "nothing was noticed");
    }
}

async fn run_named(topology: &str, seconds: u64) {
    let setting = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if setting("CHAOS_TOPOLOGY").is_some_and(|only| only != topology) {
        println!("{topology}: not asked for");
        return;
    }
    let number = |name: &str| {
        setting(name).map(|value| {
            value
                .parse()
                .unwrap_or_else(|_| panic!("{name} must be a number"))
        })
    };
    let seconds = number("CHAOS_SECONDS").unwrap_or(seconds);
    let seed = number("CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let verdict = run(&Run {
        topology,
        length: Duration::from_secs(seconds),
        seed,
        one_clear_in: 12,
        broken_commit: None,
    })
    .await;
    assert!(
        verdict.violations.is_empty(),
        "seed {seed}:\n{}",
        verdict.violations.join("\n")
    );
    assert!(verdict.acknowledged > 0, "nothing was ever saved");
}

/// How long clients talk.
#[derive(Default)]
struct Period {
    /// Told at each turn that was saved.
    first_saved: Notify,
    /// Not known before that.
    until: OnceLock<Instant>,
}

/// What one client saw.
#[derive(Default)]
struct Diary {
    turns: Vec<Turn>,
    clears: Vec<Clear>,
    longest_wait: Duration,
    problems: Vec<String>,
}

/// What a run is like.
struct Run<'a> {
    topology: &'a str,
    /// How long faults strike.
    length: Duration,
    seed: u64,
    /// Of how many requests one is a clear.
    one_clear_in: u8,
    /// The path of a script to use instead of the commit script.
    broken_commit: Option<&'a str>,
}

/// Lets clients talk while faults strike, and compares what they were told with what is stored.
async fn run(run: &Run<'_>) -> Verdict {
    let &Run {
        topology,
        length,
        seed,
        one_clear_in,
        broken_commit,
    } = run;
    println!("{topology}: seed {seed}, {} s", length.as_secs());
    let mut target = Target::start(topology).await;
    let start = async |name: &str| {
        let builder = Function::builder(name)
            .env("JWT_SECRET", secret())
            .env("LLM_PROVIDER", "echo")
            .env("LOG_LEVEL", "error")
            .env("MEMORY_MAX_MESSAGES", "10000")
            .env("REDIS_BREAKER_COOLDOWN_MS", "100")
            .envs(target.env());
        let builder = match broken_commit {
            Some(path) if name == "chat-stream" => {
                builder.test_hooks().env("BROKEN_COMMIT_SCRIPT", path)
            }
            _ => builder,
        };
        Arc::new(builder.concurrency(CLIENTS).start().await)
    };
    let mut chats = Vec::new();
    for _ in 0..PROCESSES {
        chats.push(start("chat-stream").await);
    }
    let clear = start("clear-history").await;

    let period = Arc::new(Period::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let rng = Rng::with_seed(seed.wrapping_mul(1_000).wrapping_add(client as u64));
            let (period, clear) = (Arc::clone(&period), Arc::clone(&clear));
            let talk = talk(client, rng, one_clear_in, period, chats.clone(), clear);
            tokio::spawn(talk)
        })
        .collect();
    // Faults strike what works: servers that have only just found one another would prove nothing.
    let works = timeout(FIRST_SAVED_WITHIN, period.first_saved.notified()).await;
    assert!(works.is_ok(), "nothing was saved before the first fault");
    let until = Instant::now() + length;
    period.until.get_or_init(|| until);

    let mut rng = Rng::with_seed(seed);
    let mut faults: BTreeMap<&str, usize> = BTreeMap::new();
    while Instant::now() < until {
        sleep(Duration::from_millis(rng.u64(100..700))).await;
        let fault = if rng.u8(..6) == 0 {
            let frozen = &chats[rng.usize(..PROCESSES)];
            frozen.pause();
            sleep(Duration::from_millis(rng.u64(50..500))).await;
            frozen.resume();
            "a function frozen"
        } else {
            target.strike(&mut rng).await
        };
        *faults.entry(fault).or_default() += 1;
    }
    target.heal().await;

    let mut diary = Diary::default();
    for client in clients {
        let own = client.await.expect("a client does not panic");
        diary.turns.extend(own.turns);
        diary.clears.extend(own.clears);
        diary.problems.extend(own.problems);
        diary.longest_wait = diary.longest_wait.max(own.longest_wait);
    }
    let mut stored: BTreeMap<Session, Stored> = BTreeMap::new();
    for user in 0..USERS {
        for character in CHARACTERS {
            let session = (format!("u{user}"), character.to_owned());
            stored.insert(session.clone(), target.stored(&session).await);
        }
    }
    let mut verdict = check(&diary.turns, &diary.clears, &stored);
    verdict.violations.extend(diary.problems);
    println!(
        "{topology}: {} turns, {} clears, faults {faults:?}, acknowledged {}, lost {}, doubled {}, longest wait for the first byte {} ms, violations {}",
        diary.turns.len(),
        diary.clears.len(),
        verdict.acknowledged,
        verdict.lost,
        verdict.doubled,
        diary.longest_wait.as_millis(),
        verdict.violations.len(),
    );
    verdict
}

/// One client: it talks to its own session, or to one that others use too, and sometimes clears it.
async fn talk(
    client: usize,
    mut rng: Rng,
    one_clear_in: u8,
    period: Arc<Period>,
    chats: Vec<Arc<Function>>,
    clear: Arc<Function>,
) -> Diary {
    let mut diary = Diary::default();
    let mut number = 0;
    while period
        .until
        .get()
        .is_none_or(|until| Instant::now() < *until)
    {
        let user = if rng.bool() {
            client % USERS
        } else {
            rng.usize(..USERS)
        };
        let session = (
            format!("u{user}"),
            CHARACTERS[rng.usize(..CHARACTERS.len())].to_owned(),
        );
        let token = token(&session.0);
        if rng.u8(..one_clear_in) == 0 {
            let issued = Instant::now();
            let answer = clear.invoke(&events::clear(&token, &session.1)).await;
            diary.clears.push(Clear {
                session,
                issued,
                ended: Instant::now(),
                done: answer.status == 200,
            });
            continue;
        }
        number += 1;
        let said = format!("c{client}-{number}");
        let handed_over = Instant::now();
        let chat = &chats[rng.usize(..chats.len())];
        let answer = chat.invoke(&events::chat(&token, &session.1, &said)).await;
        let streamed = answer.events();
        let (Some(first), Some(last)) = (streamed.first(), streamed.last()) else {
            diary.problems.push(format!(
                "{said} was not streamed: {} {:?}",
                answer.status, answer.error
            ));
            continue;
        };
        if last.data["done"] != true || !answer.reply().contains(&format!("“{said}”")) {
            diary
                .problems
                .push(format!("{said} got no whole reply: {:?}", last.data));
        }
        diary.longest_wait = diary
            .longest_wait
            .max(first.at.saturating_duration_since(answer.handed_over));
        if last.data["saved"] == true {
            period.first_saved.notify_one();
        }
        diary.turns.push(Turn {
            session,
            client,
            said,
            handed_over,
            begun: first.at,
            ended: Instant::now(),
            saved: last.data["saved"] == true,
        });
    }
    diary
}
