//! A stop is honoured within a second, whichever process runs the turn.

use std::time::{Duration, Instant};

use serde_json::json;
use testkit::answer::Answer;
use testkit::runtime::Function;
use testkit::stage::Stage;
use testkit::tokens::token;
use testkit::upstream::{Gate, Script, Step, delta};

use crate::{
    PIECES, ask, gated, last_block, messages, resume, stop, stored, text, turn_id, wait_for,
};

/// A second, and what a loaded machine adds.
const STOPPED_WITHIN: Duration = Duration::from_millis(1_500);

async fn stage(script: Script) -> (Stage, Function) {
    let stage = crate::stage(vec![script]).await;
    let stopper = stage.function("stop-stream").start().await;
    (stage, stopper)
}

#[tokio::test]
async fn a_reply_is_stopped_between_deltas_and_what_was_seen_is_stored() {
    let gate = Gate::new();
    let (stage, stopper) = stage(gated(&gate)).await;
    let mut running = stage.say_streaming("晚上好呀").await;
    let turn = text(&running.next_event().await.expect("start").data["turn_id"]);
    for piece in &PIECES[..4] {
        let event = running.next_event().await.expect("a delta");
        assert_eq!(event.data["content"], *piece);
    }
    // Not another user's.
    let of_another = stop(&stage).token(&token("bob")).query("turn_id", &turn);
    stopper
        .invoke(&of_another.http())
        .await
        .assert_problem(404, "turn_not_found");
    let asked = Instant::now();
    let answer = stopper
        .invoke(&stop(&stage).query("turn_id", &turn).http())
        .await;
    assert_stopping(&answer, &turn);
    let answer = running.finish().await;
    assert!(asked.elapsed() < STOPPED_WITHIN, "{:?}", asked.elapsed());
    assert_eq!(answer.last()["finish_reason"], "stopped");
    assert_eq!(answer.last()["saved"], true);
    let said = PIECES[..4].concat();
    assert_eq!(stored(&stage.redis).await, ["晚上好呀", &said]);
    let newest: String = stage
        .redis
        .command(&["LINDEX", "chat:alice:luna:messages", "0"])
        .await;
    assert!(
        newest.contains(r#""metadata":{"finish_reason":"stopped"}"#),
        "{newest}"
    );
    stage.upstream.wait_until_no_streams().await;
    // It has ended.
    for event in [stop(&stage).query("turn_id", &turn), stop(&stage)] {
        stopper
            .invoke(&event.http())
            .await
            .assert_problem(404, "turn_not_found");
    }
    let again = stage.chat.invoke(&resume(&stage, &turn).http()).await;
    assert_eq!(last_block(&again), last_block(&answer));
    gate.open();
}

fn assert_stopping(answer: &Answer, turn: &str) {
    assert_eq!(answer.status, 202, "{}", answer.text());
    let stopping = json!({ "turn_id": turn, "state": "stopping" });
    assert_eq!(answer.json(), stopping);
}

/// The process of the turn stands still meanwhile, so that it cannot end the turn after the first stop.
#[tokio::test]
async fn to_stop_twice_is_to_stop_once() {
    let gate = Gate::new();
    let (stage, stopper) = stage(gated(&gate)).await;
    let mut running = stage.say_streaming("晚上好呀").await;
    let turn = text(&running.next_event().await.expect("start").data["turn_id"]);
    running.next_event().await.expect("a delta");
    // Its record says that it runs once the journal has written.
    wait_for(
        &stage.redis,
        &["GET", &format!("{}:text", crate::record(&turn))],
        Option::is_some,
    )
    .await;
    stage.chat.pause();
    // By its id, and as the newest that runs.
    for event in [stop(&stage).query("turn_id", &turn), stop(&stage)] {
        assert_stopping(&stopper.invoke(&event.http()).await, &turn);
    }
    stage.chat.resume();
    let asked = Instant::now();
    let answer = running.finish().await;
    assert!(asked.elapsed() < STOPPED_WITHIN, "{:?}", asked.elapsed());
    assert_eq!(answer.last()["finish_reason"], "stopped");
    assert_eq!(stored(&stage.redis).await.len(), 2);
    gate.open();
}

#[tokio::test]
async fn a_reply_is_stopped_while_the_model_is_silent() {
    for deltas in [0, 2] {
        let mut steps: Vec<Step> = PIECES[..deltas]
            .iter()
            .map(|text| Step::Bytes(delta(text)))
            .collect();
        steps.push(Step::Silence);
        let (stage, stopper) = stage(Script::raw(steps)).await;
        let mut running = stage.say_streaming("晚上好呀").await;
        running.next_event().await.expect("start");
        stage.upstream.wait_for_requests(1).await;
        for _ in 0..deltas {
            running.next_event().await.expect("a delta");
        }
        // Long enough that the journal has nothing left to write.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let asked = Instant::now();
        assert_eq!(stopper.invoke(&stop(&stage).http()).await.status, 202);
        let answer = running.finish().await;
        assert!(asked.elapsed() < STOPPED_WITHIN, "{:?}", asked.elapsed());
        assert_eq!(answer.last()["finish_reason"], "stopped");
        assert_eq!(answer.reply(), PIECES[..deltas].concat());
        if deltas == 0 {
            assert_eq!(answer.last()["unsaved"], "empty");
            assert!(stored(&stage.redis).await.is_empty());
        } else {
            assert_eq!(answer.last()["saved"], true);
        }
        stage.upstream.wait_until_no_streams().await;
    }
}

#[tokio::test]
async fn a_client_that_merely_leaves_stops_nothing() {
    let gate = Gate::new();
    let (stage, _stopper) = stage(gated(&gate)).await;
    let mut running = stage.say_streaming("晚上好呀").await;
    running.next_event().await.expect("start");
    running.next_event().await.expect("a delta");
    running.drop_connection();
    gate.open();
    stage.upstream.wait_until_no_streams().await;
    // The function polls again as soon as the connection is broken. The turn has a task of its own.
    wait_for(&stage.redis, &["LLEN", &messages()], |count| {
        count.as_deref() != Some("0")
    })
    .await;
    assert_eq!(stored(&stage.redis).await, ["晚上好呀", &PIECES.concat()]);
}

#[tokio::test]
async fn nothing_is_stopped_where_nothing_runs() {
    let (mut stage, stopper) = stage(Script::reply(&PIECES)).await;
    stopper
        .invoke(&stop(&stage).http())
        .await
        .assert_problem(404, "turn_not_found");
    let turn = turn_id(&stage.chat.invoke(&ask(&stage, "晚上好呀").http()).await);
    let event = stop(&stage).query("turn_id", &turn);
    stopper
        .invoke(&event.http())
        .await
        .assert_problem(404, "turn_not_found");
    stage.redis.kill().await;
    let answer = stopper.invoke(&event.http()).await;
    answer.assert_problem(503, "memory_unavailable");
    assert_eq!(answer.header("retry-after"), Some("1"));
}
