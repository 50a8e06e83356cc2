//! llmock records every attempt with its time and judges how its client handled each fault. Each finding either does
//! not occur here or is compensated by what the user receives.

use serde_json::{Value, json};
use testkit::model_server::ModelServer;

use crate::{Stage, assert_done, assert_failed};

/// The text that llmock streams, one word in each event. Its first event contains the role alone.
const SAID: &str = "one two three four five";

async fn start() -> ModelServer {
    ModelServer::start("llmock/bin/llmock", "/health", |port, _| {
        ["serve", "--host", "127.0.0.1", "--port", &port.to_string()]
            .map(str::to_owned)
            .into()
    })
    .await
}

/// A fault of one turn, and its outcome.
struct Case<'a> {
    /// Name of the fault in llmock.
    faults: Value,
    settings: &'a [(&'a str, &'a str)],
    /// Code of the failure; `None` if the turn ends well.
    fails: Option<&'a str>,
    shown: &'a str,
    attempts: u64,
    findings: &'a [&'a str],
}

impl Case<'_> {
    async fn hold(self, llmock: &ModelServer) -> Stage {
        llmock.post("/_llmock/reset", &json!({})).await;
        let mut behaviors = vec![json!({ "type": "reply", "text": SAID, "times": null })];
        behaviors.extend(self.faults.as_array().expect("a list").clone());
        let scenario = json!({ "behaviors": behaviors });
        llmock.post("/_llmock/scenario", &scenario).await;
        let stage = Stage::before(&llmock.base_url(), self.settings).await;

        let answer = stage.say("晚上好呀").await;
        match self.fails {
            None => assert_done(&answer, self.shown, "stop"),
            Some(code) => assert_failed(&answer, code, self.shown),
        }
        let verdict = llmock.get("/_llmock/verdict").await;
        assert_eq!(
            verdict["attempts"], self.attempts,
            "{}: {verdict}",
            self.faults
        );
        let findings = verdict["findings"].as_array().expect("a list").iter();
        let codes: Vec<_> = findings
            .map(|finding| finding["code"].as_str().expect("text"))
            .collect();
        assert_eq!(codes, self.findings, "{}: {verdict}", self.faults);
        stage
    }
}

fn fault(kind: &str, after_chunks: u32) -> Value {
    json!([{ "type": "stream_fault", "kind": kind, "after_chunks": after_chunks }])
}

/// Every status that llmock wants to be tried again is, after a pause that grows or that the server asks for; every
/// other one is not.
#[tokio::test]
async fn llmock_finds_nothing_in_how_statuses_are_taken() {
    let llmock = start().await;
    for status in [408, 409, 429, 500, 502, 503, 504, 529] {
        let case = Case {
            faults: json!([{ "type": "fail", "status": status, "times": 2 }]),
            settings: &[],
            fails: None,
            shown: SAID,
            attempts: 3,
            findings: &[],
        };
        case.hold(&llmock).await;
    }
    for status in [400, 401, 403, 404, 422] {
        let case = Case {
            faults: json!([{ "type": "fail", "status": status, "times": null }]),
            settings: &[],
            fails: Some("upstream_rejected"),
            shown: "",
            attempts: 1,
            findings: &[],
        };
        case.hold(&llmock).await;
    }
    for retry_after in [0.3, 1.2] {
        let case = Case {
            faults: json!([{ "type": "fail", "status": 429, "retry_after": retry_after, "times": 2 }]),
            settings: &[],
            fails: None,
            shown: SAID,
            attempts: 3,
            findings: &[],
        };
        case.hold(&llmock).await;
    }
    // It does not recover: the turn fails after as many attempts as are set.
    let case = Case {
        faults: json!([{ "type": "fail", "status": 503, "times": null }]),
        settings: &[("LLM_MAX_RETRIES", "3")],
        fails: Some("upstream_unavailable"),
        shown: "",
        attempts: 4,
        findings: &[],
    };
    case.hold(&llmock).await;
}

