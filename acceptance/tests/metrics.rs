//! Metrics, read from the output of the real binaries as CloudWatch reads them: one event for each invocation, whatever
//! its outcome.

#[path = "metrics/memory.rs"]
mod memory;
#[path = "metrics/turns.rs"]
mod turns;

use std::time::Duration;

use serde_json::{Value, json};
use testkit::binary;
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
async fn metrics_can_be_switched_off_and_kept_under_another_name() {
    let redis = Server::start().await;
    for name in &binary::functions() {
        let ready = |setting: &str, value: &str| {
            function(name, &redis)
                .env("LLM_PROVIDER", "echo")
                .env(setting, value)
        };
        let silent = ready("METRICS", "off").start().await;
        let renamed = ready("METRICS_NAMESPACE", "Another/Name").start().await;
        for function in [&silent, &renamed] {
            let nobody = Event::get("/").http();
            match name.as_str() {
                binary::WITHOUT_ROUTE => drop(function.invoke_direct(&nobody).await),
                _ => drop(function.invoke(&nobody).await),
            }
        }
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
