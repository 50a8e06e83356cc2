//! Parts of a record are gone, or hidden by a clear: nothing is told or stored twice, and nothing incomplete is told.

use testkit::redis::Server;
use testkit::stage::Stage;
use testkit::upstream::{Gate, Script, Step};

use crate::{PIECES, ask, gated, record, resume, stage, stored, text, turn_id, wait_for};

const KEY: &str = "idempotency-key";

#[tokio::test]
async fn a_stored_turn_whose_record_is_gone_is_not_run_again_by_its_key() {
    let stage = stage(vec![Script::reply(&PIECES)]).await;
    let event = ask(&stage, "晚上好呀").header(KEY, "k").http();
    let answer = stage.chat.invoke(&event).await;
    assert_eq!(answer.last()["saved"], true);
    let record = record(&turn_id(&answer));
    let _: i64 = stage.redis.command(&["DEL", &record]).await;
    stage
        .chat
        .invoke(&event)
        .await
        .assert_problem(404, "turn_not_found");
    assert_eq!(stage.upstream.requests().len(), 1);
    assert_eq!(stored(&stage.redis).await, ["晚上好呀", &PIECES.concat()]);
}

/// As after a failover that loses the last writes.
#[tokio::test]
async fn a_record_that_is_lost_while_the_turn_runs_is_whole_at_the_end() {
    let gate = Gate::new();
    let stage = stage(vec![gated(&gate)]).await;
    let event = ask(&stage, "晚上好呀").header(KEY, "k").http();
    let mut running = stage.chat.invoke_streaming(&event).await;
    let turn = text(&running.next_event().await.expect("start").data["turn_id"]);
    let (record, recorded) = (record(&turn), record(&turn) + ":text");
    let said = PIECES[..4].concat();
    wait_for(&stage.redis, &["GET", &recorded], |text| {
        text.as_deref() == Some(&said)
    })
    .await;
    let key = format!("user:{}:key:k", Stage::USER);
    let lost: i64 = stage
        .redis
        .command(&["DEL", &record, &recorded, &key])
        .await;
    assert_eq!(lost, 3);
    gate.open();
    let own = running.finish().await;
    assert_eq!(own.last()["saved"], true);
    for event in [event, resume(&stage, &turn).http()] {
        let again = stage.chat.invoke(&event).await;
        assert_eq!(again.reply(), PIECES.concat());
        assert_eq!(again.last(), own.last());
    }
    assert_eq!(stage.upstream.requests().len(), 1);
}

#[tokio::test]
async fn a_turn_without_its_text_is_not_found_and_not_empty() {
    let stage = stage(vec![Script::reply(&PIECES)]).await;
    let turn = turn_id(&stage.say("晚上好呀").await);
    let length = PIECES.concat().len();
    let after = |bytes: usize| resume(&stage, &turn).query("after", &bytes.to_string());
    let answer = stage.chat.invoke(&after(length + 1).http()).await;
    answer.assert_problem(422, "invalid_request");
    let recorded = record(&turn) + ":text";
    let _: i64 = stage.redis.command(&["DEL", &recorded]).await;
    for event in [after(0), after(3), resume(&stage, &turn)] {
        let answer = stage.chat.invoke(&event.http()).await;
        answer.assert_problem(404, "turn_not_found");
    }
    let answer = stage.chat.invoke(&after(length).http()).await;
    assert_eq!((answer.status, answer.reply()), (200, String::new()));
}

/// The reply to the first attempt of the commit was lost, and a clear came before the second.
#[tokio::test]
async fn a_turn_that_was_stored_before_a_clear_ends_for_its_client_as_for_its_readers() {
    let gate = Gate::new();
    let stage = stage(vec![gated(&gate)]).await;
    let clear = stage.function("clear-history").start().await;
    let mut running = stage.say_streaming("晚上好呀").await;
    let turn = text(&running.next_event().await.expect("start").data["turn_id"]);
    let end = format!("saved 0 done {turn} {turn} stop 310 5");
    let closed = ["HSET", &record(&turn), "end", &end];
    let _: i64 = stage.redis.command(&closed).await;
    clear
        .invoke(&testkit::events::clear(&stage.token, Stage::CHARACTER))
        .await;
    gate.open();
    assert_eq!(running.finish().await.last()["saved"], true);
    assert!(stored(&stage.redis).await.is_empty());
}

