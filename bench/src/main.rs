//! `make bench`: the cost of a turn in time, CPU and memory. Everything but the upstream is real, and everything is on
//! loopback.
//!
//! Each figure is a median with the range of the middle 80%. Runs that are compared with each other are interleaved,
//! and each comparison is a ratio within one run. `BENCH_QUICK=1` runs everything a few times, to check that it works;
//! its figures mean nothing. `BENCH_ONLY=turn,cold` measures these groups only, and
//! `BENCH_STREAMS=1000,5000` these numbers of concurrent streams.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a tool that prints, and whose failures are the benchmark's"
)]

mod alone;
mod binaries;
mod card;
mod cgroup;
mod cold;
mod instructions;
mod lists;
mod machine;
mod memory;
mod peers;
mod process;
mod quickest;
mod raw;
mod record;
mod report;
mod small;
mod streams;
mod tokenizer;
mod turns;

use std::path::PathBuf;
use std::time::Duration;

use shared::message::{Message, Role};
use testkit::answer::Answer;
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tls::TlsServer;
use testkit::tokens::secret;
use testkit::upstream::{Front, Script, Step, Upstream};

use self::report::Report;

const DELTAS: usize = 50;
const PACE: Duration = Duration::from_millis(5);
const AFTER_FIRST_WORDS: Duration = Duration::from_millis(3);

const GROUPS: [&str; 14] = [
    "alone",
    "turn",
    "peak",
    "record",
    "card",
    "memory",
    "lists",
    "cold",
    "small",
    "streams",
    "binary",
    "tokenizer",
    "instructions",
    "peer",
];

/// The number of repetitions.
#[derive(Clone, Copy)]
struct Effort {
    turns: usize,
    starts: usize,
    /// For figures of which one process gives one sample.
    processes: usize,
    streams: &'static [usize],
}

#[tokio::main]
async fn main() {
    if tokenizer::measured_here() || quickest::was_here() {
        return;
    }
    if std::env::var_os("BENCH_INSTRUCTIONS").is_some() {
        instructions::check().await;
        return;
    }
    let quick = std::env::var_os("BENCH_QUICK").is_some();
    let effort = if quick {
        Effort {
            turns: 5,
            starts: 2,
            processes: 1,
            streams: &[1, 10],
        }
    } else {
        Effort {
            turns: 300,
            starts: 20,
            processes: 3,
            streams: &[1, 100, 1_000],
        }
    };
    let streams = listed("BENCH_STREAMS");
    let streams: Vec<usize> = streams.iter().map(|number| counted(number)).collect();
    let effort = match streams.as_slice() {
        [] => effort,
        _ => Effort {
            streams: streams.leak(),
            ..effort
        },
    };
    let only = listed("BENCH_ONLY");
    for name in &only {
        assert!(
            GROUPS.contains(&name.as_str()),
            "BENCH_ONLY={name}: one of {GROUPS:?}"
        );
    }
    let wanted = |group: &str| only.is_empty() || only.iter().any(|name| name == group);
    let descriptors = shared::capacity::raised_descriptor_limit();
    println!("At most {descriptors} descriptors may be open at once, here and in each function");
    let mut report = Report::default();
    if wanted("alone") {
        alone::stand_ins(&mut report, effort).await;
    }
    if wanted("turn") {
        turns::turns(&mut report, effort).await;
        turns::gap(&mut report, effort).await;
        turns::whole_answers(&mut report, effort).await;
    }
    if wanted("peak") {
        turns::peaks(&mut report, effort).await;
    }
    if wanted("record") {
        record::record(&mut report, effort).await;
    }
    if wanted("card") {
        card::cards(&mut report, effort).await;
    }
    if wanted("memory") {
        memory::operations(&mut report, effort).await;
    }
    if wanted("lists") {
        lists::lists(&mut report, effort).await;
    }
    if wanted("cold") {
        cold::starts(&mut report, effort).await;
    }
    if wanted("small") {
        small::shares(&mut report, effort).await;
    }
    if wanted("streams") {
        streams::many_at_once(&mut report, effort).await;
    }
    if wanted("binary") {
        binaries::binaries(&mut report);
    }
    if wanted("tokenizer") {
        tokenizer::tokenizer(&mut report, effort.starts);
    }
    // Valgrind and packages from PyPI take minutes.
    if wanted("instructions") && !quick {
        instructions::measure(&mut report).await;
    }
    if wanted("peer") && !quick {
        peers::peers(&mut report, effort).await;
    }
    let path = std::env::var("BENCH_JSON");
    let path = match path.ok().filter(|path| !path.is_empty()) {
        Some(path) => path,
        None if only.is_empty() && !quick => {
            concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench.json").into()
        }
        // A part or a trial run does not replace the figures of a whole run.
        None => return,
    };
    std::fs::write(&path, report.json(&machine::machine(quick))).expect("the file can be written");
    println!("\nAll figures: {path}");
}

