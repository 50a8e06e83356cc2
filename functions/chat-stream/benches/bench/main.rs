//! `make bench`: what a turn costs, in time, CPU and memory; everything real but the upstream, everything on loopback.
//!
//! Each figure is a median, with what the middle 80% span, over runs that are interleaved with those that it is compared with;
//! each comparison is a ratio within one run. `BENCH_QUICK=1` runs everything a few times, to see that it runs.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a tool that prints, and whose failures are the benchmark's"
)]

mod process;
mod raw;
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use shared::config::{MemoryConfig, RedisConfig, Section};
use shared::ids::{CharacterId, TurnId, UserId};
use shared::memory::{Memory, Turn};
use shared::message::{Message, Role};
use shared::secrets::Secrets;
use testkit::answer::Answer;
use testkit::binary::binary;
use testkit::events;
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tokens::{secret, token};
use testkit::upstream::{Script, Upstream};

use self::raw::Raw;
use self::report::{Report, Series, heading};

const DELTAS: usize = 50;

/// How often everything is repeated.
#[derive(Clone, Copy)]
struct Effort {
    turns: usize,
    starts: usize,
    streams: &'static [usize],
}

#[tokio::main]
async fn main() {
    let quick = std::env::var_os("BENCH_QUICK").is_some();
    let effort = if quick {
        Effort {
            turns: 5,
            starts: 2,
            streams: &[1, 10],
        }
    } else {
        Effort {
            turns: 300,
            starts: 20,
            streams: &[1, 100, 1_000],
        }
    };
    let mut report = Report::default();
    turns(&mut report, effort).await;
    memory_operations(&mut report, effort).await;
    cold_starts(&mut report, effort).await;
    many_at_once(&mut report, effort).await;
    binaries(&mut report);
    if let Some(peer) = std::env::var("PEER").ok().filter(|peer| !peer.is_empty()) {
        peer_turns(&mut report, &peer, effort).await;
    }
    let path = std::env::var("BENCH_JSON")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bench.json").into());
    std::fs::write(&path, report.json()).expect("the file can be written");
    println!("\nAll figures: {path}");
}

fn reply() -> Script {
    Script::reply(&["x"; DELTAS])
}

fn chat_stream(redis: &Server, upstream: &Upstream) -> FunctionBuilder {
    Function::builder("chat-stream")
        .env("REDIS_URL", redis.url())
        .env("JWT_SECRET", secret())
        .env("LOG_LEVEL", "error")
        .envs(upstream.env())
}

fn first_text(answer: &Answer) -> Duration {
    let events = answer.events();
    let first = events
        .iter()
        .find(|event| event.event == "message")
        .expect("a reply");
    first.at - answer.handed_over
}

/// Leaves a session with so many messages.
async fn store(redis: &Server, user: &str, messages: usize) {
    let key = format!("chat:{user}:luna:messages");
    redis.command::<i64>(&["DEL", &key]).await;
    for number in 0..messages / 2 {
        for (role, content) in [
            (Role::User, "今天过得怎么样？"),
            (Role::Assistant, "还不错，刚刚在海边散步，风很轻。你呢？"),
        ] {
            let message = Message::new(role, format!("{content}{number}"), 1_732_430_000, 20);
            redis
                .command::<i64>(&["LPUSH", &key, &message.to_json()])
                .await;
        }
    }
}

