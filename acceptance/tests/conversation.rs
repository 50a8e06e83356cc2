//! A conversation from the client's point of view: the real binaries behind a stand-in for the platform, a real Redis,
//! and an upstream over real HTTP.
#![expect(clippy::expect_used, reason = "a test")]

use std::time::Duration;

use serde_json::{Value, json};
use testkit::events::{self, Event};
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tokens::{secret, token};
use testkit::upstream::{Gate, Script, Step, Upstream};

fn function(name: &str, redis: &Server) -> FunctionBuilder {
    Function::builder(name)
        .env("REDIS_URL", redis.url())
        .env("JWT_SECRET", secret())
}

fn chat_stream(redis: &Server, upstream: &Upstream) -> FunctionBuilder {
    function("chat-stream", redis).envs(upstream.env())
}

async fn stored(redis: &Server, user: &str) -> Vec<Value> {
    let elements: Vec<String> = redis
        .command(&["LRANGE", &format!("chat:{user}:luna:messages"), "0", "-1"])
        .await;
    elements
        .iter()
        .rev()
        .map(|element| serde_json::from_str(element).expect("JSON"))
        .collect()
}

fn contents(messages: &[Value]) -> Vec<&str> {
    messages
        .iter()
        .map(|message| message["content"].as_str().expect("text"))
        .collect()
}

