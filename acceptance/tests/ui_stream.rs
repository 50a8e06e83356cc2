//! `?protocol=ui-message-stream`: the same turns, in the AI SDK's UI message stream.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use testkit::answer::Answer;
use testkit::events::{Event, Gateway};
use testkit::runtime::Streaming;
use testkit::stage::Stage;
use testkit::upstream::{Gate, Script, Step};

const PROTOCOL: (&str, &str) = ("protocol", "ui-message-stream");

/// The text of every failure.
const FAILED: &str = "服务暂时不可用，请稍后重试";

/// Returns a request with a key of its own: with one, `start` waits for Redis, and so `resumable` is always true while
/// Redis is well.
fn ask(stage: &Stage, message: &str) -> Event {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let key = ASKED.fetch_add(1, Ordering::Relaxed).to_string();
    let body = json!({ "character_id": Stage::CHARACTER, "message": message });
    let (name, value) = PROTOCOL;
    Event::stream()
        .token(&stage.token)
        .header("idempotency-key", &key)
        .query(name, value)
        .json(&body)
}

fn resume(stage: &Stage) -> Event {
    let (name, value) = PROTOCOL;
    Event::resume()
        .token(&stage.token)
        .query("character_id", Stage::CHARACTER)
        .query(name, value)
}

fn read(stage: &Stage) -> Event {
    Event::get("/api/v1/chat/history")
        .token(&stage.token)
        .query("character_id", Stage::CHARACTER)
}

/// Returns a reply that waits for the gate in its middle.
fn gated(gate: &Gate) -> Script {
    Script::deltas(&["你", "好呀"])
        .then(Step::Wait(gate.clone()))
        .then_delta("🙂")
        .finish("stop")
        .usage(310, 3)
        .done()
}

/// Returns the last part of this type.
fn part(answer: &Answer, kind: &str) -> Value {
    let events = answer.events().into_iter().rev();
    let mut parts = events.map(|event| event.data);
    parts
        .find(|part| part["type"] == kind)
        .unwrap_or_else(|| panic!("no {kind} in {}", answer.text()))
}

fn types(answer: &Answer) -> Vec<String> {
    let name = |data: &Value| data["type"].as_str().or(data.as_str()).map(str::to_owned);
    let events = answer.events();
    let names = events
        .iter()
        .map(|event| name(&event.data).expect("a type"));
    names.collect()
}

fn text_of(part: &Value) -> String {
    part.as_str().expect("text").to_owned()
}

/// Returns the text of the reply.
fn reply(answer: &Answer) -> String {
    let events = answer.events();
    let deltas = events
        .iter()
        .filter_map(|event| event.data["delta"].as_str());
    deltas.collect()
}

/// Returns the body with the ids of its turn and messages replaced by names.
fn named(answer: &Answer) -> String {
    let ids = &part(answer, "data-start")["data"];
    [
        ("turn_id", "<turn>"),
        ("msg_id", "<reply>"),
        ("user_msg_id", "<message>"),
    ]
    .iter()
    .fold(answer.text(), |body, (field, name)| {
        body.replace(&text_of(&ids[*field]), name)
    })
}

/// The first parts of a turn without history.
const BEGINNING: &str = "data: {\"type\":\"start\",\"messageId\":\"<reply>\"}\n\n\
    data: {\"type\":\"data-start\",\"data\":{\"turn_id\":\"<turn>\",\"memory\":\"empty\",\"history_messages\":0,\"resumable\":true,\
    \"msg_id\":\"<reply>\",\"user_msg_id\":\"<message>\"},\"transient\":true}\n\n";

/// Returns the parts of these pieces of text.
fn said(pieces: &[&str]) -> String {
    let deltas = pieces.iter().map(|piece| {
        format!("data: {{\"type\":\"text-delta\",\"id\":\"text\",\"delta\":\"{piece}\"}}\n\n")
    });
    let deltas: String = deltas.collect();
    format!(
        "data: {{\"type\":\"text-start\",\"id\":\"text\"}}\n\n\
        {deltas}\
        data: {{\"type\":\"text-end\",\"id\":\"text\"}}\n\n"
    )
}