/// First byte, whole turn, CPU and memory; against the upstream and Redis alone.
async fn turns(report: &mut Report, effort: Effort) {
    heading(&format!(
        "A warm turn: {DELTAS} deltas, an upstream that answers at once"
    ));
    let redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
    let chat = chat_stream(&redis, &upstream).start().await;
    let address = format!("127.0.0.1:{}", upstream.port());
    let mut alone = Raw::connect(&address).await;
    let mut redis_alone = redis.connection().await;
    let stored = [0, 50, 100];
    let mut first = vec![Series::default(); stored.len()];
    let mut whole = first.clone();
    let (mut upstream_first, mut upstream_whole, mut lrange) =
        (Series::default(), Series::default(), Series::default());
    let (mut cpu, mut gap) = (Series::default(), Series::default());
    for round in 0..effort.turns {
        for (number, messages) in stored.into_iter().enumerate() {
            let user = format!("u{messages}");
            store(&redis, &user, messages).await;
            let before = process::cpu_time(chat.pid());
            upstream.note_sent();
            let answer = chat
                .invoke(&events::chat(&token(&user), "luna", "你好"))
                .await;
            chat.wait_idle().await;
            // What the first rounds warm up is not a warm turn.
            if round < effort.turns / 10 {
                continue;
            }
            first[number].push_time(first_text(&answer));
            whole[number].push_time(answer.ended - answer.handed_over);
            if messages == 50 {
                cpu.push_time(process::cpu_time(chat.pid()).saturating_sub(before));
                for (event, sent) in answer
                    .events()
                    .iter()
                    .skip(1)
                    .zip(upstream.sent_at().iter().skip(1))
                {
                    gap.push_time(event.at.saturating_duration_since(*sent));
                }
            }
        }
        let body = json!({ "messages": [{ "role": "user", "content": "你好" }] }).to_string();
        let (begun, ended) = alone.post("/v1/chat/completions", "x", &body).await;
        upstream_first.push_time(begun);
        upstream_whole.push_time(ended);
        let asked = Instant::now();
        let elements: Vec<Vec<u8>> = redis::cmd("LRANGE")
            .arg(&["chat:u50:luna:messages", "0", "49"])
            .query_async(&mut redis_alone)
            .await
            .expect("Redis answers");
        assert!(elements.len() >= 50);
        lrange.push_time(asked.elapsed());
    }
    for (number, messages) in stored.into_iter().enumerate() {
        report.measured(
            "turn",
            &format!("first text, {messages} messages stored"),
            "µs",
            &first[number],
        );
        report.measured(
            "turn",
            &format!("whole turn, {messages} messages stored"),
            "µs",
            &whole[number],
        );
    }
    report.measured(
        "turn",
        "the upstream alone, first text",
        "µs",
        &upstream_first,
    );
    report.measured(
        "turn",
        "the upstream alone, whole reply",
        "µs",
        &upstream_whole,
    );
    report.measured("turn", "a bare LRANGE of 50 messages", "µs", &lrange);
    report.measured(
        "turn",
        "a delta, from the upstream's write to the platform",
        "µs",
        &gap,
    );
    report.measured("turn", "CPU a turn, 50 messages stored", "µs", &cpu);
    let over = first[1].median() - upstream_first.median();
    report.single(
        "turn",
        "first text over the upstream's own, 50 messages",
        "µs",
        over,
    );
    let bare = lrange.median() + upstream_first.median();
    report.single(
        "turn",
        "… over (a bare LRANGE + a bare upstream round trip)",
        "x",
        over / bare,
    );
    report.single(
        "turn",
        "peak resident memory, chat-stream",
        "MB",
        process::memory(chat.pid(), "VmHWM") / 1024.0,
    );
}

