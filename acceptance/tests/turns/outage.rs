//! Redis is down for the whole turn, from the middle, or until the middle: the stream is as without records.

use serde_json::json;
use testkit::events::Event;
use testkit::redis::Server;
use testkit::stage::Stage;
use testkit::upstream::{Gate, Script};

use crate::{PIECES, ask, gated, resume, stage, stored, text, turn_id, wait_for};

#[tokio::test]
async fn two_requests_with_one_key_that_began_without_redis_are_stored_once() {
    let gates = [Gate::new(), Gate::new()];
    let mut redis = Server::start().await;
    redis.kill().await;
    let mut stage = Stage::builder()
        .upstream_scripts(vec![gated(&gates[0]), gated(&gates[1])])
        .env("REDIS_BREAKER_COOLDOWN_MS", "100")
        .start_with(redis)
        .await;
    let other = stage.function("chat-stream").start().await;
    let event = ask(&stage, "晚上好呀")
        .header("idempotency-key", "k")
        .http();
    let mut first = stage.chat.invoke_streaming(&event).await;
    let start = first.next_event().await.expect("start").data;
    assert_eq!(
        (&start["resumable"], &start["memory"]),
        (&false.into(), &"unavailable".into())
    );
    let second = other.invoke_streaming(&event).await;
    stage.redis.restart().await;
    gates[0].open();
    let first = first.finish().await;
    gates[1].open();
    let second = second.finish().await;
    assert_eq!(
        (first.reply(), second.reply()),
        (PIECES.concat(), PIECES.concat())
    );
    assert_eq!(first.last()["saved"], true);
    assert_eq!(second.last()["unsaved"], "conflict");
    assert_eq!(stored(&stage.redis).await, ["晚上好呀", &PIECES.concat()]);
    // Later requests get the turn that is stored.
    let third = stage.chat.invoke(&event).await;
    assert_eq!(
        (turn_id(&third), third.reply()),
        (turn_id(&first), PIECES.concat())
    );
}

#[tokio::test]
async fn redis_that_goes_in_the_middle_costs_the_stream_nothing() {
    let gate = Gate::new();
    let mut stage = stage(vec![gated(&gate)]).await;
    let mut running = stage.say_streaming("晚上好呀").await;
    let start = running.next_event().await.expect("start").data;
    assert_eq!(start["resumable"], true);
    running.next_event().await.expect("a delta");
    stage.redis.kill().await;
    gate.open();
    let answer = running.finish().await;
    assert_eq!(answer.reply(), PIECES.concat());
    assert_eq!(answer.last()["unsaved"], "memory");
    let event = resume(&stage, &text(&start["turn_id"]));
    stage
        .chat
        .invoke(&event.http())
        .await
        .assert_problem(503, "memory_unavailable");
}

/// Shorter than the read budget of the turn that must not wait for its claim: it would get it.
const PAUSE_MS: &str = "8000";

#[tokio::test]
async fn a_turn_is_not_held_up_by_a_server_that_pauses_writes() {
    let gate = Gate::new();
    let stage = Stage::builder()
        .upstream_scripts(vec![Script::reply(&["旧"]), gated(&gate)])
        .env("MEMORY_READ_TIMEOUT_MS", "10000")
        .start()
        .await;
    assert_eq!(stage.say("晚上好呀").await.last()["saved"], true);
    let pause = ["CLIENT", "PAUSE", PAUSE_MS, "WRITE"];
    stage.redis.command::<String>(&pause).await;
    let mut running = stage.say_streaming("还在吗？").await;
    let start = running.next_event().await.expect("start").data;
    assert_eq!(
        (
            &start["memory"],
            &start["history_messages"],
            &start["resumable"]
        ),
        (&"ok".into(), &2.into(), &false.into())
    );
    running.next_event().await.expect("a delta");
    let unpause = ["CLIENT", "UNPAUSE"];
    stage.redis.command::<String>(&unpause).await;
    gate.open();
    let answer = running.finish().await;
    assert_eq!(
        (answer.reply(), &answer.last()["saved"]),
        (PIECES.concat(), &true.into())
    );
}

#[tokio::test]
async fn a_turn_that_is_refused_before_its_claim_is_answered_leaves_no_record() {
    let stage = Stage::builder()
        .env("MEMORY_READ_TIMEOUT_MS", "10000")
        .start()
        .await;
    let pause = ["CLIENT", "PAUSE", PAUSE_MS, "WRITE"];
    stage.redis.command::<String>(&pause).await;
    let body = json!({ "character_id": "nobody", "message": "晚上好呀" });
    let refused = Event::stream().token(&stage.token).json(&body).http();
    let refused = stage.chat.invoke(&refused).await;
    refused.assert_problem(404, "character_not_found");
    let unpause = ["CLIENT", "UNPAUSE"];
    stage.redis.command::<String>(&unpause).await;
    // The server carries out the claim before it answers to this.
    let count = "return #redis.call('KEYS', 'chat:*:nobody:*')";
    let count = ["EVAL", count, "0"];
    wait_for(&stage.redis, &count, |count| count.as_deref() == Some("0")).await;
}

/// A record that cannot be written says nothing about reads.
#[tokio::test]
async fn a_turn_that_cannot_be_recorded_takes_the_memory_from_no_other() {
    let gates = [Gate::new(), Gate::new()];
    let stage = Stage::builder()
        .upstream_scripts(vec![gated(&gates[0]), gated(&gates[1])])
        .env("MEMORY_READ_TIMEOUT_MS", "300")
        .start()
        .await;
    let chat = stage.function("chat-stream").concurrency(2).start().await;
    let event = ask(&stage, "晚上好呀").http();
    let mut first = chat.invoke_streaming(&event).await;
    let start = first.next_event().await.expect("start").data;
    assert_eq!(start["resumable"], true);
    let pause = ["CLIENT", "PAUSE", PAUSE_MS, "WRITE"];
    stage.redis.command::<String>(&pause).await;
    chat.printed("Redis failed").await;
    let mut second = chat.invoke_streaming(&event).await;
    let start = second.next_event().await.expect("start").data;
    assert_eq!(start["memory"], "empty");
    let unpause = ["CLIENT", "UNPAUSE"];
    stage.redis.command::<String>(&unpause).await;
    for (gate, running) in gates.iter().zip([first, second]) {
        gate.open();
        assert_eq!(running.finish().await.last()["saved"], true);
    }
}

#[tokio::test]
async fn a_reader_outlives_a_restart_of_redis() {
    let gate = Gate::new();
    let redis = Server::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let mut stage = Stage::builder()
        .upstream_scripts(vec![gated(&gate), Script::reply(&["好"])])
        .env("REDIS_BREAKER_COOLDOWN_MS", "100")
        .start_with(redis)
        .await;
    let other = stage.function("chat-stream").start().await;
    let mut running = stage.say_streaming("晚上好呀").await;
    let turn = text(&running.next_event().await.expect("start").data["turn_id"]);
    let mut reader = other.invoke_streaming(&resume(&stage, &turn).http()).await;
    reader.next_event().await.expect("start");
    stage.redis.kill().await;
    stage.redis.restart().await;
    gate.open();
    let (owner, reader) = (running.finish().await, reader.finish().await);
    assert_eq!(owner.last()["saved"], true);
    assert_eq!(
        (reader.reply(), reader.last()),
        (owner.reply(), owner.last())
    );
}