#[tokio::test]
async fn a_character_streams_and_remembers() {
    let redis = Server::start().await;
    let upstream = Upstream::start(Script::reply(&["你", "好呀", "！"])).await;
    let chat = chat_stream(&redis, &upstream).start().await;
    let token = token("alice");

    let first = chat.invoke(&events::chat(&token, "luna", "我叫小雨")).await;
    assert_eq!(first.status, 200);
    assert_eq!(
        first.header("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
    assert_eq!(
        first.header("cache-control"),
        Some("no-cache, no-transform")
    );
    assert_eq!(first.header("x-accel-buffering"), Some("no"));
    assert_eq!(first.start()["memory"], "empty");
    assert_eq!(first.start()["history_messages"], 0);
    assert_eq!(first.reply(), "你好呀！");
    let last = first.last();
    assert_eq!(last["done"], true);
    assert_eq!(last["finish_reason"], "stop");
    assert_eq!(last["saved"], true);
    assert_eq!(
        last["usage"],
        json!({ "prompt_tokens": 310, "completion_tokens": 3 })
    );
    assert_eq!(last["turn_id"], first.start()["turn_id"]);
    let kinds: Vec<String> = first
        .events()
        .into_iter()
        .map(|event| event.event)
        .collect();
    assert_eq!(kinds, ["start", "message", "message", "message", "message"]);

    let second = chat
        .invoke(&events::chat(&token, "luna", "我叫什么？"))
        .await;
    assert_eq!(second.start()["memory"], "ok");
    assert_eq!(second.start()["history_messages"], 2);

    let sent = upstream.requests()[1].messages();
    let roles: Vec<&str> = sent.iter().map(|(role, _)| role.as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user"]);
    let texts: Vec<&str> = sent
        .iter()
        .skip(1)
        .map(|(_, content)| content.as_str())
        .collect();
    assert_eq!(texts, ["我叫小雨", "你好呀！", "我叫什么？"]);
    assert_eq!(
        upstream.requests()[1].body["stream_options"]["include_usage"],
        true
    );
    assert_eq!(upstream.requests()[1].body["model"], "model-of-a-test");
    assert_eq!(
        upstream.requests()[1].headers["authorization"],
        "Bearer sk-of-a-test"
    );

    let messages = stored(&redis, "alice").await;
    assert_eq!(
        contents(&messages),
        ["我叫小雨", "你好呀！", "我叫什么？", "你好呀！"]
    );
    assert_eq!(messages[1]["msg_id"], last["msg_id"]);
    assert_eq!(messages[1]["token_count"], 3);
    assert_eq!(messages[1]["metadata"], Value::Null);

    // Another user sees nothing of it.
    let other = chat
        .invoke(&events::chat(
            &testkit::tokens::token("bob"),
            "luna",
            "晚上好呀",
        ))
        .await;
    assert_eq!(other.start()["memory"], "empty");
}

#[tokio::test]
async fn a_delta_leaves_before_the_next_one_comes() {
    let redis = Server::start().await;
    let gate = Gate::new();
    let script = Script::deltas(&["一"])
        .then(Step::Wait(gate.clone()))
        .then_delta("二")
        .finish("stop")
        .done();
    let upstream = Upstream::start(script).await;
    let chat = chat_stream(&redis, &upstream).start().await;

    let mut answer = chat
        .invoke_streaming(&events::chat(&token("alice"), "luna", "数数"))
        .await;
    assert_eq!(answer.next_event().await.expect("start").event, "start");
    assert_eq!(
        answer.next_event().await.expect("a delta").data["content"],
        "一"
    );
    // The upstream is held until here, so the first delta cannot have waited for the second.
    gate.open();
    assert_eq!(
        answer.next_event().await.expect("a delta").data["content"],
        "二"
    );
    assert_eq!(answer.finish().await.reply(), "一二");
}

#[tokio::test]
async fn a_turn_outlives_its_connection() {
    let redis = Server::start().await;
    let gate = Gate::new();
    let script = Script::deltas(&["一"])
        .then(Step::Wait(gate.clone()))
        .then_delta("二")
        .finish("stop")
        .done();
    let upstream = Upstream::start(script).await;
    let chat = chat_stream(&redis, &upstream).start().await;
    let token = token("alice");

    let mut answer = chat
        .invoke_streaming(&events::chat(&token, "luna", "数数"))
        .await;
    assert_eq!(answer.next_event().await.expect("start").event, "start");
    // The platform breaks while the upstream is silent.
    drop(answer);
    chat.wait_idle().await;
    gate.open();
    upstream.wait_until_no_streams().await;

    // The turn is there as soon as its commit is, and the commit follows the last delta.
    let messages = wait_for_messages(&redis, "alice", 2).await;
    assert_eq!(contents(&messages), ["数数", "一二"]);
}

async fn wait_for_messages(redis: &Server, user: &str, count: usize) -> Vec<Value> {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let messages = stored(redis, user).await;
            if messages.len() >= count {
                return messages;
            }
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("the turn is stored")
}

#[tokio::test]
async fn a_turn_that_began_before_a_clear_is_not_stored_after_it() {
    let redis = Server::start().await;
    let gate = Gate::new();
    let held = Script::deltas(&["旧"])
        .then(Step::Wait(gate.clone()))
        .finish("stop")
        .done();
    let upstream = Upstream::start_sequence(vec![held, Script::reply(&["新"])]).await;
    let chat = chat_stream(&redis, &upstream).start().await;
    let clear = function("clear-history", &redis).start().await;
    let token = token("alice");

    let mut answer = chat
        .invoke_streaming(&events::chat(&token, "luna", "旧事"))
        .await;
    assert_eq!(answer.next_event().await.expect("start").event, "start");
    let cleared = clear.invoke(&events::clear(&token, "luna")).await;
    assert_eq!(
        (cleared.status, cleared.json()),
        (200, json!({ "message": "历史已清空" }))
    );
    gate.open();
    let answer = answer.finish().await;
    assert_eq!(answer.reply(), "旧");
    assert_eq!(answer.last()["saved"], false);
    assert_eq!(stored(&redis, "alice").await, Vec::<Value>::new());

    // A turn that begins after it is.
    let after = chat.invoke(&events::chat(&token, "luna", "新事")).await;
    assert_eq!(after.last()["saved"], true);
    assert_eq!(contents(&stored(&redis, "alice").await), ["新事", "新"]);
}

#[tokio::test]
async fn fifty_turns_at_once_on_one_session_are_fifty_whole_turns() {
    let redis = Server::start().await;
    let upstream = Upstream::start(Script::reply(&["甲", "乙"])).await;
    let chat = chat_stream(&redis, &upstream).concurrency(50).start().await;
    let token = token("alice");

    let turns: Vec<_> = (0..50)
        .map(|n| events::chat(&token, "luna", &format!("第{n}句")))
        .collect();
    let answers =
        futures_util::future::join_all(turns.iter().map(|event| chat.invoke(event))).await;
    for answer in &answers {
        assert_eq!(answer.reply(), "甲乙");
        assert_eq!(answer.last()["saved"], true);
    }
    let messages = stored(&redis, "alice").await;
    assert_eq!(messages.len(), 100);
    let mut said: Vec<&str> = Vec::new();
    for turn in messages.chunks(2) {
        assert_eq!(
            (turn[0]["role"].as_str(), turn[1]["role"].as_str()),
            (Some("user"), Some("assistant"))
        );
        said.push(turn[0]["content"].as_str().expect("text"));
    }
    said.sort_unstable();
    said.dedup();
    assert_eq!(said.len(), 50);

    let session = function("session-meta", &redis).start().await;
    let session = session
        .invoke(&events::session(&token, "luna"))
        .await
        .json();
    assert_eq!(
        (&session["message_count"], &session["stored_messages"]),
        (&json!(100), &json!(100))
    );
}

#[tokio::test]
async fn without_usage_the_exact_counts_are_ours_and_special_tokens_are_text() {
    let redis = Server::start().await;
    let upstream =
        Upstream::start(Script::deltas(&["hello", " world"]).finish("stop").done()).await;
    let chat = chat_stream(&redis, &upstream).start().await;

    let answer = chat
        .invoke(&events::chat(&token("alice"), "luna", "<|endoftext|>"))
        .await;
    assert_eq!(answer.last()["usage"]["completion_tokens"], 2);
    assert_eq!(answer.last()["saved"], true);
    let messages = stored(&redis, "alice").await;
    assert_eq!(messages[0]["content"], "<|endoftext|>");
    // Seven tokens as text, one as a special token.
    assert_eq!(messages[0]["token_count"], 7);
    assert_eq!(messages[1]["token_count"], 2);
}

#[tokio::test]
async fn metadata_is_stored_to_the_letter() {
    let redis = Server::start().await;
    let upstream = Upstream::start(Script::reply(&["好"])).await;
    let chat = chat_stream(&redis, &upstream).start().await;

    let body = r#"{"character_id":"luna","message":"晚上好呀","metadata":{"n":12345678901234567890123.50,"客户端":"ios"},"x":1}"#;
    let event = Event::stream()
        .token(&token("alice"))
        .header("content-type", "application/json; charset=UTF-8")
        .body(body);
    assert_eq!(chat.invoke(&event.rest()).await.last()["saved"], true);
    let elements: Vec<String> = redis
        .command(&["LRANGE", "chat:alice:luna:messages", "0", "-1"])
        .await;
    assert!(
        elements[1].ends_with(r#""metadata":{"n":12345678901234567890123.50,"客户端":"ios"}}"#),
        "{}",
        elements[1]
    );
}

#[tokio::test]
async fn a_panic_in_a_turn_is_an_event_and_the_next_turn_works() {
    let redis = Server::start().await;
    let mut chat = function("chat-stream", &redis)
        .env("LLM_PROVIDER", "echo")
        .test_hooks()
        .start()
        .await;
    let token = token("alice");

    let broken = chat.invoke(&events::chat(&token, "luna", "/panic")).await;
    assert_eq!(broken.status, 200);
    assert_eq!(broken.reply(), "好的");
    let last = broken.last();
    assert_eq!(
        (&last["code"], &last["saved"]),
        (&json!("internal"), &json!(false))
    );
    assert_eq!(last["turn_id"], broken.start()["turn_id"]);

    let next = chat.invoke(&events::chat(&token, "luna", "晚上好呀")).await;
    assert_eq!(next.last()["saved"], true);
    assert!(chat.is_running());
    // What was said is in no log, the panic's neither.
    assert!(!chat.printed("panic").await.contains("好的"));
}

#[tokio::test]
async fn a_broken_answer_costs_a_concurrent_process_nothing() {
    let redis = Server::start().await;
    let gate = Gate::new();
    let held = Script::deltas(&["一"])
        .then(Step::Wait(gate.clone()))
        .finish("stop")
        .done();
    let upstream = Upstream::start(held).await;
    let chat = chat_stream(&redis, &upstream).concurrency(2).start().await;
    let token = token("alice");
    // More of them break than there are workers.
    for _ in 0..3 {
        let mut answer = chat
            .invoke_streaming(&events::chat(&token, "luna", "断"))
            .await;
        assert_eq!(answer.next_event().await.expect("start").event, "start");
        drop(answer);
        chat.wait_idle().await;
    }
    // Two at the same time still run: each begins while the upstream holds the other.
    let mut first = chat
        .invoke_streaming(&events::chat(&token, "luna", "甲"))
        .await;
    let mut second = chat
        .invoke_streaming(&events::chat(&token, "luna", "乙"))
        .await;
    for answer in [&mut first, &mut second] {
        assert_eq!(answer.next_event().await.expect("start").event, "start");
        assert_eq!(
            answer.next_event().await.expect("a delta").data["content"],
            "一"
        );
    }
    gate.open();
    assert_eq!(first.finish().await.last()["saved"], true);
    assert_eq!(second.finish().await.last()["saved"], true);
    assert_eq!(wait_for_messages(&redis, "alice", 10).await.len(), 10);
}
