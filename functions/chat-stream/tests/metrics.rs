//! Metrics, as CloudWatch would read them from what the real binaries print: one event an invocation, whatever becomes of it.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::emf::{self, Sample};
use testkit::events::{self, Event};
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tokens::{secret, token};
use testkit::upstream::{Gate, Script, Step, Upstream};

const OPERATIONS: &str = "short_memory_operations_total";
const LATENCY: &str = "short_memory_latency_seconds";
const DEGRADATION: &str = "short_memory_degradation_total";

/// Each takes a few values only. CloudWatch bills every combination, so an id of anybody must be none of them.
const DIMENSIONS: [&str; 6] = [
    "function",
    "status",
    "operation",
    "result",
    "reason",
    "code",
];
/// Logs are billed by what is written.
const MOST_LINES_A_TURN: usize = 10;

fn function(name: &str, redis: &Server) -> FunctionBuilder {
    Function::builder(name)
        .env("REDIS_URL", redis.url())
        .env("JWT_SECRET", secret())
}

fn chat(redis: &Server, upstream: &Upstream) -> FunctionBuilder {
    function("chat-stream", redis)
        .envs(upstream.env())
        .env("LLM_MAX_RETRIES", "0")
}

fn said(message: &str) -> Value {
    events::chat(&token("alice"), "luna", message)
}

fn reply() -> Script {
    Script::reply(&["海风", "很轻"])
}

/// Values of metrics.
struct Told(Vec<Sample>);

impl Told {
    #[track_caller]
    fn by(function: Function) -> Self {
        let samples = emf::samples(&function.stop());
        for sample in &samples {
            for name in sample.dimensions.keys() {
                assert!(DIMENSIONS.contains(&name.as_str()), "{name} of {sample:?}");
            }
        }
        Self(samples)
    }

    fn values(&self, name: &str, dimensions: &[(&str, &str)]) -> Vec<f64> {
        emf::values(&self.0, name, dimensions)
    }

    #[track_caller]
    fn assert(&self, name: &str, dimensions: &[(&str, &str)], values: &[f64]) {
        assert_eq!(
            self.values(name, dimensions),
            values,
            "{name} {dimensions:?} of {:#?}",
            self.0
        );
    }

    #[track_caller]
    fn assert_operations(&self, operation: &str, status: &str, times: usize) {
        let dimensions = [("operation", operation), ("status", status)];
        self.assert(OPERATIONS, &dimensions, &vec![1.0; times]);
    }

    #[track_caller]
    fn assert_requests(&self, function: &str, status: &str, times: usize) {
        let dimensions = [("function", function), ("status", status)];
        self.assert("requests_total", &dimensions, &vec![1.0; times]);
    }

    /// That there are so many values of a metric in all, whatever their dimensions.
    #[track_caller]
    fn assert_in_all(&self, name: &str, times: usize) {
        let all = self.0.iter().filter(|sample| sample.name == name);
        assert_eq!(all.count(), times, "{name} of {:#?}", self.0);
    }
}

#[tokio::test]
async fn a_healthy_turn_tells_each_figure_once() {
    let redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
    let chat = chat(&redis, &upstream).start().await;
    assert_eq!(chat.invoke(&said("今天的晚霞")).await.last()["saved"], true);
    assert_eq!(chat.invoke(&said("今天的晚霞")).await.last()["saved"], true);
    let told = Told::by(chat);

    told.assert_requests("chat-stream", "200", 2);
    told.assert_in_all("requests_total", 2);
    told.assert("cold_starts_total", &[("function", "chat-stream")], &[1.0]);
    told.assert_operations("load", "success", 2);
    told.assert_operations("commit", "success", 2);
    // The second turn has a copy.
    told.assert_operations("character", "success", 1);
    told.assert_in_all(OPERATIONS, 5);
    for operation in ["load", "commit"] {
        let latency = told.values(LATENCY, &[("operation", operation)]);
        assert!(latency.len() == 2 && latency.iter().all(|seconds| *seconds > 0.0));
    }
    told.assert("short_memory_messages", &[], &[0.0, 2.0]);
    told.assert("short_memory_breaker_open", &[], &[0.0, 0.0]);
    told.assert_in_all(DEGRADATION, 0);
    told.assert("commits_total", &[("result", "saved")], &[1.0, 1.0]);
    told.assert("turns_total", &[], &[1.0, 1.0]);
    told.assert("prompt_tokens", &[], &[310.0, 310.0]);
    told.assert("completion_tokens", &[], &[2.0, 2.0]);
    told.assert_in_all("upstream_errors_total", 0);
    let (first, whole) = (
        told.values("first_delta_seconds", &[]),
        told.values("reply_seconds", &[]),
    );
    assert_eq!((first.len(), whole.len()), (2, 2));
    assert!(first.iter().zip(&whole).all(|(first, whole)| first < whole));

    let unit = |name: &str| {
        let sample = told.0.iter().find(|sample| sample.name == name);
        sample.expect("it is told").unit.clone()
    };
    assert_eq!(
        (unit(LATENCY), unit(OPERATIONS)),
        ("Seconds".into(), "Count".into())
    );
    assert_eq!(
        (unit("reply_seconds"), unit("prompt_tokens")),
        ("Seconds".into(), "Count".into())
    );
    assert!(
        told.0
            .iter()
            .all(|sample| sample.namespace == "CompanionChat")
    );
}

