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
mod promptness;
mod target;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fastrand::Rng;
use testkit::events;
use testkit::runtime::Function;
use testkit::tokens::{secret, token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use self::checker::{Change, Clear, Session, Stored, Turn, Verdict, check};
use self::promptness::{Control, First, Hit, judge};
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

/// Without the line that fences turns behind a clear, and without the one that stores both messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_broken_on_purpose_is_found_out() {
    let source = concat!(
        include_str!("../../../shared/src/record/record.lua"),
        include_str!("../../../shared/src/memory/scripts/commit.lua")
    );
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
            judges_first_events: false,
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
        judges_first_events: setting("CHAOS_SECONDS").is_some(),
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

impl Period {
    fn is_on(&self) -> bool {
        let until = self.until.get();
        until.is_none_or(|until| Instant::now() < *until)
    }
}

/// What one client saw.
#[derive(Default)]
struct Diary {
    turns: Vec<Turn>,
    clears: Vec<Clear>,
    changes: Vec<Change>,
    firsts: Vec<First>,
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
    /// Whether a first event that is late counts. A run among other tests shares the CPUs with them.
    judges_first_events: bool,
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
        judges_first_events,
        broken_commit,
    } = run;
    println!("{topology}: seed {seed}, {} s", length.as_secs());
    let mut rng = Rng::with_seed(seed);
    let mut target = Target::start(topology, &mut rng).await;
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
        // One more, for the requests that need no Redis.
        Arc::new(builder.concurrency(CLIENTS + 1).start().await)
    };
    let mut chats = Vec::new();
    for _ in 0..PROCESSES {
        chats.push(start("chat-stream").await);
    }
    let others = Others {
        clear: start("clear-history").await,
        session: start("session-meta").await,
    };

    let period = Arc::new(Period::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let rng = Rng::with_seed(seed.wrapping_mul(1_000).wrapping_add(client as u64));
            let (period, others) = (Arc::clone(&period), others.clone());
            let talk = talk(client, rng, one_clear_in, period, chats.clone(), others);
            tokio::spawn(talk)
        })
        .collect();
    // Faults strike what works: servers that have only just found one another would prove nothing.
    let works = timeout(FIRST_SAVED_WITHIN, period.first_saved.notified()).await;
    assert!(works.is_ok(), "nothing was saved before the first fault");
    let until = Instant::now() + length;
    period.until.get_or_init(|| until);

    let mut controls: Vec<_> = chats
        .iter()
        .enumerate()
        .map(|(process, chat)| {
            tokio::spawn(control(process, Arc::clone(chat), Arc::clone(&period)))
        })
        .collect();
    if let Target::Standalone(server, _) = &target {
        controls.push(tokio::spawn(ping(server.port(), Arc::clone(&period))));
    }
    let mut hits = Vec::new();
    let mut faults: BTreeMap<&str, usize> = BTreeMap::new();
    while Instant::now() < until {
        sleep(Duration::from_millis(rng.u64(100..700))).await;
        let from = Instant::now();
        let (struck, process) = if rng.u8(..6) == 0 {
            let process = rng.usize(..PROCESSES);
            chats[process].pause();
            sleep(Duration::from_millis(rng.u64(50..500))).await;
            chats[process].resume();
            (Struck::nobody("a function frozen"), Some(process))
        } else {
            (target.strike(&mut rng).await, None)
        };
        *faults.entry(struck.name).or_default() += 1;
        hits.push(Hit {
            name: struck.name,
            during: from..Instant::now(),
            users: struck.users,
            process,
        });
    }
    target.heal().await;

    let mut diary = Diary::default();
    for client in clients {
        let own = client.await.expect("a client does not panic");
        diary.turns.extend(own.turns);
        diary.clears.extend(own.clears);
        diary.changes.extend(own.changes);
        diary.firsts.extend(own.firsts);
        diary.problems.extend(own.problems);
        diary.longest_wait = diary.longest_wait.max(own.longest_wait);
    }
    let mut answered = Vec::new();
    for control in controls {
        answered.extend(control.await.expect("a control does not panic"));
    }
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
    let mut verdict = check(&diary.turns, &diary.clears, &diary.changes, &stored);
    verdict.violations.extend(diary.problems);
    println!(
        "{topology}: the first event of {} turns whose server was well: half within {:?}, 99% within {:?}, the longest {:?}",
        promptness.took.len(),
        promptness.within(50),
        promptness.within(99),
        promptness.within(100),
    );
    if judges_first_events {
        verdict.violations.extend(promptness.violations);
    }
    println!(
        "{topology}: {} turns, {} clears, {} changes of state, faults {faults:?}, acknowledged {}, lost {}, doubled {}, longest wait for the first byte {} ms, violations {}",
        diary.turns.len(),
        diary.clears.len(),
        diary.changes.len(),
        verdict.acknowledged,
        verdict.lost,
        verdict.doubled,
        diary.longest_wait.as_millis(),
        verdict.violations.len(),
    );
    verdict
}

/// The functions besides the chats.
#[derive(Clone)]
struct Others {
    clear: Arc<Function>,
    session: Arc<Function>,
}

/// Asks a process for an answer that needs no Redis, again and again.
async fn control(process: usize, chat: Arc<Function>, period: Arc<Period>) -> Vec<Control> {
    let refused = events::chat(&token("control"), "luna", "");
    let mut answered = Vec::new();
    while period.is_on() {
        let answer = chat.invoke(&refused).await;
        answered.push(Control {
            process: Some(process),
            during: answer.handed_over..answer.ended,
        });
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

/// One client: it talks to its own session, or to one that others use too, and sometimes clears it.
async fn talk(
    client: usize,
    mut rng: Rng,
    one_clear_in: u8,
    period: Arc<Period>,
    chats: Vec<Arc<Function>>,
    others: Others,
) -> Diary {
    let mut diary = Diary::default();
    let mut number = 0;
    while period.is_on() {
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
            let answer = others
                .clear
                .invoke(&events::clear(&token, &session.1))
                .await;
            diary.clears.push(Clear {
                session,
                issued,
                ended: Instant::now(),
                done: answer.status == 200,
            });
            continue;
        }
        if rng.u8(..20) == 0 {
            let state = ["ACTIVE", "INACTIVE", "ENDED"][rng.usize(..3)];
            let issued = Instant::now();
            let event = events::set_state(&token, &session.1, state);
            let answer = others.session.invoke(&event).await;
            diary.changes.push(Change {
                session,
                state,
                issued,
                ended: Instant::now(),
                done: answer.status == 200,
            });
            continue;
        }
        number += 1;
        let said = format!("c{client}-{number}");
        let handed_over = Instant::now();
        let process = rng.usize(..chats.len());
        let answer = chats[process]
            .invoke(&events::chat(&token, &session.1, &said))
            .await;
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
        diary.firsts.push(First {
            user,
            process,
            during: answer.handed_over..first.at,
            said: said.clone(),
        });
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
