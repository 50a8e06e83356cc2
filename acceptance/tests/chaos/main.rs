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
mod client;
mod functions;
mod period;
mod promptness;
mod proofs;
mod readings;
mod scene;
mod stops;
mod streams;
mod target;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fastrand::Rng;
use testkit::events;
use testkit::runtime::Function;
use testkit::tokens::{secret, token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use self::checker::{Session, Stored, Verdict, check};
use self::client::{Client, Diary, Habits};
use self::functions::{Chats, Others, warm};
use self::period::Period;
use self::promptness::{Control, Hit, judge};
use self::readings::{Evidence, Request};
use self::target::{Struck, Target};

const PROCESSES: usize = 3;
const CLIENTS: usize = 18;
const USERS: usize = 6;
/// Replicas and sentinels take seconds to find one another, and more on a busy machine.
const FIRST_SAVED_WITHIN: Duration = Duration::from_secs(60);
/// The pause between two requests that need no Redis.
const BETWEEN_CONTROLS: Duration = Duration::from_millis(10);
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
        habits: Habits {
            one_clear_in: 12,
            one_stop_in: 12,
        },
        has_faults: true,
        judges_first_events: setting("CHAOS_SECONDS").is_some(),
        judges_stops: setting("CHAOS_SECONDS").is_some(),
        broken: None,
    })
    .await;
    assert!(
        verdict.violations.is_empty(),
        "seed {seed}:\n{}",
        verdict.violations.join("\n")
    );
    assert!(verdict.acknowledged > 0, "nothing was ever saved");
}

/// What a run is like.
struct Run<'a> {
    topology: &'a str,
    /// How long faults strike.
    length: Duration,
    seed: u64,
    habits: Habits,
    has_faults: bool,
    /// Whether a first event that is late counts. A run among other tests shares the CPUs with them.
    judges_first_events: bool,
    /// Whether a stop that is late counts.
    judges_stops: bool,
    /// The variable that names a script, and the path of another one to use in its place.
    broken: Option<(&'a str, &'a str)>,
}

impl Run<'_> {
    /// A run in which a broken promise shows soon: with faults, those about clears; without, those about streams.
    fn short(has_faults: bool) -> Self {
        let (one_clear_in, one_stop_in) = if has_faults { (3, 50) } else { (50, 3) };
        Self {
            topology: "standalone",
            length: Duration::from_secs(if has_faults { 3 } else { 2 }),
            seed: 1,
            habits: Habits {
                one_clear_in,
                one_stop_in,
            },
            has_faults,
            judges_first_events: false,
            // No fault excuses a stop that takes long.
            judges_stops: !has_faults,
            broken: None,
        }
    }
}

