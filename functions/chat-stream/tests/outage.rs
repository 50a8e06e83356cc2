//! Redis fails before, during and after a reply. The conversation goes on, and what the client reads about it is true.
#![expect(clippy::indexing_slicing, reason = "a test")]

use std::time::Duration;

use serde_json::json;
use testkit::answer::Answer;
use testkit::redis::Server;
use testkit::stage::{Stage, StageBuilder};
use testkit::upstream::{Gate, Script, Step};

/// The default of `MEMORY_READ_TIMEOUT_MS`.
const READ_BUDGET: Duration = Duration::from_millis(1_000);
/// The longest that a turn takes to begin while Redis is known to be down.
const WITHOUT_REDIS: Duration = Duration::from_millis(50);
/// What a loaded machine may add to a time limit.
const SLACK: Duration = Duration::from_millis(400);

/// An upstream that replies "在的" and functions that ask a Redis that is down again after 50 ms.
fn stage() -> StageBuilder {
    Stage::builder()
        .upstream("在的")
        .env("REDIS_BREAKER_COOLDOWN_MS", "50")
}

fn first_byte(answer: &Answer) -> Duration {
    answer.events()[0].at - answer.handed_over
}

#[track_caller]
fn assert_saved(answer: &Answer) {
    assert_eq!(answer.reply(), "在的");
    assert_eq!(answer.last()["saved"], true);
}

#[track_caller]
fn assert_without_memory(answer: &Answer) {
    assert_eq!(answer.status, 200);
    assert_eq!(answer.start()["memory"], "unavailable");
    assert_eq!(answer.start()["history_messages"], 0);
    assert_eq!(answer.reply(), "在的");
    assert_eq!(answer.last()["finish_reason"], "stop");
    assert_eq!(answer.last()["saved"], false);
}

#[tokio::test]
async fn a_conversation_goes_on_while_redis_is_down_and_is_remembered_again_afterwards() {
    let mut stage = stage().start().await;
    assert_saved(&stage.say("你在吗？").await);

    stage.redis.kill().await;
    assert_without_memory(&stage.say("你在吗？").await);

    stage.redis.restart().await;
    stage.say_until_memory_is_back("在的").await;
    assert_saved(&stage.say("你在吗？").await);
}

#[tokio::test]
async fn a_function_that_starts_without_redis_finds_it_later() {
    let mut redis = Server::start().await;
    redis.kill().await;
    let mut stage = stage().start_with(redis).await;
    assert_without_memory(&stage.say("你在吗？").await);

    stage.redis.restart().await;
    stage.say_until_memory_is_back("在的").await;
}

#[tokio::test]
async fn while_redis_stays_down_later_turns_do_not_wait_for_it() {
    let mut stage = stage().start().await;
    stage.redis.kill().await;
    assert_without_memory(&stage.say("你在吗？").await);

    let answer = stage.say("你在吗？").await;
    assert_without_memory(&answer);
    let waited = first_byte(&answer);
    assert!(waited < WITHOUT_REDIS + SLACK, "{waited:?}");
}

/// While Redis is down, it cannot be told from one that is stored there.
#[tokio::test]
async fn an_unknown_character_is_not_refused_as_unknown_before_redis_is_back() {
    let mut stage = stage().start().await;
    let unknown = async |stage: &Stage| stage.say_to("somebody", "你在吗？").await;
    unknown(&stage)
        .await
        .assert_problem(404, "character_not_found");

    stage.redis.kill().await;
    unknown(&stage)
        .await
        .assert_problem(503, "memory_unavailable");

    stage.redis.restart().await;
    stage.say_until_memory_is_back("在的").await;
    unknown(&stage)
        .await
        .assert_problem(404, "character_not_found");
}

#[tokio::test]
async fn a_reply_survives_a_redis_that_is_killed_in_the_middle_of_it() {
    let gate = Gate::new();
    let held = Script::deltas(&["在"])
        .then(Step::Wait(gate.clone()))
        .then_delta("的")
        .finish("stop")
        .done();
    let scripts = vec![held, Script::reply(&["在的"])];
    let mut stage = stage().upstream_scripts(scripts).start().await;

    let mut answer = stage.say_streaming("你在吗？").await;
    let start = answer.next_event().await.expect("a start");
    assert_eq!(start.data["memory"], "empty");
    let delta = answer.next_event().await.expect("a delta");
    assert_eq!(delta.data["content"], "在");
    stage.redis.kill().await;
    gate.open();
    let answer = answer.finish().await;
    assert_eq!(answer.reply(), "在的");
    let last = answer.last();
    assert_eq!(
        (&last["saved"], &last["done"]),
        (&json!(false), &json!(true))
    );

    stage.redis.restart().await;
    stage.say_until_memory_is_back("在的").await;
}

