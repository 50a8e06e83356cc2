//! Coming back to a turn: exactly the text that was not seen, and the same last event.

use std::time::Duration;

use testkit::events::Event;
use testkit::stage::Stage;
use testkit::tokens::token;
use testkit::upstream::{Gate, Script};

use crate::{PIECES, ask, gated, last_block, record, resume, stage, text, turn_id};

const MAX_TURNS: usize = 20;

/// Returns the text and the id of the last whole event in the first bytes of a stream.
fn seen(bytes: &[u8]) -> (String, Option<String>) {
    let (mut said, mut id) = (String::new(), None);
    let text = String::from_utf8_lossy(bytes);
    let blocks = text.split_inclusive("\n\n");
    for block in blocks.filter(|block| block.ends_with("\n\n")) {
        let mut lines = block.lines();
        id = lines
            .next()
            .and_then(|line| line.strip_prefix("id: "))
            .map(str::to_owned);
        let data = lines.nth(1).and_then(|line| line.strip_prefix("data: "));
        let data: serde_json::Value = serde_json::from_str(data.expect("data")).expect("JSON");
        said.push_str(data["content"].as_str().unwrap_or_default());
    }
    (said, id)
}

#[tokio::test]
async fn a_stream_that_is_cut_after_any_byte_is_completed_by_another_process() {
    let stage = stage(vec![Script::reply(&PIECES)]).await;
    let other = stage.function("chat-stream").start().await;
    let whole = stage.chat.invoke(&ask(&stage, "晚上好呀").http()).await;
    assert_eq!(whole.start()["resumable"], true);
    assert_eq!(whole.last()["saved"], true);
    let ids: Vec<String> = whole.events().into_iter().map(|event| event.id).collect();
    assert_eq!(ids, ["0", "3", "12", "13", "17", "23", "done"]);
    let turn = turn_id(&whole);
    let bytes = whole.body();
    let mut before = None;
    for length in 0..bytes.len() {
        let (said, id) = seen(&bytes[..length]);
        // Cuts inside one event are the same to the client.
        if before.as_ref() == Some(&id) {
            continue;
        }
        let event = match &id {
            Some(id) => resume(&stage, &turn).header("last-event-id", id),
            None => resume(&stage, &turn),
        };
        let rest = other.invoke(&event.http()).await;
        assert_eq!(rest.status, 200, "{id:?}");
        assert_eq!(said + &rest.reply(), PIECES.concat(), "{id:?}");
        assert_eq!(last_block(&rest), last_block(&whole), "{id:?}");
        if id.is_none() {
            assert_eq!(rest.start(), whole.start());
        }
        before = Some(id);
    }
    // The whole stream was seen.
    let done = resume(&stage, &turn).header("last-event-id", "done");
    let nothing = other.invoke(&done.http()).await;
    assert_eq!((nothing.status, nothing.text().as_str()), (204, ""));
    // The query says the same as the header.
    let event = resume(&stage, &turn).query("after", "12");
    assert_eq!(other.invoke(&event.http()).await.reply(), "!🙂再见");
}

#[tokio::test]
async fn a_turn_that_ends_soon_is_recorded_by_its_commit_alone() {
    // Long enough for a write of the journal that is not put off.
    let reply = Script::deltas(&PIECES).paced(Duration::from_millis(3));
    let reply = reply.finish("stop").usage(310, PIECES.len()).done();
    let stage = stage(vec![reply; MAX_TURNS]).await;
    stage.chat.invoke(&ask(&stage, "晚上好呀").http()).await;
    // On a busy machine a turn may take long enough for a write of its journal.
    for _ in 1..MAX_TURNS {
        let before = stage.redis.calls("evalsha").await;
        let answer = stage.chat.invoke(&ask(&stage, "晚上好呀").http()).await;
        assert_eq!(answer.last()["saved"], true);
        let again = resume(&stage, &turn_id(&answer)).http();
        let again = stage.chat.invoke(&again).await;
        assert_eq!(again.reply(), PIECES.concat());
        // The claim, and the commit.
        if stage.redis.calls("evalsha").await == before + 2 {
            return;
        }
    }
    panic!("every turn ran another script");
}

