//! Upstreams that fall silent, and what counts as a sign of life.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;
use testkit::upstream::{Script, Step, chunk};

use crate::{House, assert_done, assert_failed, good, once};

/// So much below the default limits of 30 s that only the one that was set can have ended it.
const SOON: Duration = Duration::from_secs(10);

const COMMENT: &str = ": still here\n\n";

fn thinking(text: &str) -> Step {
    Step::Bytes(chunk(&json!({
        "choices": [{ "index": 0, "delta": { "content": null, "reasoning_content": text } }],
    })))
}

/// Says the same, again and again.
fn chatter(script: Script, bytes: &'static str) -> Script {
    (0..400).fold(script, |script, _| {
        script
            .then(Step::Bytes(bytes.into()))
            .then(Step::Delay(Duration::from_millis(50)))
    })
}

#[tokio::test]
async fn silence_before_the_first_token_is_a_timeout() {
    let scripts = [
        Script::raw(vec![Step::Silence]),
        Script::deltas(&[]).then(Step::Silence),
        // Neither comments nor empty chunks are tokens.
        chatter(Script::raw(vec![]), COMMENT),
        chatter(Script::raw(vec![]), "data: {\"choices\":[]}\n\n"),
    ];
    for script in scripts {
        let house = House::with(&[("LLM_FIRST_TOKEN_TIMEOUT_MS", "300")], once(script)).await;
        let asked = Instant::now();
        let answer = house.fails("upstream_timeout", "").await;
        let took = answer.ended.duration_since(asked);
        assert!(
            (Duration::from_millis(300)..SOON).contains(&took),
            "{took:?}"
        );
        assert_eq!(house.upstream.requests().len(), 2);
    }
}

#[tokio::test]
async fn an_upstream_that_accepts_and_never_answers_is_a_timeout() {
    // The system accepts for it; nobody ever reads.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let address = listener.local_addr().expect("bound");
    let base_url = format!("http://{address}/v1");
    let env = [
        ("LLM_BASE_URL", base_url.as_str()),
        ("LLM_FIRST_TOKEN_TIMEOUT_MS", "300"),
    ];
    let house = House::with(&env, vec![good()]).await;

    let asked = Instant::now();
    assert_failed(&house.say("你在吗？").await, "upstream_timeout", "");
    assert!(asked.elapsed() < SOON);
    assert!(house.stored().await.is_empty());
}

#[tokio::test]
async fn a_retry_does_not_extend_the_wait_for_the_first_token() {
    let scripts = vec![
        Script::status(503, "").header("retry-after", "2"),
        Script::raw(vec![Step::Silence]),
        good(),
    ];
    let house = House::with(&[("LLM_FIRST_TOKEN_TIMEOUT_MS", "3000")], scripts).await;
    let asked = Instant::now();
    let answer = house.fails("upstream_timeout", "").await;
    // The second attempt begins after two of the three seconds.
    let took = answer.ended.duration_since(asked);
    let limits = Duration::from_millis(3_000)..Duration::from_millis(4_800);
    assert!(limits.contains(&took), "{took:?}");
    assert_eq!(house.upstream.requests().len(), 3);
}

#[tokio::test]
async fn silence_between_deltas_is_a_timeout_and_what_was_shown_is_kept() {
    let spoken = Script::deltas(&["我", "在"]);
    let empty = "data: {\"choices\":[{\"index\":0,\"delta\":{}}]}\n\n";
    let scripts = [
        spoken.clone().then(Step::Silence),
        chatter(spoken.clone(), COMMENT),
        chatter(spoken, empty),
    ];
    for script in scripts {
        let house = House::with(&[("LLM_IDLE_TIMEOUT_MS", "300")], once(script)).await;
        let asked = Instant::now();
        let answer = house.fails("upstream_timeout", "我在").await;
        let took = answer.ended.duration_since(asked);
        assert!(
            (Duration::from_millis(300)..SOON).contains(&took),
            "{took:?}"
        );
    }
}

#[tokio::test]
async fn silence_after_the_finish_reason_is_the_end() {
    let house = House::new(vec![
        Script::deltas(&["好"]).finish("stop").then(Step::Silence),
        Script::deltas(&["好"])
            .finish("stop")
            .usage(7, 1)
            .then(Step::Silence),
    ])
    .await;
    for _ in 0..2 {
        let asked = Instant::now();
        let answer = house.say("你在吗？").await;
        assert_done(&answer, "好");
        assert!(answer.ended.duration_since(asked) < SOON);
        house.upstream.wait_until_no_streams().await;
    }
    assert_eq!(
        house.say("你在吗？").await.last()["usage"]["prompt_tokens"],
        7
    );
    assert_eq!(house.stored().await.len(), 6);
}

#[tokio::test]
async fn reasoning_is_a_sign_of_life() {
    // It takes longer than either limit until the first delta, but it is never silent for so long.
    let pause = Step::Delay(Duration::from_millis(500));
    let script = Script::raw(vec![
        thinking("她说"),
        pause.clone(),
        thinking("你好，"),
        pause.clone(),
        thinking("我该怎么回"),
        pause,
    ])
    .then_delta("你好")
    .finish("stop")
    .done();
    let env = [
        ("LLM_FIRST_TOKEN_TIMEOUT_MS", "1000"),
        ("LLM_IDLE_TIMEOUT_MS", "1200"),
    ];
    let house = House::with(&env, vec![script]).await;

    assert_done(&house.say("晚上好呀").await, "你好");
}

#[tokio::test]
async fn silence_after_reasoning_is_a_timeout_and_nothing_is_kept() {
    let script = Script::raw(vec![thinking("她说"), Step::Silence]);
    let house = House::with(&[("LLM_IDLE_TIMEOUT_MS", "300")], once(script)).await;
    let asked = Instant::now();
    let answer = house.fails("upstream_timeout", "").await;
    assert!(answer.ended.duration_since(asked) < SOON);
}

#[tokio::test]
async fn a_client_that_waits_for_the_first_delta_hears_a_heartbeat() {
    const PING: &str = ": ping\n\n";
    let script = Script::deltas(&[])
        .then(Step::Delay(Duration::from_secs(16)))
        .then_delta("好")
        .finish("stop")
        .done();
    let house = House::new(vec![script]).await;

    let answer = house.say("你在吗？").await;
    assert_done(&answer, "好");
    assert_eq!(answer.comments(), 1);
    let text = answer.text();
    let (before, after) = text.split_once(PING).expect("a heartbeat");
    assert!(before.starts_with("id: 0\nevent: start\n") && !before.contains("event: message"));
    assert!(after.starts_with("id: 3\nevent: message\n"));
    let ping = answer
        .chunks
        .iter()
        .find(|chunk| chunk.bytes == PING)
        .expect("a chunk of its own");
    let waited = ping.at.duration_since(answer.handed_over);
    assert!(waited >= Duration::from_secs(15), "{waited:?}");
}