/// The two begin without Redis, so neither has claimed the key. The one that fails ends first, and then last.
#[tokio::test]
async fn a_turn_that_fails_keeps_no_key_from_one_that_is_complete() {
    for fails_first in [true, false] {
        let gates = [Gate::new(), Gate::new()];
        let fails = Script::raw(vec![Step::Wait(gates[0].clone()), Step::Cut]);
        let mut redis = Server::start().await;
        redis.kill().await;
        let mut stage = Stage::builder()
            .upstream_scripts(vec![fails, gated(&gates[1])])
            .env("REDIS_BREAKER_COOLDOWN_MS", "100")
            .env("LLM_MAX_RETRIES", "0")
            .start_with(redis)
            .await;
        let other = stage.function("chat-stream").start().await;
        let event = ask(&stage, "晚上好呀").header(KEY, "k").http();
        let failing = stage.chat.invoke_streaming(&event).await;
        stage.upstream.wait_for_requests(1).await;
        let complete = other.invoke_streaming(&event).await;
        stage.upstream.wait_for_requests(2).await;
        stage.redis.restart().await;
        let (failed, complete) = if fails_first {
            gates[0].open();
            let failed = failing.finish().await;
            gates[1].open();
            (failed, complete.finish().await)
        } else {
            gates[1].open();
            let complete = complete.finish().await;
            gates[0].open();
            (failing.finish().await, complete)
        };
        assert_eq!(failed.events().last().expect("an event").event, "error");
        assert_eq!(complete.last()["saved"], true, "{}", complete.text());
        let again = stage.chat.invoke(&event).await;
        assert_eq!(turn_id(&again), turn_id(&complete), "{fails_first}");
    }
}

#[tokio::test]
async fn a_turn_whose_owner_died_before_a_clear_is_not_found_after_it() {
    let gate = Gate::new();
    let stage = stage(vec![gated(&gate)]).await;
    let owner = stage.function("chat-stream").start().await;
    let clear = stage.function("clear-history").start().await;
    let mut running = owner
        .invoke_streaming(&ask(&stage, "晚上好呀").http())
        .await;
    let turn = text(&running.next_event().await.expect("start").data["turn_id"]);
    let start = ["HGET", &record(&turn), "start"];
    wait_for(&stage.redis, &start, Option::is_some).await;
    let _ = owner.stop();
    // As if the time of the lease had passed.
    let past = ["HSET", &record(&turn), "lease", "1"];
    let _: i64 = stage.redis.command(&past).await;
    clear
        .invoke(&testkit::events::clear(&stage.token, Stage::CHARACTER))
        .await;
    let answer = stage.chat.invoke(&resume(&stage, &turn).http()).await;
    answer.assert_problem(404, "turn_not_found");
}

#[tokio::test]
async fn the_mark_of_a_clear_outlives_the_records_that_it_hides() {
    let stage = Stage::builder()
        .env("TURN_TTL_SECONDS", "86400")
        .start()
        .await;
    let clear = stage.function("clear-history").start().await;
    let turn = turn_id(&stage.say("晚上好呀").await);
    clear
        .invoke(&testkit::events::clear(&stage.token, Stage::CHARACTER))
        .await;
    let seconds = async |key: &str| stage.redis.command::<i64>(&["TTL", key]).await;
    let mark = format!("chat:{}:{}:cleared", Stage::USER, Stage::CHARACTER);
    assert!(seconds(&mark).await > seconds(&record(&turn)).await);
}

/// As after an outage of Redis that was longer than the lease.
#[tokio::test]
async fn a_reader_that_finds_the_lease_over_gives_the_owner_time_to_renew_it() {
    let gate = Gate::new();
    let stage = stage(vec![gated(&gate)]).await;
    let other = stage.function("chat-stream").start().await;
    let mut running = stage.say_streaming("晚上好呀").await;
    let turn = text(&running.next_event().await.expect("start").data["turn_id"]);
    let start = ["HGET", &record(&turn), "start"];
    wait_for(&stage.redis, &start, Option::is_some).await;
    let past = ["HSET", &record(&turn), "lease", "1"];
    let _: i64 = stage.redis.command(&past).await;
    let reader = other.invoke_streaming(&resume(&stage, &turn).http()).await;
    let lease = ["HGET", &record(&turn), "lease"];
    wait_for(&stage.redis, &lease, |lease| lease.as_deref() != Some("1")).await;
    gate.open();
    let (own, reader) = (running.finish().await, reader.finish().await);
    assert_eq!(own.last()["saved"], true, "{}", own.text());
    assert_eq!(reader.last(), own.last());
}

#[tokio::test]
async fn a_client_that_has_seen_more_than_was_recorded_gets_the_end_of_a_lost_turn() {
    let stage = stage(vec![Script::reply(&PIECES)]).await;
    let turn = turn_id(&stage.say("晚上好呀").await);
    let end = "lost 3 failed turn_lost";
    let closed = ["HSET", &record(&turn), "end", end];
    let _: i64 = stage.redis.command(&closed).await;
    let recorded = record(&turn) + ":text";
    let _: String = stage.redis.command(&["SET", &recorded, PIECES[0]]).await;
    let after = |bytes: &str| resume(&stage, &turn).query("after", bytes).http();
    for (bytes, text) in [("0", PIECES[0]), ("3", ""), ("6", "")] {
        let answer = stage.chat.invoke(&after(bytes)).await;
        assert_eq!(answer.reply(), text);
        assert_eq!(answer.last()["code"], "turn_lost");
    }
}
