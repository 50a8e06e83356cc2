//! Upstreams that break, and bytes that are no reply.

use std::fs;

use serde_json::{Value, json};
use testkit::upstream::{Script, Step, chunk};

use crate::{House, once};

const MIB: usize = 1024 * 1024;
const NO_RETRIES: [(&str, &str); 1] = [("LLM_MAX_RETRIES", "0")];

fn failing(error: &Value) -> Step {
    Step::Bytes(chunk(&json!({ "error": error })))
}

fn text(bytes: &str) -> Step {
    Step::Bytes(bytes.to_owned().into())
}

#[tokio::test]
async fn an_error_after_a_delta_interrupts_and_what_was_shown_is_kept() {
    for error in [
        json!({ "message": "gone", "type": "server_error", "code": "internal" }),
        json!({ "message": "bad", "code": 400 }),
        json!("gone"),
    ] {
        // It would go on; nobody listens any longer.
        let script = Script::deltas(&["我", "在"])
            .then(failing(&error))
            .then_delta("不")
            .then(Step::Silence);
        let house = House::new(once(script)).await;
        house.fails("upstream_interrupted", "我在").await;
        assert_eq!(house.upstream.requests().len(), 2);
    }
}

#[tokio::test]
async fn an_error_before_the_first_delta_is_a_refusal_or_an_outage_by_its_code() {
    for (error, code) in [
        (
            json!({ "message": "bad", "code": 400 }),
            "upstream_rejected",
        ),
        (
            json!({ "message": "no", "code": "401" }),
            "upstream_rejected",
        ),
        (
            json!({ "message": "slow down", "code": 429 }),
            "upstream_unavailable",
        ),
        (
            json!({ "message": "oops", "code": 500 }),
            "upstream_unavailable",
        ),
        (
            json!({ "message": "oops", "code": "overloaded" }),
            "upstream_unavailable",
        ),
        (
            json!({ "message": "oops", "code": null }),
            "upstream_unavailable",
        ),
        (json!("oops"), "upstream_unavailable"),
    ] {
        let script = Script::deltas(&[])
            .then(failing(&error))
            .then(Step::Silence);
        let house = House::with(&NO_RETRIES, once(script)).await;
        house.fails(code, "").await;
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_after_a_delta_interrupts() {
    let house = House::new(once(Script::deltas(&["我", "在"]).cut())).await;
    house.fails("upstream_interrupted", "我在").await;
}

#[tokio::test]
async fn a_reply_that_ends_without_a_finish_reason_is_interrupted() {
    let house = House::new(once(Script::deltas(&["我", "在"]))).await;
    house.fails("upstream_interrupted", "我在").await;
}

#[tokio::test]
async fn a_connection_that_is_cut_before_any_delta_is_an_outage() {
    for script in [
        Script::deltas(&[]).cut(),
        Script::raw(Vec::new()).cut(),
        Script::deltas(&[]),
    ] {
        let house = House::with(&NO_RETRIES, once(script)).await;
        house.fails("upstream_unavailable", "").await;
    }
}

#[tokio::test]
async fn a_body_that_is_no_stream_is_an_outage_and_not_a_reply() {
    let html = "<!doctype html>\n<html><body>\ndata center maintenance\n</body></html>\n";
    for (script, name) in [
        (
            Script::raw(vec![text(html)]).header("content-type", "text/html"),
            "a page",
        ),
        (
            Script::status(200, r#"{"error":{"message":"no"}}"#),
            "an error",
        ),
        (Script::status(200, ""), "nothing"),
        (Script::status(204, ""), "no content"),
    ] {
        let house = House::with(&NO_RETRIES, once(script)).await;
        let answer = house.fails("upstream_unavailable", "").await;
        assert!(!answer.text().contains('<'), "{name}");
        assert_eq!(house.stored().await.len(), 2, "{name}");
    }
}

#[tokio::test]
async fn garbage_in_data_is_an_outage_before_a_delta_and_interrupts_after_it() {
    for garbage in [
        "data: <html>\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"不\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":7}}]}\n\n",
        "data: []\n\n",
        "data: 7\n\n",
    ] {
        let script = Script::deltas(&[]).then(text(garbage)).then(Step::Silence);
        let house = House::with(&NO_RETRIES, once(script)).await;
        house.fails("upstream_unavailable", "").await;

        let script = Script::deltas(&["我"])
            .then(text(garbage))
            .then(Step::Silence);
        let house = House::new(once(script)).await;
        house.fails("upstream_interrupted", "我").await;
    }
}

#[tokio::test]
async fn bytes_that_are_not_utf8_never_reach_the_client() {
    let broken: &'static [u8] =
        b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\xE4\xBD\"}}]}\n\n";
    let script = Script::deltas(&["我"])
        .then(Step::Bytes(broken.into()))
        .then(Step::Silence);
    let house = House::new(once(script)).await;
    house.fails("upstream_interrupted", "我").await;
}

/// What is said, and then a line that goes on for 100 MiB.
fn endless_line(spoken: Script) -> Script {
    let part = Step::Bytes("x".repeat(MIB).into());
    let begun = spoken.then(text("data: "));
    (0..100).fold(begun, |script, _| script.then(part.clone()))
}

#[tokio::test]
async fn a_line_without_an_end_is_refused_and_not_collected() {
    let house = House::new(once(endless_line(Script::deltas(&[])))).await;
    house.fails("upstream_unavailable", "").await;
    let peak = peak_memory(&house);
    assert!(peak < 64 * MIB, "{peak}");
}

#[tokio::test]
async fn a_line_without_an_end_after_a_delta_interrupts_and_is_not_collected() {
    let house = House::new(once(endless_line(Script::deltas(&["我"])))).await;
    house.fails("upstream_interrupted", "我").await;
    let peak = peak_memory(&house);
    assert!(peak < 64 * MIB, "{peak}");
}

/// The most memory that the function's process ever held, in bytes.
fn peak_memory(house: &House) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", house.chat.pid())).expect("Linux");
    let kibibytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"))
        .expect("a peak");
    kibibytes.trim().parse::<usize>().expect("a number") * 1024
}