/// Lets clients talk while faults strike, and compares what they were told with what is stored.
async fn run(run: &Run<'_>) -> Verdict {
    let &Run {
        topology,
        length,
        seed,
        habits,
        has_faults,
        judges_first_events,
        judges_stops,
        broken,
    } = run;
    println!("{topology}: seed {seed}, {} s", length.as_secs());
    let mut rng = Rng::with_seed(seed);
    let mut target = Target::start(topology, &mut rng).await;
    let env = target.env();
    let start = async |name: &str| {
        let builder = Function::builder(name)
            .env("JWT_SECRET", secret())
            .env("LLM_PROVIDER", "echo")
            .env("LOG_LEVEL", "error")
            .env("MEMORY_MAX_MESSAGES", "10000")
            .env("REDIS_BREAKER_COOLDOWN_MS", "100")
            .envs(env.clone());
        let builder = match broken {
            Some((variable, path)) if name == "chat-stream" => {
                builder.test_hooks().env(variable, path)
            }
            _ => builder,
        };
        // A client may send a message several times at once. One more is for the requests that need no Redis.
        builder.concurrency(2 * CLIENTS + 1).start().await
    };
    let mut chats = Vec::new();
    for _ in 0..PROCESSES {
        let chat = start("chat-stream").await;
        warm(&chat, &CHARACTERS).await;
        chats.push(Mutex::new(Arc::new(chat)));
    }
    let chats = Arc::new(Chats(chats));
    let others = Arc::new(Others {
        clear: start("clear-history").await,
        session: start("session-meta").await,
        stop: start("stop-stream").await,
    });

    let period = Arc::new(Period::new());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let client = Client {
                number,
                rng: Rng::with_seed(seed.wrapping_mul(1_000).wrapping_add(number as u64)),
                habits,
                period: Arc::clone(&period),
                chats: Arc::clone(&chats),
                others: Arc::clone(&others),
            };
            tokio::spawn(client.talk())
        })
        .collect();
    // Faults strike what works: servers that have only just found one another would prove nothing.
    let works = timeout(FIRST_SAVED_WITHIN, period.first_saved.notified()).await;
    assert!(works.is_ok(), "nothing was saved before the first fault");
    let until = Instant::now() + length;
    period.end_at(until);

    let mut controls: Vec<_> = (0..PROCESSES)
        .map(|process| tokio::spawn(control(process, Arc::clone(&chats), Arc::clone(&period))))
        .collect();
    if let Target::Standalone(server, _) = &target {
        controls.push(tokio::spawn(ping(server.port(), Arc::clone(&period))));
    }
    let mut hits = Vec::new();
    let mut faults: BTreeMap<&str, usize> = BTreeMap::new();
    while Instant::now() < until {
        sleep(Duration::from_millis(rng.u64(100..700))).await;
        if !has_faults {
            continue;
        }
        let from = Instant::now();
        let process = rng.usize(..PROCESSES);
        let (struck, process, is_kill) = match rng.u8(..12) {
            0 => {
                let chat = start("chat-stream").await;
                warm(&chat, &CHARACTERS).await;
                chats.replace(process, chat);
                (Struck::nobody("a function killed"), Some(process), true)
            }
            1 | 2 => {
                let frozen = chats.get(process);
                frozen.pause();
                sleep(Duration::from_millis(rng.u64(50..500))).await;
                frozen.resume();
                (Struck::nobody("a function frozen"), Some(process), false)
            }
            _ => (target.strike(&mut rng).await, None, false),
        };
        *faults.entry(struck.name).or_default() += 1;
        hits.push(Hit {
            name: struck.name,
            during: from..Instant::now(),
            users: struck.users,
            touched: struck.touched,
            process,
            is_kill,
        });
    }
    target.heal().await;

    let mut diary = Diary::default();
    for client in clients {
        diary.add(client.await.expect("a client does not panic"));
    }
    let mut answered = Vec::new();
    for control in controls {
        answered.extend(control.await.expect("a control does not panic"));
    }
    // Turns that nobody reads any longer end with their processes, before anything is compared.
    let chats = Arc::into_inner(chats).expect("nobody uses them any longer");
    for chat in chats.0 {
        let chat = chat.into_inner().expect("not poisoned");
        let mut chat = Arc::into_inner(chat).expect("nobody uses it any longer");
        chat.terminate();
        chat.exit().await;
    }
    let over = Instant::now();
    // Before the first fault, processes and connections are cold.
    diary
        .firsts
        .retain(|first| first.during.start > until - length);
    let promptness = judge(&diary.firsts, &hits, &answered);
    let mut stored: BTreeMap<Session, Stored> = BTreeMap::new();
    for user in 0..USERS {
        for character in CHARACTERS {
            let session = (format!("u{user}"), character.to_owned());
            stored.insert(session.clone(), target.stored(&session).await);
        }
    }
    let evidence = Evidence {
        readings: &diary.readings,
        stops: &diary.stops,
        clears: &diary.clears,
        hits: &hits,
        controls: &answered,
        stored: &stored,
        is_single: target.is_single(),
        judges_times: judges_stops,
        over,
    };
    let turns = evidence.turns();
    let mut verdict = check(
        &turns,
        &diary.clears,
        &evidence.changes(&diary.changes),
        &stored,
    );
    verdict.violations.extend(streams::judge(&evidence));
    verdict.violations.extend(stops::judge(&evidence));
    for line in evidence.stories(&verdict.violations).iter().take(200) {
        println!("{line}");
    }
    println!(
        "{topology}: the first event of {} turns whose server was well: half within {:?}, 99% within {:?}, \
         the longest {:?}",
        promptness.took.len(),
        promptness.within(50),
        promptness.within(99),
        promptness.within(100),
    );
    if judges_first_events {
        verdict.violations.extend(promptness.violations);
    }
    let resumed = diary
        .readings
        .iter()
        .filter(|one| one.request == Request::Resume);
    println!(
        "{topology}: {} turns, {} with a key, {} resumptions, {} stops, {} clears, {} changes of state, \
         faults {faults:?}, acknowledged {}, lost {}, doubled {}, violations {}",
        turns.len(),
        diary.keyed,
        resumed.count(),
        diary.stops.iter().filter(|stop| stop.status == 202).count(),
        diary.clears.len(),
        diary.changes.len(),
        verdict.acknowledged,
        verdict.lost,
        verdict.doubled,
        verdict.violations.len(),
    );
    verdict
}

/// Asks a process for an answer that needs no Redis, again and again.
async fn control(process: usize, chats: Arc<Chats>, period: Arc<Period>) -> Vec<Control> {
    let refused = events::chat(&token("control"), "luna", "");
    let mut answered = Vec::new();
    while period.is_on() {
        let answer = chats.get(process).invoke(&refused).await;
        // A process that was killed has no answer.
        if answer.status != 0 {
            answered.push(Control {
                process: Some(process),
                during: answer.handed_over..answer.ended,
            });
        }
        sleep(BETWEEN_CONTROLS).await;
    }
    answered
}

/// Sends PING to a server, again and again. While it is down, there is nothing to record.
async fn ping(port: u16, period: Arc<Period>) -> Vec<Control> {
    let mut answered = Vec::new();
    while period.is_on() {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else {
            sleep(BETWEEN_CONTROLS).await;
            continue;
        };
        let mut pong = [0; 7];
        while period.is_on() {
            let began = Instant::now();
            if stream.write_all(b"PING\r\n").await.is_err()
                || stream.read_exact(&mut pong).await.is_err()
            {
                break;
            }
            answered.push(Control {
                process: None,
                during: began..Instant::now(),
            });
            sleep(BETWEEN_CONTROLS).await;
        }
    }
    answered
}