/// Returns the last parts of a turn that is stored.
fn end(finish_reason: &str, tokens: usize, last: &str) -> String {
    format!(
        "data: {{\"type\":\"data-done\",\"data\":{{\"turn_id\":\"<turn>\",\"msg_id\":\"<reply>\",\"user_msg_id\":\"<message>\",\
        \"finish_reason\":\"{finish_reason}\",\"saved\":true,\"usage\":{{\"prompt_tokens\":310,\"completion_tokens\":{tokens}}}}}}}\n\n\
        data: {last}\n\n\
        data: [DONE]\n\n"
    )
}

const FINISH: &str = r#"{"type":"finish","finishReason":"stop"}"#;

/// Returns the last parts of a turn that failed.
fn failure(code: &str, saved: bool) -> String {
    format!(
        "data: {{\"type\":\"data-error\",\"data\":{{\"error\":\"{FAILED}\",\"code\":\"{code}\",\"turn_id\":\"<turn>\",\"saved\":{saved},\"user_msg_id\":\"<message>\"}}}}\n\n\
        data: {{\"type\":\"error\",\"errorText\":\"{FAILED}\"}}\n\n\
        data: [DONE]\n\n"
    )
}

/// Waits until a stream has shown this text.
async fn shown(stream: &mut Streaming, text: &str) {
    let mut seen = String::new();
    while seen != text {
        let event = stream.next_event().await.expect("more text");
        seen.push_str(event.data["delta"].as_str().unwrap_or_default());
    }
}

