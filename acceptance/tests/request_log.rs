//! The log: each request has one line, whatever its outcome, and every line contains the id of its request.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use testkit::emf;
use testkit::events::{self, Event};
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tokens::{secret, token};
use testkit::upstream::{Gate, Script, Step, Upstream};
use tokio::time::timeout;

const MORE_THAN_A_PIPE_HOLDS: usize = 200;

const TRACE: &str = "1-5759e988-bd862e3fe1be46a994272793";
/// The first 16 hex digits of the SHA-256 of `alice`.
const ALICE: &str = "2bd806c97f0e00af";

fn function(name: &str, redis: &Server) -> FunctionBuilder {
    Function::builder(name)
        .env("REDIS_URL", redis.url())
        .env("JWT_SECRET", secret())
}

/// All lines that are no metrics. Each is JSON.
fn lines(output: &str) -> Vec<Value> {
    let is_metric = |line: &&str| emf::lines(line).next().is_some();
    output
        .lines()
        .filter(|line| !is_metric(line))
        .map(|line| serde_json::from_str(line).expect(line))
        .collect()
}

fn requests(lines: &[Value]) -> Vec<&Value> {
    lines
        .iter()
        .filter(|line| line["message"] == "request")
        .collect()
}

/// Lines that are said in an invocation are in the runtime's span, which has its id.
fn request_of(line: &Value) -> &str {
    line["span"]["requestId"]
        .as_str()
        .unwrap_or_else(|| panic!("no request id in {line}"))
}

#[tokio::test]
async fn a_turn_is_one_line_with_all_that_may_be_told_of_it() {
    let redis = Server::start().await;
    let upstream = Upstream::start(Script::reply(&["海风", "很轻"])).await;
    let chat = function("chat-stream", &redis)
        .envs(upstream.env())
        .start()
        .await;
    let answer = chat
        .invoke(&events::chat(&token("alice"), "luna", "晚霞像橘子汽水"))
        .await;
    let output = chat.stop();
    let lines = lines(&output);
    let [line] = requests(&lines)[..] else {
        panic!("one line: {output}");
    };
    for (field, value) in [
        ("level", json!("INFO")),
        ("request_id", json!(answer.request_id)),
        ("trace_id", json!(TRACE)),
        ("function", json!("chat-stream")),
        ("method", json!("POST")),
        ("status", json!(200)),
        ("cold_start", json!(true)),
        ("user", json!(ALICE)),
        ("character_id", json!("luna")),
        ("turn_id", answer.start()["turn_id"].clone()),
        ("outcome", json!("stop")),
        ("memory", json!("empty")),
        ("saved", json!(true)),
        ("commit", json!("saved")),
        ("breaker_open", json!(false)),
        ("history_messages", json!(0)),
        ("stored_messages", json!(0)),
        ("prompt_tokens", json!(310)),
        ("completion_tokens", json!(2)),
    ] {
        assert_eq!(line[field], value, "{field} of {line}");
    }
    for field in ["duration_ms", "first_delta_ms", "load_ms", "commit_ms"] {
        assert!(line[field].is_u64(), "{field} of {line}");
    }
    assert!(line.get("degradation").is_none(), "{line}");
    assert_eq!(request_of(line), answer.request_id);
}

#[tokio::test]
async fn every_request_of_every_function_is_one_line() {
    let redis = Server::start().await;
    let alice = token("alice");
    for (name, event, method, status) in [
        (
            "chat-stream",
            events::chat("nobody", "luna", "今天的晚霞"),
            "POST",
            401,
        ),
        (
            "chat-stream",
            events::chat(&alice, "somebody", "今天的晚霞"),
            "POST",
            404,
        ),
        (
            "chat-stream",
            events::chat(&alice, "luna", " "),
            "POST",
            422,
        ),
        ("chat-stream", Event::new("PUT", "/").http(), "other", 405),
        (
            "chat-stream",
            Event::resume()
                .token(&alice)
                .query("character_id", "luna")
                .http(),
            "GET",
            204,
        ),
        (
            "stop-stream",
            Event::stop()
                .token(&alice)
                .query("character_id", "luna")
                .http(),
            "DELETE",
            404,
        ),
        ("stop-stream", Event::stop().http(), "DELETE", 401),
        ("session-meta", events::session(&alice, "luna"), "GET", 404),
        (
            "session-meta",
            events::set_state(&alice, "luna", "ENDED"),
            "PATCH",
            404,
        ),
        (
            "session-meta",
            Event::set_state().token(&alice).http(),
            "PATCH",
            415,
        ),
        (
            "clear-history",
            events::clear(&alice, "luna"),
            "DELETE",
            200,
        ),
        ("clear-history", Event::clear().http(), "DELETE", 401),
    ] {
        let function = function(name, &redis)
            .env("LLM_PROVIDER", "echo")
            .start()
            .await;
        let answer = function.invoke(&event).await;
        assert_eq!(answer.status, status, "{name} {event}");
        let lines = lines(&function.stop());
        let [line] = requests(&lines)[..] else {
            panic!("one line: {lines:?}");
        };
        assert_eq!(line["request_id"], answer.request_id.as_str());
        assert_eq!(
            (&line["function"], &line["method"], &line["status"]),
            (&json!(name), &json!(method), &json!(status))
        );
        let known = ![401, 405].contains(&status);
        assert_eq!(
            line["user"],
            if known { json!(ALICE) } else { Value::Null },
            "{line}"
        );
        assert!(line["duration_ms"].is_u64());
    }
}

