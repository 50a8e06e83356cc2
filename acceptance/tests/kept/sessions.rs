//! The list of sessions, in step with the sessions.

use serde_json::Value;
use testkit::events::{self, Event};
use testkit::stage::Stage;
use testkit::upstream::Script;

use super::{Service, text};

#[tokio::test]
async fn the_newest_comes_first_with_its_last_message() {
    let long = "长".repeat(300);
    let service = Service::of(Stage::builder().upstream(&long)).await;
    assert_eq!(
        service.list("20", None).await,
        serde_json::json!({ "sessions": [], "next": null })
    );
    for character in ["luna", "kai", "mei", "luna"] {
        service.say_to(character, "在吗？").await;
    }
    let list = service.list("20", None).await;
    assert_eq!(service.characters().await, ["luna", "mei", "kai"]);
    let newest = &list["sessions"][0];
    assert_eq!(newest["last_message"]["content"], "长".repeat(200));
    assert_eq!(newest["last_message"]["role"], "assistant");
    let event = events::session(&service.stage.token, "luna");
    let session = service.session.invoke(&event).await.json();
    for (name, value) in session.as_object().expect("an object") {
        assert_eq!(newest[name], *value, "{name}");
    }
    assert_eq!(list["next"], Value::Null);
}

#[tokio::test]
async fn a_session_that_is_cleared_or_expired_is_gone_from_the_list() {
    let service = Service::start().await;
    for character in ["luna", "kai", "mei"] {
        service.say_to(character, "在吗？").await;
    }
    let event = events::clear(&service.stage.token, "kai");
    assert_eq!(service.clear.invoke(&event).await.status, 200);
    assert_eq!(service.characters().await, ["mei", "luna"]);
    // It is not only left out, as one that has expired.
    let index = format!("user:{}:sessions", Stage::USER);
    let members: Vec<String> = service
        .redis()
        .command(&["ZREVRANGE", &index, "0", "-1"])
        .await;
    assert_eq!(members, ["mei", "luna"]);
    let keys = ["messages", "meta"].map(|part| format!("chat:{}:mei:{part}", Stage::USER));
    let _: i64 = service.redis().command(&["DEL", &keys[0], &keys[1]]).await;
    assert_eq!(service.characters().await, ["luna"]);
    service.say_to("mei", "在吗？").await;
    assert_eq!(service.characters().await, ["mei", "luna"]);
}

#[tokio::test]
async fn pages_of_1000_sessions_are_the_list_whatever_has_expired() {
    let service = Service::of(Stage::builder().env("LLM_PROVIDER", "echo")).await;
    let index = format!("user:{}:sessions", Stage::USER);
    let mut expected = Vec::new();
    for number in 0..1_000 {
        let character = format!("c{number}");
        let score = (1_732_430_000_000_000_u64 + number).to_string();
        let _: i64 = service
            .redis()
            .command(&["ZADD", &index, &score, &character])
            .await;
        // Of three sessions one has expired, and so have the 300 newest but one.
        if number % 3 == 0 || (700..999).contains(&number) {
            continue;
        }
        let meta = format!("chat:{}:{character}:meta", Stage::USER);
        let _: i64 = service
            .redis()
            .command(&["HSET", &meta, "state", "ACTIVE"])
            .await;
        expected.push(character);
    }
    expected.reverse();
    for limit in ["1", "7", "100"] {
        let (mut found, mut before) = (Vec::new(), None);
        loop {
            let list = service.list(limit, before.as_deref()).await;
            let sessions = list["sessions"].as_array().expect("a list");
            found.extend(
                sessions
                    .iter()
                    .map(|session| text(&session["character_id"])),
            );
            assert!(sessions.len() <= limit.parse().expect("a number"));
            if list["next"] == Value::Null {
                break;
            }
            before = Some(text(&list["next"]));
            if limit == "1" && found.len() == 50 {
                break;
            }
        }
        assert_eq!(found, expected[..found.len()], "{limit}");
        assert!(limit == "1" || found.len() == expected.len(), "{limit}");
    }
}

#[tokio::test]
async fn sessions_that_the_python_service_wrote_appear_with_their_next_turn() {
    let service =
        Service::of(Stage::builder().upstream_scripts(vec![Script::reply(&["好"])])).await;
    let meta = format!("chat:{}:luna:meta", Stage::USER);
    let _: i64 = service
        .redis()
        .command(&["HSET", &meta, "state", "ACTIVE"])
        .await;
    assert!(service.characters().await.is_empty());
    service.say("在吗？").await;
    assert_eq!(service.characters().await, ["luna"]);
}

#[tokio::test]
async fn one_odd_session_hides_no_other() {
    let service = Service::start().await;
    for character in ["luna", "kai", "mei"] {
        service.say_to(character, "在吗？").await;
    }
    let messages = format!("chat:{}:kai:messages", Stage::USER);
    let _: () = service.redis().command(&["SET", &messages, "odd"]).await;
    assert_eq!(service.characters().await, ["mei", "luna"]);
    let event = Event::get("/api/v1/chat/data").token(&service.stage.token);
    let exported = service.data.invoke(&event.http()).await.text();
    assert!(
        exported.contains(r#""type":"end","sessions":2"#),
        "{exported}"
    );
}

#[tokio::test]
async fn a_bad_request_is_named() {
    let service = Service::start().await;
    let path = "/api/v1/chat/sessions";
    for (name, value) in [
        ("limit", "0"),
        ("limit", "101"),
        ("before", "x"),
        ("before", ""),
        ("before", "-1"),
    ] {
        let event = Event::get(path)
            .token(&service.stage.token)
            .query(name, value);
        let answer = service.session.invoke(&event.rest()).await;
        answer.assert_problem(422, "invalid_request");
        assert!(answer.text().contains(name), "{}", answer.text());
    }
    for method in ["PATCH", "DELETE", "PUT"] {
        for path in [path.to_owned(), format!("{path}/")] {
            let event = Event::new(method, &path).token(&service.stage.token);
            let answer = service.session.invoke(&event.http()).await;
            answer.assert_problem(405, "method_not_allowed");
            assert_eq!(answer.header("allow"), Some("GET"));
        }
    }
}