#[tokio::test]
async fn the_number_of_stored_messages_is_not_limited_by_what_a_turn_reads_of_them() {
    let redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
    let chat = chat(&redis, &upstream)
        .env("CONTEXT_MAX_MESSAGES", "2")
        .start()
        .await;
    for _ in 0..3 {
        chat.invoke(&said("今天的晚霞")).await;
    }
    Told::by(chat).assert("short_memory_messages", &[], &[0.0, 2.0, 4.0]);
}

#[tokio::test]
async fn first_delta_and_reply_are_measured_to_the_client_and_to_the_end() {
    let redis = Server::start().await;
    let pause = Duration::from_millis(300);
    let late = Script::raw(vec![Step::Delay(pause)])
        .then_delta("海风")
        .then(Step::Delay(pause))
        .finish("stop")
        .done();
    let upstream = Upstream::start(late).await;
    let chat = chat(&redis, &upstream).start().await;
    let answer = chat.invoke(&said("今天的晚霞")).await;
    let seen = answer.events()[1].at - answer.handed_over;
    let told = Told::by(chat);
    let first = told.values("first_delta_seconds", &[]);
    let whole = told.values("reply_seconds", &[]);
    assert!(
        matches!(first.as_slice(), [first] if (0.3..=seen.as_secs_f64()).contains(first)),
        "{first:?}, and the client saw it after {seen:?}"
    );
    assert!(
        matches!(whole.as_slice(), [whole] if *whole >= 0.6),
        "{whole:?}"
    );
}

#[tokio::test]
async fn a_redis_that_refuses_is_a_failure_then_an_open_breaker() {
    let mut redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
    redis.kill().await;
    let chat = chat(&redis, &upstream).start().await;
    for _ in 0..2 {
        assert_eq!(
            chat.invoke(&said("今天的晚霞")).await.last()["saved"],
            false
        );
    }
    let told = Told::by(chat);
    told.assert_operations("load", "failure", 2);
    told.assert_operations("commit", "failure", 2);
    told.assert("commits_total", &[("result", "failed")], &[1.0, 1.0]);
    told.assert("short_memory_breaker_open", &[], &[1.0, 1.0]);
    // Once a turn, though neither its load nor its commit could be done.
    told.assert(DEGRADATION, &[], &[1.0, 1.0]);
    told.assert(DEGRADATION, &[("reason", "connection")], &[1.0]);
    told.assert(DEGRADATION, &[("reason", "breaker_open")], &[1.0]);
    told.assert_in_all("short_memory_messages", 0);
    told.assert_requests("chat-stream", "200", 2);
}

#[tokio::test]
async fn a_redis_that_stands_still_is_a_timeout_of_the_whole_budget() {
    let redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
    let chat = chat(&redis, &upstream)
        .env("MEMORY_READ_TIMEOUT_MS", "300")
        .start()
        .await;
    chat.invoke(&said("今天的晚霞")).await;
    redis.pause();
    assert_eq!(
        chat.invoke(&said("今天的晚霞")).await.start()["memory"],
        "unavailable"
    );
    redis.resume();
    let told = Told::by(chat);
    told.assert_operations("load", "success", 1);
    told.assert_operations("load", "timeout", 1);
    let latency = told.values(LATENCY, &[("operation", "load")]);
    assert!(
        matches!(latency.as_slice(), [_, whole] if *whole >= 0.3),
        "{latency:?}"
    );
    told.assert(DEGRADATION, &[("reason", "timeout")], &[1.0]);
    told.assert("short_memory_breaker_open", &[], &[0.0, 1.0]);
}