#[tokio::test]
async fn a_client_comes_back_while_the_reply_goes_on() {
    let gate = Gate::new();
    let stage = stage(vec![gated(&gate)]).await;
    let other = stage.function("chat-stream").start().await;
    let mut first = stage
        .chat
        .invoke_streaming(&ask(&stage, "晚上好呀").http())
        .await;
    let turn = text(&first.next_event().await.expect("start").data["turn_id"]);
    let id = first.next_event().await.expect("a delta").id;
    first.drop_connection();

    // Without a turn's id, it is the newest one that runs.
    let newest = Event::resume()
        .token(&stage.token)
        .query("character_id", Stage::CHARACTER)
        .header("last-event-id", &id);
    let mut second = other.invoke_streaming(&newest.http()).await;
    let mut said = String::new();
    while said != PIECES[1..4].concat() {
        let event = second.next_event().await.expect("a delta");
        said.push_str(event.data["content"].as_str().expect("text"));
    }
    gate.open();
    let rest = second.finish().await;
    assert_eq!(rest.reply(), PIECES[1..].concat());
    assert_eq!(rest.last()["saved"], true);
    assert_eq!(turn_id(&rest), turn);
    // Now none runs.
    assert_eq!(other.invoke(&newest.http()).await.status, 204);
    // What was recorded and what was stored are the same.
    let again = other.invoke(&resume(&stage, &turn).http()).await;
    assert_eq!(again.reply(), PIECES.concat());
    assert_eq!(last_block(&again), last_block(&rest));
    assert_eq!(
        crate::stored(&stage.redis).await,
        ["晚上好呀", &PIECES.concat()]
    );
}

#[tokio::test]
async fn a_turn_that_is_not_the_callers_or_not_remembered_is_not_found() {
    let stage = Stage::builder().start().await;
    let answer = stage.say("晚上好呀").await;
    let turn = turn_id(&answer);
    let of_another = resume(&stage, &turn).token(&token("bob"));
    stage
        .chat
        .invoke(&of_another.http())
        .await
        .assert_problem(404, "turn_not_found");
    let unknown = resume(&stage, "01234567-89ab-7cde-8f01-23456789abcd");
    stage
        .chat
        .invoke(&unknown.http())
        .await
        .assert_problem(404, "turn_not_found");
    for (name, value) in [
        ("turn_id", "x"),
        ("after", "-1"),
        ("after", "1e3"),
        ("after", ""),
    ] {
        let event = Event::resume()
            .token(&stage.token)
            .query("character_id", Stage::CHARACTER)
            .query(name, value);
        stage
            .chat
            .invoke(&event.http())
            .await
            .assert_problem(422, "invalid_request");
    }
    // The reply is "好": no event ends after its first byte.
    let inside = resume(&stage, &turn).query("after", "1");
    stage
        .chat
        .invoke(&inside.http())
        .await
        .assert_problem(422, "invalid_request");
    // It is forgotten.
    stage.redis.command::<i64>(&["DEL", &record(&turn)]).await;
    stage
        .chat
        .invoke(&resume(&stage, &turn).http())
        .await
        .assert_problem(404, "turn_not_found");
}

#[tokio::test]
async fn a_failed_turn_is_repeated_as_it_failed() {
    let stage = Stage::builder()
        .env("LLM_MAX_RETRIES", "0")
        .upstream_scripts(vec![
            Script::status(503, ""),
            Script::deltas(&["半"]),
            Script::reply(&["\n\n"]),
        ])
        .start()
        .await;
    for (code, unsaved) in [
        ("upstream_unavailable", ""),
        ("upstream_interrupted", ""),
        ("", "empty"),
    ] {
        let answer = stage.say("晚上好呀").await;
        assert_eq!(answer.last()["code"].as_str().unwrap_or_default(), code);
        assert_eq!(
            answer.last()["unsaved"].as_str().unwrap_or_default(),
            unsaved
        );
        let again = stage
            .chat
            .invoke(&resume(&stage, &turn_id(&answer)).http())
            .await;
        assert_eq!(again.text(), answer.text());
    }
}

