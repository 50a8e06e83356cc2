//! Redis fails before, during and after a reply. The conversation goes on, and what the client is told is true.
#![expect(clippy::indexing_slicing, reason = "a test")]

use std::time::{Duration, Instant};

use serde_json::json;
use testkit::events;
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tokens::{secret, token};
use testkit::upstream::{Gate, Script, Step, Upstream};

const BUDGET: Duration = Duration::from_millis(1_000);
/// What a loaded machine may add to a time limit.
const SLACK: Duration = Duration::from_millis(400);

fn function(name: &str, redis: &Server, upstream: &Upstream) -> FunctionBuilder {
    Function::builder(name)
        .env("REDIS_URL", redis.url())
        .env("REDIS_BREAKER_COOLDOWN_MS", "50")
        .env("JWT_SECRET", secret())
        .envs(upstream.env())
}

/// Talks until memory is there again; every turn until then must stream all the same.
async fn talk_until_memory_is_back(chat: &Function, token: &str) -> serde_json::Value {
    let started = Instant::now();
    loop {
        let answer = chat.invoke(&events::chat(token, "luna", "你还在吗")).await;
        assert_eq!(answer.reply(), "在的");
        if answer.start()["memory"] != "unavailable" {
            return answer.start();
        }
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "memory does not come back"
        );
    }
}

#[tokio::test]
async fn a_conversation_survives_a_redis_that_is_killed_before_it() {
    let mut redis = Server::start().await;
    let upstream = Upstream::start(Script::reply(&["在", "的"])).await;
    redis.kill().await;
    // It starts without Redis, and the sample characters need none.
    let chat = function("chat-stream", &redis, &upstream).start().await;
    let token = token("alice");

    let answer = chat.invoke(&events::chat(&token, "luna", "你在吗？")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.start()["memory"], "unavailable");
    assert_eq!(answer.start()["history_messages"], 0);
    assert_eq!(answer.reply(), "在的");
    assert_eq!(answer.last()["saved"], false);
    assert_eq!(answer.last()["finish_reason"], "stop");

    // An unknown character cannot be told from one that is only in Redis.
    let unknown = chat
        .invoke(&events::chat(&token, "somebody", "你在吗？"))
        .await;
    assert_eq!(
        (unknown.status, unknown.json()["code"].clone()),
        (503, json!("memory_unavailable"))
    );
    assert!(unknown.header("retry-after").is_some());

    // While it stays down, nobody waits for it again.
    let answer = chat.invoke(&events::chat(&token, "luna", "你在吗？")).await;
    let first = answer.events().first().expect("a start").at - answer.handed_over;
    assert!(first < Duration::from_millis(50) + SLACK, "{first:?}");

    redis.restart().await;
    talk_until_memory_is_back(&chat, &token).await;
    let unknown = chat
        .invoke(&events::chat(&token, "somebody", "你在吗？"))
        .await;
    assert_eq!(
        (unknown.status, unknown.json()["code"].clone()),
        (404, json!("character_not_found"))
    );
}

#[tokio::test]
async fn a_reply_survives_a_redis_that_is_killed_in_the_middle_of_it() {
    let mut redis = Server::start().await;
    let gate = Gate::new();
    let held = Script::deltas(&["在"])
        .then(Step::Wait(gate.clone()))
        .then_delta("的")
        .finish("stop")
        .done();
    let upstream = Upstream::start_sequence(vec![held, Script::reply(&["在", "的"])]).await;
    let chat = function("chat-stream", &redis, &upstream).start().await;
    let token = token("alice");

    let mut answer = chat
        .invoke_streaming(&events::chat(&token, "luna", "你在吗？"))
        .await;
    assert_eq!(
        answer.next_event().await.expect("start").data["memory"],
        "empty"
    );
    assert_eq!(
        answer.next_event().await.expect("a delta").data["content"],
        "在"
    );
    redis.kill().await;
    gate.open();
    let answer = answer.finish().await;
    assert_eq!(answer.reply(), "在的");
    assert_eq!(
        (&answer.last()["saved"], &answer.last()["done"]),
        (&json!(false), &json!(true))
    );

    redis.restart().await;
    talk_until_memory_is_back(&chat, &token).await;
}