#[tokio::test]
async fn a_commit_is_told_by_its_result() {
    let redis = Server::start().await;
    let gate = Gate::new();
    let held = Script::deltas(&["海风"])
        .then(Step::Wait(gate.clone()))
        .finish("stop")
        .done();
    let upstream = Upstream::start_sequence(vec![held, reply()]).await;
    let talkative = chat(&redis, &upstream).start().await;
    let clear = function("clear-history", &redis).start().await;
    let mut fenced = talkative.invoke_streaming(&said("今天的晚霞")).await;
    assert_eq!(fenced.next_event().await.expect("start").event, "start");
    let cleared = clear.invoke(&events::clear(&token("alice"), "luna")).await;
    assert_eq!(cleared.status, 200);
    gate.open();
    assert_eq!(fenced.finish().await.last()["saved"], false);
    for setting in [["maxmemory-policy", "noeviction"], ["maxmemory", "1"]] {
        let [name, value] = setting;
        let _: () = redis.command(&["CONFIG", "SET", name, value]).await;
    }
    assert_eq!(
        talkative.invoke(&said("今天的晚霞")).await.last()["saved"],
        false
    );
    let told = Told::by(talkative);
    told.assert("commits_total", &[("result", "fenced")], &[1.0]);
    told.assert("commits_total", &[("result", "failed")], &[1.0]);
    told.assert_in_all("commits_total", 2);
    // Clearing is what the user wanted; a server that is full is not.
    told.assert(DEGRADATION, &[], &[1.0]);
    told.assert(DEGRADATION, &[("reason", "refused")], &[1.0]);
    told.assert("short_memory_breaker_open", &[], &[0.0, 0.0]);

    let told = Told::by(clear);
    told.assert_operations("clear", "success", 1);
    told.assert_requests("clear-history", "200", 1);
    told.assert_in_all("turns_total", 0);
}

#[tokio::test]
async fn a_commit_that_was_stored_before_is_a_duplicate() {
    let redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
    let directory = tempfile::tempdir().expect("a directory");
    let script = directory.path().join("commit.lua");
    std::fs::write(&script, "return 'duplicate'").expect("written");
    let chat = chat(&redis, &upstream)
        .env("BROKEN_COMMIT_SCRIPT", script.to_str().expect("UTF-8"))
        .start()
        .await;
    assert_eq!(chat.invoke(&said("今天的晚霞")).await.last()["saved"], true);
    Told::by(chat).assert("commits_total", &[("result", "duplicate")], &[1.0]);
}

#[tokio::test]
async fn an_upstream_error_is_told_by_its_code() {
    let redis = Server::start().await;
    let upstream = Upstream::start_sequence(vec![
        Script::status(503, "{}"),
        Script::status(400, "{}"),
        Script::raw(vec![Step::Silence]),
        Script::deltas(&["海风", "很轻"]).then_cut(),
    ])
    .await;
    let chat = chat(&redis, &upstream)
        .env("LLM_FIRST_TOKEN_TIMEOUT_MS", "300")
        .start()
        .await;
    let codes =
        ["unavailable", "rejected", "timeout", "interrupted"].map(|c| format!("upstream_{c}"));
    for code in &codes {
        assert_eq!(
            chat.invoke(&said("今天的晚霞")).await.last()["code"],
            code.as_str()
        );
    }
    let told = Told::by(chat);
    for code in &codes {
        told.assert("upstream_errors_total", &[("code", code)], &[1.0]);
    }
    told.assert("upstream_errors_total", &[], &[1.0; 4]);
    told.assert("turns_total", &[], &[1.0; 4]);
    told.assert_requests("chat-stream", "200", 4);
    // Only one of them said anything.
    told.assert("commits_total", &[("result", "saved")], &[1.0]);
    for name in ["prompt_tokens", "completion_tokens", "first_delta_seconds"] {
        told.assert_in_all(name, 1);
    }
    told.assert_in_all(DEGRADATION, 0);
}

#[tokio::test]
async fn a_refusal_is_told_by_its_status_and_is_no_turn() {
    let redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
    let chat = chat(&redis, &upstream).start().await;
    let body = |character: &str, message: &str| {
        let body = json!({ "character_id": character, "message": message });
        Event::stream().token(&token("alice")).json(&body)
    };
    let damaged = r#"{"name":"Mei","system_prompt":7}"#;
    let _: () = redis.command(&["SET", "character:damaged", damaged]).await;
    let refusals = [
        (401, events::chat("nobody", "luna", "今天的晚霞")),
        (405, Event::new("PUT", "/api/v1/chat/stream").http()),
        (413, body("luna", &"x".repeat(70_000)).http()),
        (
            415,
            body("luna", "今天的晚霞")
                .header("content-type", "text/plain")
                .http(),
        ),
        (422, body("luna", " ").http()),
        (404, body("somebody", "今天的晚霞").http()),
        (500, body("damaged", "今天的晚霞").http()),
    ];
    for (status, event) in &refusals {
        assert_eq!(chat.invoke(event).await.status, *status);
    }
    let told = Told::by(chat);
    for (status, _) in &refusals {
        told.assert_requests("chat-stream", &status.to_string(), 1);
    }
    told.assert_in_all("requests_total", refusals.len());
    told.assert("cold_starts_total", &[("function", "chat-stream")], &[1.0]);
    for name in ["turns_total", "reply_seconds", "commits_total", DEGRADATION] {
        told.assert_in_all(name, 0);
    }
}