#[tokio::test]
async fn a_redis_that_is_killed_and_restarted_between_turns_is_found_again() {
    let mut stage = stage().start().await;
    assert_saved(&stage.say("你在吗？").await);

    // The connection is dead and the scripts are gone, and the next turn notices neither.
    stage.redis.restart().await;
    let answer = stage.say("你在吗？").await;
    assert_eq!(answer.start()["memory"], "empty");
    assert_saved(&answer);

    let answer = stage.say("你在吗？").await;
    assert_eq!(answer.start()["history_messages"], 2);
}

#[tokio::test]
async fn a_redis_that_stands_still_delays_the_first_byte_by_one_budget_at_most_and_once() {
    let stage = stage().start().await;
    assert_saved(&stage.say("你在吗？").await);

    stage.redis.pause();
    for limit in [READ_BUDGET, WITHOUT_REDIS, WITHOUT_REDIS, WITHOUT_REDIS] {
        let answer = stage.say("你在吗？").await;
        assert_without_memory(&answer);
        let waited = first_byte(&answer);
        assert!(waited < limit + SLACK, "{waited:?} of {limit:?}");
    }

    stage.redis.resume();
    let start = stage.say_until_memory_is_back("在的").await;
    assert_eq!(start["memory"], "ok");
}

#[tokio::test]
async fn a_stored_character_is_used_and_kept_while_redis_is_down() {
    let mut stage = stage().start().await;
    let character = json!({ "name": "Rin", "system_prompt": "你是 Rin。", "temperature": 0.5, "model": "model-of-rin" });
    stage
        .redis
        .command::<String>(&["SET", "character:rin", &character.to_string()])
        .await;
    assert_eq!(stage.say_to("rin", "你在吗？").await.status, 200);

    stage.redis.kill().await;
    assert_eq!(stage.say_to("rin", "你在吗？").await.status, 200);
    let requests = stage.upstream.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert_eq!(request.messages()[0].1, "你是 Rin。");
        assert_eq!(
            (&request.body["model"], &request.body["temperature"]),
            (&json!("model-of-rin"), &json!(0.5))
        );
    }
}

#[tokio::test]
async fn a_process_that_was_frozen_reads_its_memory_over_a_new_connection() {
    let stage = stage().start().await;
    assert_saved(&stage.say("你在吗？").await);
    stage.chat.wait_idle().await;

    stage.chat.pause();
    stage
        .redis
        .command::<i64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
        .await;
    stage.chat.resume();
    let start = stage.say("你在吗？").await.start();
    assert_eq!(
        (&start["memory"], &start["history_messages"]),
        (&json!("ok"), &json!(2))
    );
}

#[tokio::test]
async fn the_end_of_the_invocation_is_the_end_of_the_reply_and_not_of_the_turn() {
    let silent = Script::deltas(&["在"]).then(Step::Silence);
    let stage = stage()
        .upstream_scripts(vec![silent])
        .deadline(Duration::from_secs(3))
        .start()
        .await;

    let answer = stage.say("你在吗？").await;
    assert!(answer.ended - answer.handed_over < Duration::from_secs(3));
    let last = answer.last();
    assert_eq!(
        (&last["code"], &last["saved"]),
        (&json!("upstream_timeout"), &json!(true))
    );
}

#[tokio::test]
async fn a_mark_of_a_clear_from_a_clock_that_was_ahead_keeps_out_no_turn_and_is_logged() {
    let stage = Stage::builder().upstream("在的").start().await;
    let (now, micros): (i64, i64) = stage.redis.command(&["TIME"]).await;
    // Time passes until the commit, and the log rounds to whole seconds.
    let mark = ((now + 1_800) * 1_000_000 + micros + 400_000).to_string();
    let _: () = stage
        .redis
        .command(&["SET", "chat:alice:luna:cleared", &mark])
        .await;
    let answer = stage.say("你在吗？").await;
    assert_eq!(answer.last()["saved"], true, "{}", answer.text());
    let output = stage.chat.printed("was ignored").await;
    assert!(output.contains("\"seconds\":\"1800\""), "{output}");
}