#[tokio::test]
async fn a_redis_that_is_killed_and_restarted_between_turns_is_found_again() {
    let mut redis = Server::start().await;
    let upstream = Upstream::start(Script::reply(&["在", "的"])).await;
    let chat = function("chat-stream", &redis, &upstream).start().await;
    let token = token("alice");
    assert_eq!(
        chat.invoke(&events::chat(&token, "luna", "你在吗？"))
            .await
            .last()["saved"],
        true
    );

    redis.restart().await;
    // The connection is dead and the scripts are gone, and the next turn notices neither.
    let answer = chat.invoke(&events::chat(&token, "luna", "你在吗？")).await;
    assert_eq!(
        (&answer.start()["memory"], &answer.last()["saved"]),
        (&json!("empty"), &json!(true))
    );
    let answer = chat.invoke(&events::chat(&token, "luna", "你在吗？")).await;
    assert_eq!(answer.start()["history_messages"], 2);
}

#[tokio::test]
async fn a_redis_that_stands_still_delays_the_first_byte_by_one_budget_at_most_and_once() {
    let redis = Server::start().await;
    let upstream = Upstream::start(Script::reply(&["在", "的"])).await;
    let chat = function("chat-stream", &redis, &upstream).start().await;
    let token = token("alice");
    chat.invoke(&events::chat(&token, "luna", "你在吗？")).await;

    redis.pause();
    let first_frame = async || {
        let answer = chat.invoke(&events::chat(&token, "luna", "你在吗？")).await;
        assert_eq!(answer.start()["memory"], "unavailable");
        assert_eq!(answer.reply(), "在的");
        answer.events().first().expect("a start").at - answer.handed_over
    };
    let waited = first_frame().await;
    assert!(waited < BUDGET + SLACK, "{waited:?}");
    for _ in 0..3 {
        let waited = first_frame().await;
        assert!(waited < Duration::from_millis(50) + SLACK, "{waited:?}");
    }
    redis.resume();
    assert_eq!(
        talk_until_memory_is_back(&chat, &token).await["memory"],
        "ok"
    );
}

#[tokio::test]
async fn a_stored_character_is_used_and_kept_while_redis_is_down() {
    let mut redis = Server::start().await;
    let upstream = Upstream::start(Script::reply(&["在", "的"])).await;
    let chat = function("chat-stream", &redis, &upstream).start().await;
    let token = token("alice");
    let character = json!({ "name": "Rin", "system_prompt": "你是 Rin。", "temperature": 0.5, "model": "model-of-rin" });
    redis
        .command::<String>(&["SET", "character:rin", &character.to_string()])
        .await;
    assert_eq!(
        chat.invoke(&events::chat(&token, "rin", "你在吗？"))
            .await
            .status,
        200
    );

    redis.kill().await;
    assert_eq!(
        chat.invoke(&events::chat(&token, "rin", "你在吗？"))
            .await
            .status,
        200
    );
    for request in upstream.requests() {
        assert_eq!(
            request.messages().first().expect("a prompt").1,
            "你是 Rin。"
        );
        assert_eq!(
            (&request.body["model"], &request.body["temperature"]),
            (&json!("model-of-rin"), &json!(0.5))
        );
    }
}

#[tokio::test]
async fn a_process_that_was_frozen_reads_its_memory_over_a_new_connection() {
    let redis = Server::start().await;
    let upstream = Upstream::start(Script::reply(&["在", "的"])).await;
    let chat = function("chat-stream", &redis, &upstream).start().await;
    let token = token("alice");
    chat.invoke(&events::chat(&token, "luna", "你在吗？")).await;
    chat.wait_idle().await;

    chat.pause();
    redis
        .command::<i64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
        .await;
    chat.resume();
    let answer = chat.invoke(&events::chat(&token, "luna", "你在吗？")).await;
    assert_eq!(
        (
            &answer.start()["memory"],
            &answer.start()["history_messages"]
        ),
        (&json!("ok"), &json!(2))
    );
}

#[tokio::test]
async fn the_end_of_the_invocation_is_the_end_of_the_reply_and_not_of_the_turn() {
    let redis = Server::start().await;
    let upstream = Upstream::start(Script::deltas(&["在"]).then(Step::Silence)).await;
    let chat = function("chat-stream", &redis, &upstream)
        .deadline(Duration::from_secs(3))
        .start()
        .await;

    let answer = chat
        .invoke(&events::chat(&token("alice"), "luna", "你在吗？"))
        .await;
    assert!(answer.ended - answer.handed_over < Duration::from_secs(3));
    let last = answer.last();
    assert_eq!(
        (&last["code"], &last["saved"]),
        (&json!("upstream_timeout"), &json!(true))
    );
}