#[tokio::test]
async fn sessions_and_clears_tell_what_memory_did() {
    let mut redis = Server::start().await;
    let session = function("session-meta", &redis).start().await;
    let clear = function("clear-history", &redis).start().await;
    let alice = token("alice");
    assert_eq!(
        session
            .invoke(&events::session(&alice, "luna"))
            .await
            .status,
        404
    );
    let set = events::set_state(&alice, "luna", "ENDED");
    assert_eq!(session.invoke(&set).await.status, 404);
    redis.kill().await;
    assert_eq!(session.invoke(&set).await.status, 503);
    assert_eq!(
        clear.invoke(&events::clear(&alice, "luna")).await.status,
        503
    );
    let told = Told::by(session);
    told.assert_operations("session", "success", 1);
    told.assert_operations("set_state", "success", 1);
    told.assert_operations("set_state", "failure", 1);
    told.assert_requests("session-meta", "404", 2);
    told.assert_requests("session-meta", "503", 1);
    told.assert("cold_starts_total", &[("function", "session-meta")], &[1.0]);
    told.assert("short_memory_breaker_open", &[], &[0.0, 0.0, 1.0]);
    let told = Told::by(clear);
    told.assert_operations("clear", "failure", 1);
    told.assert_requests("clear-history", "503", 1);
    told.assert_in_all(DEGRADATION, 0);
}

#[tokio::test]
async fn a_panic_in_a_turn_is_told_like_any_end() {
    let redis = Server::start().await;
    let chat = function("chat-stream", &redis)
        .env("LLM_PROVIDER", "echo")
        .start()
        .await;
    assert_eq!(
        chat.invoke(&said("/panic")).await.last()["code"],
        "internal"
    );
    let told = Told::by(chat);
    told.assert("turns_total", &[], &[1.0]);
    told.assert_requests("chat-stream", "200", 1);
    told.assert_operations("load", "success", 1);
    for name in ["commits_total", "upstream_errors_total", "reply_seconds"] {
        told.assert_in_all(name, 0);
    }
}

#[tokio::test]
async fn a_turn_whose_client_left_is_told_when_it_ends() {
    let redis = Server::start().await;
    let gate = Gate::new();
    let upstream = Upstream::start(reply().gated(gate.clone())).await;
    let chat = chat(&redis, &upstream).start().await;
    let mut left = chat.invoke_streaming(&said("今天的晚霞")).await;
    assert_eq!(left.next_event().await.expect("start").event, "start");
    left.drop_connection();
    chat.wait_idle().await;
    assert_eq!(emf::samples(&chat.output()), []);
    gate.open();
    // Its line in the log comes last.
    let told = tokio::time::timeout(Duration::from_secs(10), async {
        while !chat.output().contains("\"request\"") {
            tokio::task::yield_now().await;
        }
    });
    told.await.expect("it ends");
    let told = Told::by(chat);
    told.assert("commits_total", &[("result", "saved")], &[1.0]);
    told.assert("turns_total", &[], &[1.0]);
    told.assert_requests("chat-stream", "200", 1);
}

#[tokio::test]
async fn metrics_can_be_switched_off_and_kept_under_another_name() {
    let redis = Server::start().await;
    for name in ["chat-stream", "session-meta", "clear-history"] {
        let ready = |setting: &str, value: &str| {
            function(name, &redis)
                .env("LLM_PROVIDER", "echo")
                .env(setting, value)
        };
        let silent = ready("METRICS", "off").start().await;
        let renamed = ready("METRICS_NAMESPACE", "Another/Name").start().await;
        let nobody = Event::get("/").http();
        silent.invoke(&nobody).await;
        renamed.invoke(&nobody).await;
        assert_eq!(emf::lines(&silent.stop()).count(), 0, "{name}");
        let told = Told::by(renamed);
        assert!(!told.0.is_empty(), "{name}");
        assert!(
            told.0
                .iter()
                .all(|sample| sample.namespace == "Another/Name")
        );
    }
}

#[tokio::test]
async fn nobody_is_told_of_in_metrics_and_a_turn_takes_few_lines() {
    let redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
    let chat = chat(&redis, &upstream).start().await;
    let answer = chat.invoke(&said("今天的晚霞")).await;
    let turn = answer.start()["turn_id"].as_str().expect("text").to_owned();
    let output = chat.stop();
    let lines = emf::lines(&output).count();
    assert!(
        (1..=MOST_LINES_A_TURN).contains(&lines),
        "{lines}:\n{output}"
    );
    for line in emf::lines(&output) {
        for told in ["alice", "luna", &turn, &answer.request_id] {
            assert!(!line.contains(told), "{told} in {line}");
        }
    }
}
