//! All requests with one key are one turn.

use futures_util::future::join_all;
use serde_json::json;
use testkit::events::Event;
use testkit::stage::Stage;
use testkit::upstream::{Gate, Script};

use crate::{PIECES, ask, gated, last_block, stage, stored, turn_id};

const KEY: &str = "Idempotency-Key";

#[tokio::test]
async fn twenty_requests_with_one_key_are_one_turn() {
    let gate = Gate::new();
    let stage = stage(vec![gated(&gate)]).await;
    let mut processes = Vec::new();
    for _ in 0..3 {
        processes.push(stage.function("chat-stream").concurrency(8).start().await);
    }
    let event = ask(&stage, "晚上好呀").header(KEY, "one").http();
    let streams =
        join_all((0..20).map(|number| processes[number % 3].invoke_streaming(&event))).await;
    gate.open();
    let answers = join_all(streams.into_iter().map(testkit::runtime::Streaming::finish)).await;
    // And later.
    let later = processes[0].invoke(&event).await;
    for answer in answers.iter().chain([&later]) {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.start(), later.start());
        assert_eq!(answer.reply(), PIECES.concat());
        assert_eq!(last_block(answer), last_block(&later));
        assert_eq!(answer.last()["saved"], true);
    }
    assert_eq!(stage.upstream.requests().len(), 1);
    assert_eq!(stored(&stage.redis).await, ["晚上好呀", &PIECES.concat()]);
}

#[tokio::test]
async fn a_key_is_of_one_request_of_one_user() {
    let stage = stage(vec![
        Script::reply(&["一"]),
        Script::reply(&["二"]),
        Script::reply(&["三"]),
    ])
    .await;
    let first = stage
        .chat
        .invoke(&ask(&stage, "晚上好呀").header(KEY, "\"k\"").http())
        .await;
    // The quotes are not part of it.
    let again = stage
        .chat
        .invoke(&ask(&stage, "晚上好呀").header(KEY, "k").http())
        .await;
    assert_eq!(again.text(), first.text());
    let with = |body: serde_json::Value| {
        Event::stream()
            .token(&stage.token)
            .json(&body)
            .header(KEY, "k")
    };
    for other in [
        json!({ "character_id": "luna", "message": "晚上好" }),
        json!({ "character_id": "kai", "message": "晚上好呀" }),
        json!({ "character_id": "luna", "message": "晚上好呀", "metadata": {} }),
    ] {
        let answer = stage.chat.invoke(&with(other).http()).await;
        answer.assert_problem(422, "idempotency_key_reused");
    }
    // Fields that are ignored make no other request.
    let ignored = with(json!({ "message": "晚上好呀", "character_id": "luna", "unknown": 1 }));
    assert_eq!(
        stage.chat.invoke(&ignored.http()).await.text(),
        first.text()
    );
    assert_eq!(stage.upstream.requests().len(), 1);
    // Another key, and another user.
    let two = stage
        .chat
        .invoke(&ask(&stage, "晚上好呀").header(KEY, "K").http())
        .await;
    assert_eq!(two.reply(), "二");
    let bob = testkit::tokens::token("bob");
    let three = stage
        .chat
        .invoke(&ask(&stage, "晚上好呀").token(&bob).header(KEY, "k").http())
        .await;
    assert_eq!(three.reply(), "三");
    for key in ["", "a b", "é", &"k".repeat(256)] {
        let answer = stage
            .chat
            .invoke(&ask(&stage, "晚上好呀").header(KEY, key).http())
            .await;
        answer.assert_problem(422, "invalid_request");
    }
}

#[tokio::test]
async fn a_request_that_is_refused_leaves_its_key_free() {
    let stage = Stage::builder().start().await;
    let many = stage.function("chat-stream").concurrency(8).start().await;
    let body = json!({ "character_id": "nobody", "message": "晚上好呀" });
    let refused = Event::stream()
        .token(&stage.token)
        .json(&body)
        .header(KEY, "k")
        .http();
    for answer in join_all((0..8).map(|_| many.invoke(&refused))).await {
        answer.assert_problem(404, "character_not_found");
    }
    let answer = stage
        .chat
        .invoke(&ask(&stage, "晚上好呀").header(KEY, "k").http())
        .await;
    assert_eq!(answer.last()["saved"], true);
    let keys: Vec<String> = stage.redis.command(&["KEYS", "chat:*:nobody:*"]).await;
    assert!(keys.is_empty(), "{keys:?}");
}

#[tokio::test]
async fn a_turn_whose_record_was_cleared_is_not_begun_again_by_its_key() {
    let stage = Stage::builder().start().await;
    let clear = stage.function("clear-history").start().await;
    let event = ask(&stage, "晚上好呀").header(KEY, "k").http();
    let answer = stage.chat.invoke(&event).await;
    assert!(!turn_id(&answer).is_empty());
    clear
        .invoke(&testkit::events::clear(&stage.token, Stage::CHARACTER))
        .await;
    stage
        .chat
        .invoke(&event)
        .await
        .assert_problem(404, "turn_not_found");
    assert_eq!(stage.upstream.requests().len(), 1);
}