/// Load and commit, against the bare commands by the same client.
async fn memory_operations(report: &mut Report, effort: Effort) {
    heading("Memory operations against the bare commands");
    let server = Server::start().await;
    let url = server.url();
    let lookup = |name: &str| (name == "REDIS_URL").then(|| url.clone());
    let redis_config = RedisConfig::from_lookup(&lookup).expect("valid");
    let memory = Memory::new(
        &redis_config,
        &MemoryConfig::from_lookup(&lookup).expect("valid"),
        &Secrets::new(),
    )
    .expect("valid");
    let user = UserId::parse("u50").expect("valid");
    let character = CharacterId::parse("luna").expect("valid");
    let client = redis::Client::open(server.url()).expect("valid");
    let mut bare = client
        .get_multiplexed_async_connection()
        .await
        .expect("Redis answers");
    let (mut load, mut lrange, mut commit, mut pipeline) = (
        Series::default(),
        Series::default(),
        Series::default(),
        Series::default(),
    );
    for _ in 0..effort.turns * 3 {
        store(&server, "u50", 50).await;
        let asked = Instant::now();
        let elements: Vec<Vec<u8>> = redis::cmd("LRANGE")
            .arg(&["chat:u50:luna:messages", "0", "49"])
            .query_async(&mut bare)
            .await
            .expect("answers");
        lrange.push_time(asked.elapsed());
        assert_eq!(elements.len(), 50);

        let asked = Instant::now();
        let history = memory
            .load(&user, &character, 50)
            .await
            .expect("Redis is up");
        load.push_time(asked.elapsed());

        let turn = Turn {
            id: TurnId::new(),
            began: history.read_at,
            user: Message::new(Role::User, "你好".into(), 0, 2),
            assistant: Message::new(Role::Assistant, "你好呀，今天过得怎么样？".into(), 0, 12),
        };
        // What the Python service sends: one transaction of a push for each message, trim, expiry and figures.
        let mut transaction = redis::pipe();
        transaction.atomic();
        for message in [&turn.user, &turn.assistant] {
            transaction
                .cmd("LPUSH")
                .arg("chat:peer:luna:messages")
                .arg(message.to_json());
        }
        transaction
            .cmd("LTRIM")
            .arg(&["chat:peer:luna:messages", "0", "99"]);
        transaction
            .cmd("EXPIRE")
            .arg(&["chat:peer:luna:messages", "86400"]);
        transaction.cmd("HSET").arg(&[
            "chat:peer:luna:meta",
            "state",
            "ACTIVE",
            "last_active_at",
            "1732430000",
        ]);
        transaction
            .cmd("HINCRBY")
            .arg(&["chat:peer:luna:meta", "message_count", "2"]);
        transaction
            .cmd("HINCRBY")
            .arg(&["chat:peer:luna:meta", "total_tokens", "14"]);
        transaction
            .cmd("EXPIRE")
            .arg(&["chat:peer:luna:meta", "86400"]);
        let asked = Instant::now();
        let _: redis::Value = transaction.query_async(&mut bare).await.expect("answers");
        pipeline.push_time(asked.elapsed());

        let asked = Instant::now();
        memory
            .commit_turn(&user, &character, &turn)
            .await
            .expect("Redis is up");
        commit.push_time(asked.elapsed());
    }
    report.measured("memory", "load, 50 messages", "µs", &load);
    report.measured("memory", "a bare LRANGE", "µs", &lrange);
    report.single(
        "memory",
        "load / LRANGE",
        "x",
        load.median() / lrange.median(),
    );
    report.measured("memory", "commit of a turn", "µs", &commit);
    report.measured(
        "memory",
        "the Python service's transaction",
        "µs",
        &pipeline,
    );
    report.single(
        "memory",
        "commit / transaction",
        "x",
        commit.median() / pipeline.median(),
    );
}

/// From the start of the process, at full speed and at shares of a CPU.
async fn cold_starts(report: &mut Report, effort: Effort) {
    heading("Cold start");
    let redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
    let empty = empty_function();
    let event = events::chat(&token("u50"), "luna", "你好");
    for (name, share) in [
        ("full speed", 1.0),
        ("1/3.5 CPU (512 MB)", 1.0 / 3.5),
        ("1/7 CPU (256 MB)", 1.0 / 7.0),
        ("1/14 CPU (128 MB)", 1.0 / 14.0),
    ] {
        let group = (share < 1.0).then(|| Cgroup::new(share)).flatten();
        if share < 1.0 && group.is_none() {
            println!("  {name}: this machine has no cgroup that can be written");
            continue;
        }
        let held = |builder: FunctionBuilder| match &group {
            Some(group) => builder.cgroup(group.processes()),
            None => builder,
        };
        let (mut to_next, mut empty_to_next, mut to_text, mut warm) = (
            Series::default(),
            Series::default(),
            Series::default(),
            Series::default(),
        );
        for _ in 0..effort.starts {
            store(&redis, "u50", 50).await;
            let function = held(chat_stream(&redis, &upstream)).start().await;
            to_next.push_time(function.started_to_next());
            let cold = function.invoke(&event).await;
            to_text.push_time(first_text(&cold));
            for _ in 0..5 {
                warm.push_time(first_text(&function.invoke(&event).await));
            }
            drop(function);
            if let Some(empty) = &empty {
                let function = held(Function::builder_of(empty.clone())).start().await;
                empty_to_next.push_time(function.started_to_next());
            }
        }
        report.measured(
            "cold",
            &format!("{name}: process start to first next"),
            "µs",
            &to_next,
        );
        if empty.is_some() {
            report.measured(
                "cold",
                &format!("{name}: the same, an empty function"),
                "µs",
                &empty_to_next,
            );
            report.single(
                "cold",
                &format!("{name}: ratio"),
                "x",
                to_next.median() / empty_to_next.median(),
            );
        }
        report.measured(
            "cold",
            &format!("{name}: first turn, to its first text"),
            "µs",
            &to_text,
        );
        let over = (to_text.median() - warm.median()) / 1_000.0;
        report.single(
            "cold",
            &format!("{name}: first turn over a warm one"),
            "ms",
            over,
        );
    }
}

/// An lambda_http function that does nothing, if it was built beside this benchmark.
fn empty_function() -> Option<PathBuf> {
    let path = binary("examples").join("empty");
    path.exists().then_some(path)
}

