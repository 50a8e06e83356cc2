//! A turn in the place of another: regenerated, or edited.

use futures_util::future::join_all;
use serde_json::json;
use testkit::events::Event;
use testkit::stage::Stage;
use testkit::upstream::{Gate, Script};

use super::{Service, assert_whole_turns, fields, gated, replacing};

#[tokio::test]
async fn a_turn_is_asked_again_or_edited_in_its_place() {
    let service = Service::start().await;
    service.say("one").await;
    let [second, _] = service.say("two").await;
    service.say("three").await;

    let answer = service
        .stage
        .chat
        .invoke(&replacing(&service.stage, &second, None).http())
        .await;
    assert_eq!(answer.last()["saved"], true, "{}", answer.text());
    assert_eq!(answer.start()["history_messages"], 2);
    assert_eq!(service.contents().await, ["one", "好", "two", "好"]);
    let asked = service.stage.upstream.requests();
    let asked = asked.last().expect("a request").messages();
    let contents: Vec<&str> = asked
        .iter()
        .skip(1)
        .map(|(_, text)| text.as_str())
        .collect();
    assert_eq!(contents, ["one", "好", "two"]);

    let again = super::text(&answer.last()["user_msg_id"]);
    assert_ne!(again, second);
    let event = replacing(&service.stage, &again, Some("zwei")).http();
    let answer = service.stage.chat.invoke(&event).await;
    assert_eq!(answer.last()["saved"], true, "{}", answer.text());
    assert_eq!(service.contents().await, ["one", "好", "zwei", "好"]);

    let ids = fields(&service.page("50", None).await, "msg_id");
    let event = replacing(&service.stage, &ids[0], Some("eins")).http();
    let answer = service.stage.chat.invoke(&event).await;
    assert_eq!(answer.start()["memory"], "empty");
    assert_eq!(service.contents().await, ["eins", "好"]);
}

#[tokio::test]
async fn the_metadata_of_a_message_that_is_asked_again_stays() {
    let service = Service::start().await;
    let body = json!({ "character_id": "luna", "message": "one", "metadata": { "a": 1 } });
    let event = Event::stream().token(&service.stage.token).json(&body);
    let answer = service.stage.chat.invoke(&event.http()).await;
    let id = super::text(&answer.last()["user_msg_id"]);
    let event = replacing(&service.stage, &id, None).http();
    service.stage.chat.invoke(&event).await;
    let page = service.page("50", None).await;
    assert_eq!(page["messages"][0]["metadata"], json!({ "a": 1 }));
}

#[tokio::test]
async fn with_a_failed_reply_the_old_text_is_still_there() {
    let scripts = vec![Script::reply(&["好"]), Script::status(400, "{}")];
    let service = Service::of(Stage::builder().upstream_scripts(scripts)).await;
    let [id, _] = service.say("one").await;
    let event = replacing(&service.stage, &id, Some("eins")).http();
    let answer = service.stage.chat.invoke(&event).await;
    assert_eq!(answer.last()["code"], "upstream_rejected");
    assert_eq!(service.contents().await, ["one", "好"]);
}

#[tokio::test]
async fn with_a_reply_that_breaks_the_old_text_is_still_there() {
    let broken = Script::deltas(&["坏", "了"]).cut();
    let service =
        Service::of(Stage::builder().upstream_scripts(vec![Script::reply(&["好"]), broken])).await;
    let [id, _] = service.say("one").await;
    let event = replacing(&service.stage, &id, Some("eins")).http();
    let answer = service.stage.chat.invoke(&event).await;
    assert_eq!(answer.last()["code"], "upstream_interrupted");
    assert_eq!(answer.last()["saved"], false);
    assert_eq!(service.contents().await, ["one", "好"]);
}

#[tokio::test]
async fn what_is_not_a_stored_message_of_the_user_is_not_found() {
    let service = Service::start().await;
    let [_, reply] = service.say("one").await;
    let before = service.keys().await;
    for id in ["x", &reply] {
        let event = replacing(&service.stage, id, None).http();
        let answer = service.stage.chat.invoke(&event).await;
        answer.assert_problem(404, "message_not_found");
    }
    assert_eq!(service.stage.upstream.requests().len(), 1);
    for id in [json!(""), json!(7), json!("x".repeat(129))] {
        let body = json!({ "character_id": "luna", "replaces": id });
        let event = Event::stream().token(&service.stage.token).json(&body);
        let answer = service.stage.chat.invoke(&event.http()).await;
        answer.assert_problem(422, "invalid_request");
        assert!(answer.text().contains("replaces"), "{}", answer.text());
    }
    assert_eq!(service.contents().await, ["one", "好"]);
    // The refused turns leave nothing behind.
    super::erase::settled(&service, &before).await;
}

#[tokio::test]
async fn of_30_concurrent_regenerations_exactly_one_wins() {
    let gate = Gate::new();
    let scripts = vec![Script::reply(&["好"]), Script::reply(&["好"]), gated(&gate)];
    let service = Service::of(Stage::builder().upstream_scripts(scripts)).await;
    service.say("one").await;
    let [id, _] = service.say("two").await;
    let other = service
        .stage
        .function("chat-stream")
        .concurrency(30)
        .start()
        .await;
    let event = replacing(&service.stage, &id, None).http();
    let all = (0..30).map(|_| other.invoke(&event));
    let open = async {
        service.stage.upstream.wait_for_requests(32).await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(join_all(all), open);
    let saved = answers
        .iter()
        .filter(|answer| answer.last()["saved"] == true)
        .count();
    assert_eq!(saved, 1);
    for answer in answers {
        let last = answer.last();
        assert!(
            last["saved"] == true || last["unsaved"] == "conflict",
            "{last}"
        );
    }
    let page = service.page("100", None).await;
    assert_whole_turns(&page);
    assert_eq!(fields(&page, "content"), ["one", "好", "two", "好的"]);
}

#[tokio::test]
async fn a_clear_or_a_rewind_meanwhile_wins() {
    for is_clear in [true, false] {
        let gate = Gate::new();
        let scripts = vec![Script::reply(&["好"]), gated(&gate)];
        let service = Service::of(Stage::builder().upstream_scripts(scripts)).await;
        let [id, _] = service.say("one").await;
        let event = replacing(&service.stage, &id, Some("eins")).http();
        let running = service.stage.chat.invoke_streaming(&event).await;
        service.stage.upstream.wait_for_requests(2).await;
        if is_clear {
            let event = testkit::events::clear(&service.stage.token, "luna");
            assert_eq!(service.clear.invoke(&event).await.status, 200);
        } else {
            assert_eq!(service.rewind(&id).await.status, 200);
        }
        gate.open();
        let last = running.finish().await.last();
        assert_eq!(last["saved"], false, "{last}");
        assert!(service.contents().await.is_empty());
    }
}

#[tokio::test]
async fn a_key_covers_what_is_replaced() {
    let service = Service::start().await;
    let [id, _] = service.say("one").await;
    let keyed = |event: Event| event.header("idempotency-key", "k").http();
    let chat = &service.stage.chat;
    let event = keyed(replacing(&service.stage, &id, None));
    let first = chat.invoke(&event).await;
    let second = chat.invoke(&event).await;
    assert_eq!(second.last(), first.last());
    let other = keyed(replacing(&service.stage, "x", None));
    chat.invoke(&other)
        .await
        .assert_problem(422, "idempotency_key_reused");
    assert_eq!(service.contents().await, ["one", "好"]);
}
