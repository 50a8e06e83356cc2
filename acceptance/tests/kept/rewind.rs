//! Rewinding: a message and all after it go, in whole turns, and what runs meanwhile is not stored.

use testkit::events::Event;
use testkit::stage::Stage;
use testkit::upstream::{Gate, Script};

use super::{Service, assert_whole_turns, gated};

#[tokio::test]
async fn a_message_and_all_after_it_go_in_whole_turns() {
    let service = Service::start().await;
    for (from, rest) in [
        ((0, 0), Vec::new()),
        ((0, 1), Vec::new()),
        ((1, 0), vec!["one", "好"]),
        ((1, 1), vec!["one", "好"]),
        ((2, 0), vec!["one", "好", "two", "好"]),
    ] {
        let _: () = service.redis().command(&["FLUSHALL"]).await;
        let mut ids = Vec::new();
        for message in ["one", "two", "three"] {
            ids.push(service.say(message).await);
        }
        let id = &ids[from.0][from.1];
        let answer = service.rewind(id).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["message"], "历史已回退");
        assert_eq!(service.contents().await, rest, "{from:?}");
        service
            .rewind(id)
            .await
            .assert_problem(404, "message_not_found");
        assert_eq!(service.contents().await, rest, "{from:?}");
        let listed = !rest.is_empty();
        assert_eq!(!service.characters().await.is_empty(), listed, "{from:?}");
        service.say("four").await;
        let page = service.page("100", None).await;
        assert_whole_turns(&page);
        assert_eq!(service.contents().await.len(), rest.len() + 2);
    }
}

#[tokio::test]
async fn a_turn_that_began_before_is_not_stored_after_it() {
    let gate = Gate::new();
    let scripts = vec![Script::reply(&["好"]), Script::reply(&["好"]), gated(&gate)];
    let service = Service::of(Stage::builder().upstream_scripts(scripts)).await;
    service.say("one").await;
    let [second, _] = service.say("two").await;
    let running = service.stage.say_streaming("three").await;
    service.stage.upstream.wait_for_requests(3).await;
    assert_eq!(service.rewind(&second).await.status, 200);
    // Like a clear it leaves a mark, of which the session has only a copy.
    let cleared = format!("chat:{}:{}:cleared", Stage::USER, Stage::CHARACTER);
    let seconds: i64 = service.redis().command(&["TTL", &cleared]).await;
    assert!(seconds > 0, "{seconds}");
    gate.open();
    let answer = running.finish().await;
    assert_eq!(answer.last()["saved"], false);
    assert_eq!(answer.last()["unsaved"], "cleared");
    assert_eq!(service.contents().await, ["one", "好"]);
}

#[tokio::test]
async fn another_users_message_and_a_missing_session_change_nothing() {
    let service = Service::start().await;
    service
        .rewind("x")
        .await
        .assert_problem(404, "message_not_found");
    assert!(service.keys().await.is_empty());
    service.say("one").await;
    let before = service.contents().await;
    service
        .rewind("x")
        .await
        .assert_problem(404, "message_not_found");
    assert_eq!(service.contents().await, before);
    let event = Event::clear()
        .token(&service.stage.token)
        .query("character_id", Stage::CHARACTER)
        .query("from", "");
    let answer = service.clear.invoke(&event.http()).await;
    answer.assert_problem(422, "invalid_request");
    assert_eq!(service.contents().await, before, "a bad `from` is no clear");
}

#[tokio::test]
async fn ids_of_other_writers_are_found_and_nothing_else_is() {
    let service = Service::start().await;
    let key = format!("chat:{}:{}:messages", Stage::USER, Stage::CHARACTER);
    let store = async || {
        let _: () = service.redis().command(&["FLUSHALL"]).await;
        for element in [
            r#"{"msg_id":"a","role":"user","content":"one"}"#,
            r#"{"role":"assistant","content":"\"msg_id\":\"x\""}"#,
            r#"{"role":"user","content":"two","msg_id":1730000000000000001}"#,
            r#"{"role":"assistant","content":"\ud83d","msg_id":"half"}"#,
            r#"{"role":"user","msg_id":"c d","content":"three"}"#,
            r#"{"role":"assistant","msg_id":null,"content":"four"}"#,
        ] {
            let _: i64 = service.redis().command(&["LPUSH", &key, element]).await;
        }
    };
    for (from, left) in [
        ("a", Some(0)),
        ("1730000000000000001", Some(2)),
        ("half", Some(2)),
        ("c d", Some(4)),
        ("x", None),
        ("nil", None),
        ("null", None),
        (r#"a","role":"user"#, None),
        ("1.73e+18", None),
    ] {
        store().await;
        let answer = service.rewind(from).await;
        let length: usize = service.redis().command(&["LLEN", &key]).await;
        match left {
            Some(left) => assert_eq!((answer.status, length), (200, left), "{from}"),
            None => {
                answer.assert_problem(404, "message_not_found");
                assert_eq!(length, 6, "{from}");
            }
        }
    }
}