/// Returns the parts of a setting that is a list.
fn listed(name: &str) -> Vec<String> {
    let list = std::env::var(name).unwrap_or_default();
    let parts = list.split(',').filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

fn counted(streams: &str) -> usize {
    let number = streams.parse().ok().filter(|number| *number > 0);
    number.unwrap_or_else(|| panic!("BENCH_STREAMS: {streams} is not a number of streams"))
}

/// Returns the reply of an upstream that sends as fast as possible, except for a pause after the first delta. The
/// upstream may share two CPUs with the platform and the function; without the pause it could keep the platform from
/// reading that delta.
fn reply() -> Script {
    begun_at_once(DELTAS, AFTER_FIRST_WORDS, Duration::ZERO)
}

/// Returns a reply of some deltas. The upstream sends the first at once, the second after a pause, and the others with
/// another pause before each.
fn begun_at_once(deltas: usize, second_after: Duration, then_each: Duration) -> Script {
    let pause = |script: Script, time: Duration| match time {
        Duration::ZERO => script,
        _ => script.then(Step::Delay(time)),
    };
    let second = pause(Script::deltas(&["x"]), second_after).then_delta("x");
    (2..deltas)
        .fold(second, |script, _| pause(script, then_each).then_delta("x"))
        .finish("stop")
        .usage(310, deltas)
        .done()
}

fn chat_stream(redis: &Server, upstream: &Upstream) -> FunctionBuilder {
    settings(Function::builder("chat-stream"), redis, upstream)
}

/// Returns `chat-stream` with TLS to Redis and to the model, each with an authority of its own.
fn chat_stream_by_tls(redis: &TlsServer, upstream: &Upstream, model: &Front) -> FunctionBuilder {
    let path = |file: PathBuf| file.display().to_string();
    chat_stream(redis.server(), upstream)
        .env("REDIS_URL", redis.url())
        .env("REDIS_TLS_CA_FILE", path(redis.ca_file()))
        .env("LLM_BASE_URL", format!("https://{}/v1", model.address()))
        .env("LLM_TLS_CA_FILE", path(model.ca_file()))
}

/// Returns the reply of an upstream whose deltas arrive separately.
fn paced_reply() -> Script {
    Script::deltas(&["x"; DELTAS])
        .paced(PACE)
        .finish("stop")
        .usage(310, DELTAS)
        .done()
}

/// Adds the settings of every measured chat: as deployed, with logs and metrics.
fn settings(builder: FunctionBuilder, redis: &Server, upstream: &Upstream) -> FunctionBuilder {
    builder
        .env("REDIS_URL", redis.url())
        .env("JWT_SECRET", secret())
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

/// The character of all turns that are measured, but for those of the group `card`: one system prompt, as other services
/// have it.
const PLAIN: &str = r#"{"name":"Luna","system_prompt":"你是 Luna，一位温柔细腻的陪伴者。你住在海边的小镇，喜欢夜晚、月亮和慢慢讲故事。你记得对方说过的话，会自然地提起；你先倾听，再回应，语气柔软而真诚，回答简短，像在身边聊天一样。","temperature":0.8,"max_tokens":800}"#;

/// Replaces the session with luna by one with this many messages.
async fn store(redis: &Server, user: &str, messages: usize) {
    redis
        .command::<Option<String>>(&["SET", "character:luna", PLAIN, "NX"])
        .await;
    store_with(redis, user, "luna", messages).await;
}

/// Replaces a session by one with this many messages. Few commands suffice: while the function waits, its caches get
/// cold.
async fn store_with(redis: &Server, user: &str, character: &str, messages: usize) {
    let key = format!("chat:{user}:{character}:messages");
    let meta = format!("chat:{user}:{character}:meta");
    redis.command::<i64>(&["DEL", &key, &meta]).await;
    let elements = (0..messages).map(|number| {
        let (role, content) = if number % 2 == 0 {
            (Role::User, "今天过得怎么样？")
        } else {
            (Role::Assistant, "还不错，刚刚在海边散步，风很轻。你呢？")
        };
        let content = format!("{content}{}", number / 2);
        Message::new(role, content, 1_732_430_000, 20).to_json()
    });
    let elements: Vec<String> = elements.collect();
    let mut push = vec!["LPUSH", &key];
    push.extend(elements.iter().map(String::as_str));
    if messages > 0 {
        redis.command::<i64>(&push).await;
    }
}

/// Returns the path of a lambda_http function that does nothing, if it was built.
fn empty_function() -> Option<PathBuf> {
    let path = testkit::binary::binary("examples").join("empty");
    path.exists().then_some(path)
}