#[tokio::test]
async fn what_is_logged_while_a_body_streams_says_whose_request_it_is() {
    for level in ["trace", "warn"] {
        says_whose_request_it_is(level).await;
    }
}

async fn says_whose_request_it_is(level: &str) {
    let mut redis = Server::start().await;
    let gate = Gate::new();
    let cut = Script::deltas(&["海风"])
        .then(Step::Wait(gate.clone()))
        .then(Step::Cut);
    let upstream = Upstream::start(cut).await;
    let chat = function("chat-stream", &redis)
        .envs(upstream.env())
        .env("LOG_LEVEL", level)
        .concurrency(2)
        .start()
        .await;
    let alice = token("alice");
    let mut answers = Vec::new();
    for character in ["luna", "kai"] {
        let event = events::chat(&alice, character, "今天的晚霞");
        let mut answer = chat.invoke_streaming(&event).await;
        assert_eq!(answer.next_event().await.expect("start").event, "start");
        answers.push(answer);
    }
    upstream.wait_for_requests(2).await;
    // From here on all that is said is said while bodies stream.
    redis.kill().await;
    gate.open();
    let ended = join_all(answers.into_iter().map(|answer| answer.finish())).await;
    let output = chat.stop();
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in lines(&output) {
        let message = line["message"].as_str().unwrap_or_default();
        told.entry(request_of(&line).to_owned())
            .or_default()
            .push(message.to_owned());
        if let Some(turn) = line["turn_id"].as_str() {
            let answer = ended
                .iter()
                .find(|answer| answer.start()["turn_id"] == turn)
                .expect("a turn of these");
            assert_eq!(request_of(&line), answer.request_id, "{line}");
        }
    }
    assert_eq!(told.len(), 2, "{output}");
    for answer in &ended {
        let said = &told[&answer.request_id];
        let mut expected = vec!["the turn could not be stored", "the upstream failed"];
        if level == "trace" {
            expected.push("request");
            assert_eq!(said.last().map(String::as_str), Some("request"));
        }
        for message in expected {
            let times = said.iter().filter(|said| *said == message).count();
            assert_eq!(times, 1, "{message} in {said:?}");
        }
    }
}

