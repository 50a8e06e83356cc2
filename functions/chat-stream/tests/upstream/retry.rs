//! What is tried again, and what never is.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use testkit::upstream::{Received, Script, Step};

use crate::{House, assert_done, assert_failed, good, once};

const OVERLOADED: &str = r#"{"error":{"message":"busy","code":"overloaded"}}"#;

/// Between one request and the next.
fn pauses(requests: &[Received]) -> Vec<Duration> {
    requests
        .windows(2)
        .map(|pair| pair[1].at.duration_since(pair[0].at))
        .collect()
}

#[tokio::test]
async fn a_request_that_is_refused_for_good_is_sent_once() {
    for (status, body) in [
        (
            400,
            r#"{"error":{"message":"bad","type":"invalid_request_error","code":null}}"#,
        ),
        (
            401,
            r#"{"error":{"message":"no","code":"invalid_api_key"}}"#,
        ),
        (403, "<html>forbidden</html>"),
        (404, ""),
        (422, "null"),
    ] {
        let house = House::with(
            &[("LLM_MAX_RETRIES", "5")],
            once(Script::status(status, body)),
        )
        .await;
        house.fails("upstream_rejected", "").await;
        assert_eq!(house.upstream.requests().len(), 2, "{status}");
    }
}

#[tokio::test]
async fn a_refusal_whose_body_never_ends_is_a_refusal() {
    let house = House::new(once(
        Script::status(400, r#"{"error":"#).then(Step::Silence),
    ))
    .await;
    house.fails("upstream_rejected", "").await;
}

#[tokio::test]
async fn a_rate_limit_is_waited_out_for_as_long_as_the_upstream_says() {
    let limited = Script::status(429, OVERLOADED).header("retry-after", "1");
    let house = House::new(once(limited)).await;

    assert_done(&house.say("晚上好呀").await, "好");
    let pauses = pauses(&house.upstream.requests());
    assert_eq!(pauses.len(), 1);
    assert!(pauses[0] >= Duration::from_secs(1), "{pauses:?}");
}

#[tokio::test]
async fn a_rate_limit_that_outlasts_the_first_token_is_told_at_once() {
    // The last one is further away than any clock reaches.
    for wait in ["6", "86400", "9999999999999999999"] {
        let limited = Script::status(429, OVERLOADED).header("retry-after", wait);
        let house = House::with(&[("LLM_FIRST_TOKEN_TIMEOUT_MS", "5000")], once(limited)).await;
        let asked = Instant::now();
        let answer = house.fails("upstream_unavailable", "").await;
        let took = answer.ended.duration_since(asked);
        assert!(took < Duration::from_secs(4), "{wait}: {took:?}");
        assert_eq!(house.upstream.requests().len(), 2, "{wait}");
    }
}

#[tokio::test]
async fn an_upstream_that_recovers_is_asked_again_with_growing_pauses() {
    let scripts = vec![
        Script::status(500, "oops"),
        Script::status(409, OVERLOADED),
        good(),
    ];
    let house = House::with(&[("LLM_MAX_RETRIES", "2")], scripts).await;

    assert_done(&house.say("晚上好呀").await, "好");
    let requests = house.upstream.requests();
    let pauses = pauses(&requests);
    assert_eq!(pauses.len(), 2);
    assert!(
        pauses[0] >= Duration::from_millis(200) && pauses[1] >= Duration::from_millis(400),
        "{pauses:?}"
    );
    assert!(
        requests
            .iter()
            .all(|request| request.body == requests[0].body)
    );
    assert_eq!(house.stored().await.len(), 2);
}

#[tokio::test]
async fn an_upstream_that_does_not_recover_is_asked_as_often_as_was_set() {
    for (retries, requests) in [("0", 1), ("1", 2), ("2", 3)] {
        let mut scripts = vec![Script::status(503, OVERLOADED); requests];
        scripts.push(good());
        let house = House::with(&[("LLM_MAX_RETRIES", retries)], scripts).await;
        house.fails("upstream_unavailable", "").await;
        assert_eq!(house.upstream.requests().len(), requests + 1, "{retries}");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_before_any_text_is_asked_for_again() {
    let bytes = |bytes: &'static str| Step::Bytes(bytes.into());
    let thought = "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"嗯\"}}]}\n\n";
    for (broken, name) in [
        (Script::raw(Vec::new()).cut(), "cut before anything"),
        (Script::deltas(&[]).cut(), "cut after the role"),
        (Script::raw(vec![bytes(thought)]).cut(), "cut after thought"),
        (Script::status(200, ""), "nothing"),
        (Script::deltas(&[]), "an end without a reason"),
        (Script::raw(vec![bytes("<html>\n</html>\n")]), "a page"),
        (
            Script::deltas(&[]).then(bytes("data: {\"cho\n\n")),
            "garbage",
        ),
    ] {
        let house = House::new(once(broken)).await;
        assert_done(&house.say("晚上好呀").await, "好");
        assert_eq!(house.upstream.requests().len(), 2, "{name}");
        assert_eq!(house.stored().await.len(), 2, "{name}");
    }
}

#[tokio::test]
async fn an_answer_that_would_come_again_is_not_asked_for_again() {
    for body in [r#"{"object":"list"}"#, r#"{"error":{"message":"no"}}"#] {
        let house = House::new(once(Script::status(200, body))).await;
        house.fails("upstream_unavailable", "").await;
        assert_eq!(house.upstream.requests().len(), 2, "{body}");
    }
}

#[tokio::test]
async fn nothing_is_tried_again_after_the_first_delta() {
    let house = House::with(
        &[("LLM_MAX_RETRIES", "5")],
        once(Script::deltas(&["我", "在"]).cut()),
    )
    .await;
    let answer = house.say("你在吗？").await;
    assert_failed(&answer, "upstream_interrupted", "我在");
    assert_eq!(house.upstream.requests().len(), 1);
}

#[tokio::test]
async fn an_upstream_where_nothing_listens_is_unavailable_and_tried_again() {
    // Bound and let go, so nobody listens there.
    let address = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a loopback port");
    let base_url = format!("http://{address}/v1");
    let house = House::with(&[("LLM_BASE_URL", &base_url)], vec![good()]).await;

    for _ in 0..2 {
        let asked = Instant::now();
        assert_failed(&house.say("晚上好呀").await, "upstream_unavailable", "");
        // Two pauses, the second twice the first.
        assert!(asked.elapsed() >= Duration::from_millis(600));
        assert!(house.stored().await.is_empty());
    }
}
