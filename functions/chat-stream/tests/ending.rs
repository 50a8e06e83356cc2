//! SIGTERM: what runs settles as at a deadline, and then the process ends.
#![expect(clippy::expect_used, reason = "a test")]

use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::binary;
use testkit::redis::Server;
use testkit::runtime::Function;
use testkit::stage::Stage;
use testkit::tokens::secret;
use testkit::upstream::{Gate, Script, Step};

/// An idle process has nothing to wait for. This is for the scheduler.
const AT_ONCE: Duration = Duration::from_millis(500);
/// The write budget of the tests, and half a second for the last frame.
const MARGIN: Duration = Duration::from_millis(1_500);

/// Replies with these deltas, and then falls silent.
fn silent_after(deltas: &[&str]) -> Script {
    Script::deltas(deltas).then_silence()
}

async fn stage(script: Script, concurrency: &str) -> Stage {
    Stage::builder()
        .upstream_scripts(vec![script])
        .env("AWS_LAMBDA_MAX_CONCURRENCY", concurrency)
        .start()
        .await
}

async fn stored(redis: &Server) -> Vec<Value> {
    let list: Vec<String> = redis
        .command(&["LRANGE", "chat:alice:luna:messages", "0", "-1"])
        .await;
    list.iter()
        .map(|message| serde_json::from_str(message).expect("JSON"))
        .collect()
}

#[tokio::test]
async fn a_reply_that_runs_is_stored_in_part_and_its_last_event_is_sent() {
    for concurrency in ["1", "4"] {
        let mut stage = stage(silent_after(&["在", "的"]), concurrency).await;
        let mut answer = stage.say_streaming("你在吗？").await;
        assert_eq!(answer.next_event().await.expect("start").event, "start");
        for delta in ["在", "的"] {
            let event = answer.next_event().await.expect("a delta");
            assert_eq!(event.data["content"], delta);
        }
        let asked = Instant::now();
        stage.chat.terminate();
        let answer = answer.finish().await;
        assert!(!answer.truncated, "{}", answer.text());
        let last = answer.last();
        assert_eq!(last["code"], "upstream_timeout", "{last}");
        assert_eq!(last["saved"], true, "{last}");
        let exit = stage.chat.exit().await;
        assert_eq!(exit.status.code(), Some(0), "{}", exit.output);
        assert!(asked.elapsed() < MARGIN, "{:?}", asked.elapsed());
        let stored = stored(&stage.redis).await;
        assert_eq!(stored[0]["content"], "在的");
        assert_eq!(stored[0]["metadata"]["finish_reason"], "interrupted");
        assert_eq!(stored[1]["content"], "你在吗？");
    }
}

#[tokio::test]
async fn a_turn_without_text_stores_nothing_and_says_so() {
    let mut stage = stage(silent_after(&[]), "1").await;
    let mut answer = stage.say_streaming("你在吗？").await;
    assert_eq!(answer.next_event().await.expect("start").event, "start");
    stage.chat.terminate();
    let answer = answer.finish().await;
    assert_eq!(answer.last()["saved"], false);
    assert_eq!(stage.chat.exit().await.status.code(), Some(0));
    assert!(stored(&stage.redis).await.is_empty());
}

#[tokio::test]
async fn every_turn_of_a_process_settles() {
    const TURNS: usize = 8;
    let mut stage = stage(silent_after(&["在"]), "8").await;
    let mut answers = Vec::new();
    for _ in 0..TURNS {
        let mut answer = stage.say_streaming("你在吗？").await;
        for _ in 0..2 {
            answer.next_event().await.expect("start, then a delta");
        }
        answers.push(answer);
    }
    stage.chat.terminate();
    for answer in answers {
        assert_eq!(answer.finish().await.last()["saved"], true);
    }
    assert_eq!(stage.chat.exit().await.status.code(), Some(0));
    assert_eq!(stored(&stage.redis).await.len(), 2 * TURNS);
}

#[tokio::test]
async fn a_turn_whose_client_has_left_is_stored_too() {
    let gate = Gate::new();
    let script = Script::deltas(&["在", "的"]).then(Step::Wait(gate.clone()));
    let mut stage = stage(script.finish("stop").done(), "1").await;
    let mut answer = stage.say_streaming("你在吗？").await;
    for _ in 0..3 {
        answer.next_event().await.expect("start, then two deltas");
    }
    answer.drop_connection();
    stage.chat.printed("failed to send a response").await;
    stage.chat.terminate();
    assert_eq!(stage.chat.exit().await.status.code(), Some(0));
    assert_eq!(stored(&stage.redis).await[0]["content"], "在的");
    gate.open();
}

#[tokio::test]
async fn without_redis_the_end_comes_within_the_margin() {
    let mut stage = stage(silent_after(&["在"]), "1").await;
    let mut answer = stage.say_streaming("你在吗？").await;
    for _ in 0..2 {
        answer.next_event().await.expect("start, then a delta");
    }
    stage.redis.pause();
    let asked = Instant::now();
    stage.chat.terminate();
    assert_eq!(answer.finish().await.last()["saved"], false);
    assert_eq!(stage.chat.exit().await.status.code(), Some(0));
    assert!(asked.elapsed() < MARGIN + AT_ONCE, "{:?}", asked.elapsed());
    stage.redis.resume();
}

#[tokio::test]
async fn an_idle_process_ends_at_once() {
    for name in &binary::functions() {
        for concurrency in [1, 4] {
            let mut function = Function::builder(name)
                .env("JWT_SECRET", secret())
                .env("LLM_PROVIDER", "echo")
                .concurrency(concurrency)
                .start()
                .await;
            let asked = Instant::now();
            function.terminate();
            let exit = function.exit().await;
            assert_eq!(exit.status.code(), Some(0), "{name}: {}", exit.output);
            assert!(asked.elapsed() < AT_ONCE, "{name}: {:?}", asked.elapsed());
        }
    }
}