#[tokio::test]
async fn invocations_at_the_same_time_do_not_mix() {
    const MANY: usize = 10;
    let redis = Server::start().await;
    let gate = Gate::new();
    // Each reply has a length of its own.
    let scripts = (1..=MANY).map(|length| {
        let parts = vec!["好"; length];
        Script::reply(&parts).gated(gate.clone())
    });
    let upstream = Upstream::start_sequence(scripts.collect()).await;
    let chat = function("chat-stream", &redis)
        .envs(upstream.env())
        .concurrency(MANY)
        .start()
        .await;
    let users: Vec<String> = (0..MANY).map(|n| token(&format!("user-{n}"))).collect();
    let invocations = users.iter().map(|user| async {
        let event = events::chat(user, "luna", "今天的晚霞");
        chat.invoke(&event).await
    });
    let opening = async {
        upstream.wait_for_requests(MANY).await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(join_all(invocations), opening);
    let output = chat.stop();
    let lines = lines(&output);
    let requests = requests(&lines);
    assert_eq!(requests.len(), MANY);
    for answer in &answers {
        let mut own = requests
            .iter()
            .filter(|line| line["request_id"] == answer.request_id.as_str());
        let line = own.next().expect("a line");
        assert!(own.next().is_none(), "{line}");
        let usage = &answer.last()["usage"];
        assert_eq!(line["turn_id"], answer.start()["turn_id"], "{line}");
        assert_eq!(
            line["completion_tokens"], usage["completion_tokens"],
            "{line}"
        );
        assert_eq!(request_of(line), answer.request_id);
    }
    let whose: std::collections::BTreeSet<_> =
        requests.iter().map(|line| line["user"].as_str()).collect();
    assert_eq!(whose.len(), MANY);

    let samples = emf::samples(&output);
    let mut tokens = emf::values(&samples, "completion_tokens", &[]);
    tokens.sort_by(f64::total_cmp);
    let lengths: Vec<f64> = (1..=10).map(f64::from).collect();
    assert_eq!(tokens, lengths);
    let saved = emf::values(&samples, "commits_total", &[("result", "saved")]);
    assert_eq!(saved.len(), MANY);
    let cold = emf::values(
        &samples,
        "cold_starts_total",
        &[("function", "chat-stream")],
    );
    assert_eq!(cold, [1.0]);
}

/// The platform may freeze the process as soon as the answer ends. So where nobody takes what it tells, no answer ends.
#[tokio::test]
async fn the_last_frame_waits_until_everything_is_told() {
    let redis = Server::start().await;
    let upstream = Upstream::start(Script::reply(&["海风", "很轻"])).await;
    let chat = function("chat-stream", &redis)
        .envs(upstream.env())
        .start()
        .await;
    chat.hold_output(true);
    let mut waits = None;
    for _ in 0..MORE_THAN_A_PIPE_HOLDS {
        let event = events::chat(&token("alice"), "luna", "今天的晚霞");
        let mut answer = chat.invoke_streaming(&event).await;
        let mut content = String::new();
        let whole = timeout(Duration::from_secs(2), async {
            while let Some(event) = answer.next_event().await {
                content.push_str(event.data["content"].as_str().unwrap_or_default());
            }
        });
        if whole.await.is_err() {
            assert_eq!(content, "海风很轻");
            waits = Some(answer);
            break;
        }
    }
    let mut answer = waits.expect("an answer that waits");
    chat.hold_output(false);
    let last = answer.next_event().await.expect("the last frame");
    assert_eq!(last.data["saved"], true);
}

#[tokio::test]
async fn output_that_nobody_reads_holds_up_no_other_turn() {
    let redis = Server::start().await;
    let gate = Gate::new();
    let gated = Script::deltas(&["海风"])
        .then(Step::Wait(gate.clone()))
        .then_delta("很轻")
        .finish("stop")
        .usage(310, 2)
        .done();
    let upstream = Upstream::start(gated).await;
    let chat = function("chat-stream", &redis)
        .envs(upstream.env())
        .concurrency(64)
        .start()
        .await;
    let mut turn = chat
        .invoke_streaming(&events::chat(&token("alice"), "luna", "今天的晚霞"))
        .await;
    assert_eq!(turn.next_event().await.expect("start").event, "start");
    assert_eq!(
        turn.next_event().await.expect("a delta").data["content"],
        "海风"
    );
    chat.hold_output(true);
    let event = events::chat("no token", "luna", "今天的晚霞");
    let mut refused: FuturesUnordered<_> = (0..MORE_THAN_A_PIPE_HOLDS)
        .map(|_| chat.invoke(&event))
        .collect();
    // They end until the pipe is full, and the others wait.
    while timeout(Duration::from_secs(2), refused.next())
        .await
        .is_ok_and(|answer| answer.is_some())
    {}
    assert!(!refused.is_empty(), "the pipe is not full");
    gate.open();
    assert_eq!(
        turn.next_event().await.expect("a delta").data["content"],
        "很轻"
    );
    chat.hold_output(false);
    while refused.next().await.is_some() {}
    assert_eq!(
        turn.next_event().await.expect("the last").data["saved"],
        true
    );
}

#[tokio::test]
async fn a_panic_in_a_turn_is_one_line_and_its_own_line_says_whose_it_is() {
    let redis = Server::start().await;
    let chat = function("chat-stream", &redis)
        .env("LLM_PROVIDER", "echo")
        .test_hooks()
        .start()
        .await;
    let answer = chat
        .invoke(&events::chat(&token("alice"), "luna", "/panic"))
        .await;
    assert_eq!(answer.last()["code"], "internal");
    let lines = lines(&chat.stop());
    let [line] = requests(&lines)[..] else {
        panic!("one line: {lines:?}");
    };
    assert_eq!(
        (&line["outcome"], &line["saved"]),
        (&json!("internal"), &json!(false))
    );
    let panic = lines.iter().find(|line| line["message"] == "panic");
    assert_eq!(request_of(panic.expect("a line")), answer.request_id);
}