/// Before the first text nothing was shown, so a stream that breaks is asked for again.
#[tokio::test]
async fn llmock_finds_nothing_in_how_streams_that_break_before_the_text_are_taken() {
    let llmock = start().await;
    for (kind, after_chunks) in [
        ("disconnect", 0),
        ("disconnect", 1),
        ("truncate", 0),
        ("truncate", 1),
        ("malformed", 0),
        ("malformed", 1),
    ] {
        let case = Case {
            faults: fault(kind, after_chunks),
            settings: &[],
            fails: None,
            shown: SAID,
            attempts: 2,
            findings: &[],
        };
        case.hold(&llmock).await;
    }
}

/// llmock counts silence that its client sits through. These settings end both kinds.
#[tokio::test]
async fn llmock_finds_nothing_in_how_silence_is_taken() {
    let llmock = start().await;
    for (after_chunks, setting, shown) in [
        (1, "LLM_FIRST_TOKEN_TIMEOUT_MS", ""),
        (3, "LLM_IDLE_TIMEOUT_MS", "one two "),
    ] {
        let case = Case {
            faults: fault("stall", after_chunks),
            settings: &[(setting, "1500")],
            fails: Some("upstream_timeout"),
            shown,
            attempts: 1,
            findings: &[],
        };
        case.hold(&llmock).await;
    }
}

/// The answers to what llmock still finds. Once the user has read the beginning of a reply, a second attempt would say
/// something else, so there is none. The rest of the finding is not so: the break is noticed, and the user is told.
#[tokio::test]
async fn a_stream_that_breaks_after_the_text_began_is_reported_and_not_asked_for_again() {
    let llmock = start().await;
    for (kind, finding) in [
        ("disconnect", "gave_up"),
        // "The client did not retry." It cannot, and it does not use half an answer as a whole one.
        ("truncate", "truncated_stream_accepted"),
        // "The client neither retried nor stopped reading." It stops, which llmock does not look at.
        ("malformed", "malformed_chunk_ignored"),
    ] {
        let case = Case {
            faults: fault(kind, 3),
            settings: &[],
            fails: Some("upstream_interrupted"),
            shown: "one two ",
            attempts: 1,
            findings: &[finding],
        };
        let stored = case.hold(&llmock).await.stored().await;
        let (_, content, metadata) = stored.last().expect("a reply");
        assert_eq!(
            (content.as_str(), metadata),
            ("one two ", &json!({ "finish_reason": "interrupted" }))
        );
    }
}

/// llmock takes any second request with the same body for a retry, and finds that a 400 is never to be tried again.
/// What is refused is therefore never sent twice: the second request is another.
#[tokio::test]
async fn what_is_refused_is_asked_in_another_way_and_not_again() {
    let llmock = start().await;
    let stage = Stage::before(&llmock.base_url(), &[]).await;
    stage.character(json!({ "temperature": 0.7 })).await;
    let said = json!({ "type": "reply", "text": SAID, "times": null });
    let scenario = json!({ "behaviors": [said] });
    llmock.post("/_llmock/scenario", &scenario).await;
    for turn in 1..=4 {
        assert_eq!(
            stage.say(&format!("第{turn}句")).await.last()["saved"],
            true
        );
    }
    for (message, code) in [
        (
            "This model's maximum context length is 40 tokens. However, your messages resulted in 50 tokens.",
            "context_length_exceeded",
        ),
        ("Unsupported value: 'temperature'", "unsupported_value"),
    ] {
        llmock.post("/_llmock/reset", &json!({})).await;
        let fail = json!({ "type": "fail", "status": 400, "message": message, "code": code });
        let scenario = json!({ "behaviors": [fail, said] });
        llmock.post("/_llmock/scenario", &scenario).await;
        assert_eq!(stage.say("晚上好呀").await.last()["saved"], true, "{code}");
        let verdict = llmock.get("/_llmock/verdict").await;
        assert_eq!(
            (
                &verdict["attempts"],
                &verdict["calls"],
                &verdict["findings"]
            ),
            (&json!(2), &json!(2), &json!([])),
            "{code}"
        );
    }
}