#[tokio::test]
async fn what_was_cleared_does_not_come_back() {
    let gate = Gate::new();
    let stage = stage(vec![Script::reply(&["旧"]), gated(&gate)]).await;
    let clear = stage.function("clear-history").start().await;
    let other = stage.function("chat-stream").start().await;
    let old = turn_id(&stage.say("晚上好呀").await);
    let mut running = stage.say_streaming("还在吗").await;
    let turn = text(&running.next_event().await.expect("start").data["turn_id"]);
    let cleared = testkit::events::clear(&stage.token, Stage::CHARACTER);
    assert_eq!(clear.invoke(&cleared).await.status, 200);
    other
        .invoke(&resume(&stage, &old).http())
        .await
        .assert_problem(404, "turn_not_found");
    // The turn that runs goes on, and every reader is told that it is not stored.
    let reader = other.invoke_streaming(&resume(&stage, &turn).http()).await;
    gate.open();
    let (owner, reader) = (running.finish().await, reader.finish().await);
    assert_eq!(owner.last()["unsaved"], "cleared");
    assert_eq!(last_block(&reader), last_block(&owner));
    other
        .invoke(&resume(&stage, &turn).http())
        .await
        .assert_problem(404, "turn_not_found");
}

#[tokio::test]
async fn a_record_is_small_and_expires() {
    let stage = Stage::builder()
        .env("TURN_TTL_SECONDS", "100")
        .start()
        .await;
    let event =
        ask(&stage, "晚上好呀").header("idempotency-key", "0f8fad5b-d9cb-469f-a165-70867728950e");
    // With the longest mark of a clear.
    let clear = stage.function("clear-history").start().await;
    clear
        .invoke(&testkit::events::clear(&stage.token, Stage::CHARACTER))
        .await;
    let turn = turn_id(&stage.chat.invoke(&event.http()).await);
    let keys: Vec<String> = stage.redis.command(&["KEYS", "*"]).await;
    let mut bytes = 0;
    let is_shared = |key: &&String| key.ends_with(":sessions") || key.ends_with(":turns");
    for key in keys
        .iter()
        .filter(|key| key.contains(&turn) || key.starts_with("user:"))
        .filter(|key| !is_shared(key))
    {
        let used: i64 = stage.redis.command(&["MEMORY", "USAGE", key]).await;
        // The key is no part of the record.
        if !key.starts_with("user:") {
            bytes += used;
        }
        let seconds: i64 = stage.redis.command(&["TTL", key]).await;
        assert!((1..=100).contains(&seconds), "{key} expires in {seconds} s");
    }
    let text_bytes = 3;
    assert!(bytes <= 600 + text_bytes, "{bytes}");
    for key in &keys {
        let seconds: i64 = stage.redis.command(&["TTL", key]).await;
        assert!(seconds > 0, "{key} never expires");
    }
}

#[tokio::test]
async fn without_records_a_turn_is_as_before() {
    let stage = Stage::builder().env("TURN_TTL_SECONDS", "0").start().await;
    let event = ask(&stage, "晚上好呀").header("idempotency-key", "a-key");
    let answer = stage.chat.invoke(&event.http()).await;
    assert_eq!(answer.start()["resumable"], false);
    assert_eq!(answer.last()["saved"], true);
    let keys: Vec<String> = stage.redis.command(&["KEYS", "*"]).await;
    let of_session = [":messages", ":meta", ":sessions"];
    assert!(
        keys.iter()
            .all(|key| of_session.iter().any(|part| key.ends_with(part))),
        "{keys:?}"
    );
    let turn = turn_id(&answer);
    stage
        .chat
        .invoke(&resume(&stage, &turn).http())
        .await
        .assert_problem(404, "turn_not_found");
    let newest = Event::resume()
        .token(&stage.token)
        .query("character_id", Stage::CHARACTER);
    assert_eq!(stage.chat.invoke(&newest.http()).await.status, 204);
}