/// A share of a CPU, by the kernel's bandwidth control; removed on drop.
struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    fn new(share: f64) -> Option<Self> {
        let path = PathBuf::from(format!(
            "/sys/fs/cgroup/cpu/companion-chat-bench-{}",
            std::process::id()
        ));
        std::fs::create_dir(&path).ok()?;
        let group = Self { path };
        let period = 20_000.0;
        std::fs::write(group.path.join("cpu.cfs_period_us"), format!("{period}")).ok()?;
        std::fs::write(
            group.path.join("cpu.cfs_quota_us"),
            format!("{:.0}", period * share),
        )
        .ok()?;
        Some(group)
    }

    fn processes(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It can only be removed once its processes are gone, and they are: their owners wait for them.
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// One process, many streams: 20 deltas a second each.
async fn many_at_once(report: &mut Report, effort: Effort) {
    heading("Many streams in one process, 20 deltas a second each");
    for streams in effort.streams {
        let redis = Server::start().await;
        let script = Script::deltas(&["x"; 40])
            .paced(Duration::from_millis(50))
            .finish("stop")
            .usage(1, 40)
            .done();
        let upstream = Upstream::start(script).await;
        let chat = chat_stream(&redis, &upstream)
            .concurrency(*streams)
            .start()
            .await;
        // Connections and code are warm after this.
        chat.invoke(&events::chat(&token("warm"), "luna", "你好"))
            .await;
        let idle = process::memory(chat.pid(), "VmRSS");
        let cpu = process::cpu_time(chat.pid());
        let turns: Vec<_> = (0..*streams)
            .map(|user| events::chat(&token(&format!("u{user}")), "luna", "你好"))
            .collect();
        let answers = join_all(turns.iter().map(|event| chat.invoke(event))).await;
        // Deltas leave the upstream 50 ms apart; what the client sees beyond that was added on the way.
        let mut added = Series::default();
        for answer in &answers {
            assert_eq!(answer.last()["saved"], true);
            let times: Vec<Instant> = answer
                .events()
                .iter()
                .filter(|event| event.event == "message")
                .map(|event| event.at)
                .collect();
            for pair in times.windows(2).take(39) {
                let between = pair[1] - pair[0];
                added.push_time(between.saturating_sub(Duration::from_millis(50)));
            }
        }
        let used = process::cpu_time(chat.pid()).saturating_sub(cpu);
        let grown = (process::memory(chat.pid(), "VmHWM") - idle).max(0.0);
        report.measured(
            "streams",
            &format!("{streams}: added between two deltas"),
            "µs",
            &added,
        );
        report.single(
            "streams",
            &format!("{streams}: the same, 99th percentile"),
            "µs",
            added.quantile(0.99),
        );
        report.single(
            "streams",
            &format!("{streams}: memory a stream"),
            "kB",
            grown / *streams as f64,
        );
        report.single(
            "streams",
            &format!("{streams}: CPU a stream"),
            "ms",
            used.as_secs_f64() * 1e3 / *streams as f64,
        );
    }
}

fn binaries(report: &mut Report) {
    heading("Binaries");
    for name in ["chat-stream", "clear-history", "session-meta"] {
        let path = binary(name);
        let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        report.single("binary", name, "MB", size as f64 / 1e6);
        let zipped = std::process::Command::new("gzip")
            .args(["-9", "-c"])
            .arg(&path)
            .output();
        if let Ok(zipped) = zipped {
            report.single(
                "binary",
                &format!("{name}, zipped"),
                "MB",
                zipped.stdout.len() as f64 / 1e6,
            );
        }
    }
}

/// Any service of the same shape: `PEER=http://127.0.0.1:8090`.
async fn peer_turns(report: &mut Report, peer: &str, effort: Effort) {
    heading(&format!("The peer at {peer}"));
    let host = peer.trim_start_matches("http://").trim_end_matches('/');
    let mut client = Raw::connect(host).await;
    let (mut first, mut whole) = (Series::default(), Series::default());
    let body = json!({ "character_id": "luna", "message": "你好" }).to_string();
    for _ in 0..effort.turns {
        let (begun, ended) = client
            .post("/api/v1/chat/stream", &token("peer"), &body)
            .await;
        first.push_time(begun);
        whole.push_time(ended);
    }
    report.measured("peer", "first text", "µs", &first);
    report.measured("peer", "whole turn", "µs", &whole);
}