#[tokio::test]
async fn a_turn_is_the_same_to_the_byte_behind_each_gateway() {
    let pieces = ["你", "好呀 é", "🙂"];
    for gateway in [Gateway::Rest, Gateway::Http] {
        let script = Script::deltas(&pieces).finish("stop").usage(310, 3).done();
        let stage = Stage::builder()
            .upstream_scripts(vec![script])
            .start()
            .await;
        let answer = stage
            .chat
            .invoke(&ask(&stage, "晚上好呀").build(gateway))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        for (name, value) in [
            ("content-type", "text/event-stream; charset=utf-8"),
            ("cache-control", "no-cache, no-transform"),
            ("x-accel-buffering", "no"),
            ("x-vercel-ai-ui-message-stream", "v1"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{gateway:?}");
        }
        let expected = BEGINNING.to_owned() + &said(&pieces) + &end("stop", 3, FINISH);
        assert_eq!(named(&answer), expected, "{gateway:?}");
        // The same turn again, in both forms.
        let turn = text_of(&part(&answer, "data-start")["data"]["turn_id"]);
        let again = resume(&stage).query("turn_id", &turn).build(gateway);
        let again = stage.chat.invoke(&again).await;
        let expected = BEGINNING.to_owned() + &said(&[&pieces.concat()]) + &end("stop", 3, FINISH);
        assert_eq!(named(&again), expected, "{gateway:?}");
        let own = Event::resume()
            .token(&stage.token)
            .query("character_id", Stage::CHARACTER)
            .query("turn_id", &turn);
        let own = stage.chat.invoke(&own.build(gateway)).await;
        assert_eq!(own.header("x-vercel-ai-ui-message-stream"), None);
        assert_eq!(own.reply(), pieces.concat());
        assert_eq!(own.last()["msg_id"], part(&answer, "start")["messageId"]);
    }
}

#[tokio::test]
async fn a_failure_is_an_error_and_says_what_is_stored() {
    let stage = Stage::builder()
        .env("LLM_MAX_RETRIES", "0")
        .upstream_scripts(vec![Script::status(503, ""), Script::deltas(&["半"])])
        .start()
        .await;
    let before = stage.chat.invoke(&ask(&stage, "晚上好呀").http()).await;
    let expected = BEGINNING.to_owned() + &failure("upstream_unavailable", false);
    assert_eq!(named(&before), expected);
    let after = stage.chat.invoke(&ask(&stage, "晚上好呀").http()).await;
    let expected = BEGINNING.to_owned() + &said(&["半"]) + &failure("upstream_interrupted", true);
    assert_eq!(named(&after), expected);
    let history = stage.function("read-history").start().await;
    let stored = history.invoke(&read(&stage).http()).await.json();
    let error = &part(&after, "data-error")["data"];
    assert_eq!(stored["messages"][0]["msg_id"], error["user_msg_id"]);
    let start = part(&after, "start");
    assert_eq!(stored["messages"][1]["msg_id"], start["messageId"]);
    // What is refused before the stream is a problem document, as ever.
    let body = json!({ "character_id": "nobody", "message": "晚上好呀" });
    let unknown = stage.chat.invoke(&ask(&stage, "").json(&body).http()).await;
    unknown.assert_problem(404, "character_not_found");
}

#[tokio::test]
async fn a_reply_that_is_not_stored_says_so() {
    let mut stage = Stage::builder().upstream("在的").start().await;
    stage.redis.kill().await;
    let answer = stage.chat.invoke(&ask(&stage, "晚上好呀").http()).await;
    assert_eq!(reply(&answer), "在的");
    let start = &part(&answer, "data-start")["data"];
    assert_eq!(
        (&start["memory"], &start["resumable"]),
        (&json!("unavailable"), &json!(false))
    );
    let done = &part(&answer, "data-done")["data"];
    assert_eq!(
        (&done["saved"], &done["unsaved"]),
        (&json!(false), &json!("memory"))
    );
    assert_eq!(part(&answer, "finish")["finishReason"], "stop");
}

#[tokio::test]
async fn a_turn_that_is_stopped_is_an_abort() {
    let gate = Gate::new();
    let stage = Stage::builder()
        .upstream_scripts(vec![gated(&gate)])
        .start()
        .await;
    let stop = stage.function("stop-stream").start().await;
    let mut stream = stage
        .chat
        .invoke_streaming(&ask(&stage, "晚上好呀").http())
        .await;
    shown(&mut stream, "你好呀").await;
    let event = Event::stop()
        .token(&stage.token)
        .query("character_id", Stage::CHARACTER);
    assert_eq!(stop.invoke(&event.http()).await.status, 202);
    let answer = stream.finish().await;
    assert_eq!(reply(&answer), "你好呀");
    let done = &part(&answer, "data-done")["data"];
    assert_eq!(
        (&done["finish_reason"], &done["saved"]),
        (&json!("stopped"), &json!(true))
    );
    assert!(
        answer
            .text()
            .ends_with("\n\ndata: {\"type\":\"abort\"}\n\ndata: [DONE]\n\n")
    );
}

#[tokio::test]
async fn a_page_that_is_reloaded_gets_the_whole_reply_under_the_id_that_it_is_stored_with() {
    let gate = Gate::new();
    let stage = Stage::builder()
        .upstream_scripts(vec![gated(&gate)])
        .start()
        .await;
    let other = stage.function("chat-stream").start().await;
    let history = stage.function("read-history").start().await;
    // Nothing runs yet.
    let nothing = other.invoke(&resume(&stage).http()).await;
    assert_eq!((nothing.status, nothing.text().as_str()), (204, ""));
    let mut first = stage
        .chat
        .invoke_streaming(&ask(&stage, "晚上好呀").http())
        .await;
    shown(&mut first, "你好呀").await;
    let second = other.invoke_streaming(&resume(&stage).http()).await;
    gate.open();
    let (first, second) = (first.finish().await, second.finish().await);
    let kinds = types(&second);
    assert_eq!(kinds[..3], ["start", "data-start", "text-start"]);
    assert_eq!(reply(&second), "你好呀🙂");
    for kind in ["start", "data-start", "data-done", "finish"] {
        assert_eq!(part(&second, kind), part(&first, kind), "{kind}");
    }
    let stored = history.invoke(&read(&stage).http()).await.json();
    let done = &part(&second, "data-done")["data"];
    assert_eq!(stored["messages"][0]["msg_id"], done["user_msg_id"]);
    assert_eq!(
        stored["messages"][1]["msg_id"],
        part(&second, "start")["messageId"]
    );
    // Now nothing runs again.
    assert_eq!(other.invoke(&resume(&stage).http()).await.status, 204);
}

#[tokio::test]
async fn a_reader_whose_process_ends_is_not_told_that_the_reply_is_complete() {
    let gate = Gate::new();
    let stage = Stage::builder()
        .upstream_scripts(vec![gated(&gate)])
        .start()
        .await;
    let mut other = stage.function("chat-stream").start().await;
    let mut first = stage
        .chat
        .invoke_streaming(&ask(&stage, "晚上好呀").http())
        .await;
    shown(&mut first, "你好呀").await;
    let mut second = other.invoke_streaming(&resume(&stage).http()).await;
    shown(&mut second, "你好呀").await;
    other.terminate();
    let second = second.finish().await;
    let error = format!("\n\ndata: {{\"type\":\"error\",\"errorText\":\"{FAILED}\"}}\n\n");
    assert!(second.text().ends_with(&error), "{}", second.text());
    other.exit().await;
    gate.open();
    assert_eq!(
        part(&first.finish().await, "data-done")["data"]["saved"],
        true
    );
}

#[tokio::test]
async fn a_request_with_a_used_key_gets_its_turn_in_the_form_that_it_asks_for() {
    let stage = Stage::builder().upstream("在的").start().await;
    let key = ("idempotency-key", "0f8fad5b-d9cb-469f-a165-70867728950e");
    let event = ask(&stage, "晚上好呀").header(key.0, key.1);
    let first = stage.chat.invoke(&event.http()).await;
    let second = stage.chat.invoke(&event.http()).await;
    assert_eq!(second.text(), first.text());
    let body = json!({ "character_id": Stage::CHARACTER, "message": "晚上好呀" });
    let own = stage.post().json(&body).header(key.0, key.1);
    let own = stage.chat.invoke(&own.http()).await;
    assert_eq!(own.last()["msg_id"], part(&first, "start")["messageId"]);
    assert_eq!(stage.upstream.requests().len(), 1);
}

#[tokio::test]
async fn another_protocol_and_a_beginning_in_the_middle_are_refused() {
    let stage = Stage::builder().start().await;
    let body = json!({ "character_id": Stage::CHARACTER, "message": "晚上好呀" });
    for gateway in [Gateway::Rest, Gateway::Http] {
        for protocol in ["", "data", "UI-MESSAGE-STREAM"] {
            let post = stage.post().query("protocol", protocol).json(&body);
            let get = Event::resume()
                .token(&stage.token)
                .query("character_id", Stage::CHARACTER)
                .query("protocol", protocol);
            for event in [post, get] {
                let answer = stage.chat.invoke(&event.build(gateway)).await;
                answer.assert_problem(422, "invalid_request");
                assert_eq!(
                    answer.problem().detail,
                    "protocol: must be ui-message-stream, or left out"
                );
            }
        }
        let twice = ask(&stage, "晚上好呀").query(PROTOCOL.0, PROTOCOL.1);
        let twice = stage.chat.invoke(&twice.build(gateway)).await;
        twice.assert_problem(422, "invalid_request");
        for event in [
            resume(&stage).query("after", "3"),
            resume(&stage).query("after", "done"),
            resume(&stage).header("last-event-id", "0"),
        ] {
            let answer = stage.chat.invoke(&event.build(gateway)).await;
            answer.assert_problem(422, "invalid_request");
        }
    }
    assert_eq!(stage.upstream.requests().len(), 0);
}
