//! Reading back: pages of whole turns that together are the conversation.

use serde_json::{Value, json};
use testkit::events::Event;
use testkit::stage::Stage;
use testkit::tokens::token;

use super::{Service, assert_whole_turns, fields};

/// Stores this number of messages as this service does.
async fn store(service: &Service, count: usize) {
    let key = format!("chat:{}:{}:messages", Stage::USER, Stage::CHARACTER);
    for number in 0..count {
        let role = if number % 2 == 0 { "user" } else { "assistant" };
        let message = json!({
            "msg_id": format!("m{number}"), "role": role, "content": format!("{number}"),
            "timestamp": 1_732_430_000 + number, "token_count": 1, "metadata": null,
        });
        let _: i64 = service
            .redis()
            .command(&["LPUSH", &key, &message.to_string()])
            .await;
    }
}

#[tokio::test]
async fn pages_of_any_size_are_whole_turns_and_together_the_conversation() {
    let service = Service::start().await;
    for count in [0, 2, 50, 100] {
        let _: () = service.redis().command(&["FLUSHALL"]).await;
        store(&service, count).await;
        for limit in [1, 7, 50, 99, 100] {
            let mut contents: Vec<String> = Vec::new();
            let mut before: Option<String> = None;
            loop {
                let page = service.page(&limit.to_string(), before.as_deref()).await;
                assert_whole_turns(&page);
                let found = fields(&page, "content");
                assert!(found.len() <= limit.max(2), "{limit}: {found:?}");
                contents.splice(0..0, found);
                before = fields(&page, "msg_id").first().cloned();
                if page["has_more"] == false {
                    break;
                }
            }
            let all: Vec<String> = (0..count).map(|number| number.to_string()).collect();
            assert_eq!(contents, all, "{count} by {limit}");
        }
    }
}

#[tokio::test]
async fn a_message_is_returned_as_it_is_stored() {
    let service = Service::start().await;
    let body =
        json!({ "character_id": "luna", "message": "在吗？", "metadata": { "n": [1, "二"] } });
    let event = Event::stream().token(&service.stage.token).json(&body);
    let answer = service.stage.chat.invoke(&event.http()).await;
    let page = service.page("50", None).await;
    assert_eq!(page["character_id"], "luna");
    assert_eq!(page["has_more"], false);
    let messages = page["messages"].as_array().expect("a list");
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[0]["msg_id"], answer.last()["user_msg_id"]);
    assert_eq!(messages[0]["content"], "在吗？");
    assert_eq!(messages[0]["metadata"], body["metadata"]);
    assert_eq!(messages[1]["msg_id"], answer.last()["msg_id"]);
    assert_eq!(messages[1]["role"], "assistant");
    assert_eq!(messages[1]["content"], "好");
    assert_eq!(messages[1]["metadata"], Value::Null);
    for message in messages {
        let mut names: Vec<_> = message.as_object().expect("an object").keys().collect();
        names.sort();
        let expected = [
            "content",
            "metadata",
            "msg_id",
            "role",
            "timestamp",
            "token_count",
        ];
        assert_eq!(names, expected);
    }
}

#[tokio::test]
async fn what_other_writers_stored_is_read_and_what_is_no_message_is_left_out() {
    let service = Service::start().await;
    let key = format!("chat:{}:{}:messages", Stage::USER, Stage::CHARACTER);
    let elements = [
        r#"{"role":"assistant","content":"an answer whose question is trimmed"}"#,
        r#"{"msg_id":"a","role":"user","content":"one","timestamp":1732430000.5,"extra":1}"#,
        "not JSON",
        r#"{"msg_id":"b","role":"assistant","content":"two","metadata":null}"#,
    ];
    for element in elements {
        let _: i64 = service.redis().command(&["LPUSH", &key, element]).await;
    }
    let page = service.page("2", None).await;
    assert_eq!(fields(&page, "content"), ["one", "two"]);
    assert_eq!(page["has_more"], true);
    let older = service.page("2", Some("a")).await;
    assert_eq!(
        fields(&older, "content"),
        [elements[0].split('"').nth(7).expect("a text")]
    );
    assert_eq!(older["has_more"], false);
}

#[tokio::test]
async fn a_message_that_is_not_stored_here_is_not_found() {
    let service = Service::start().await;
    let [trimmed, _] = service.say("one").await;
    service.say("two").await;
    let key = format!("chat:{}:{}:messages", Stage::USER, Stage::CHARACTER);
    let _: () = service.redis().command(&["LTRIM", &key, "0", "1"]).await;
    let other = Event::stream()
        .token(&token("bob"))
        .json(&json!({ "character_id": "luna", "message": "mine" }));
    let other = service.stage.chat.invoke(&other.http()).await;
    let other = super::text(&other.last()["user_msg_id"]);
    for id in [trimmed.as_str(), &other, "x"] {
        let event = service.read("50", Some(id)).http();
        let answer = service.history.invoke(&event).await;
        answer.assert_problem(404, "message_not_found");
    }
}

#[tokio::test]
async fn a_bad_parameter_is_named() {
    let service = Service::start().await;
    for limit in [
        "0",
        "101",
        "-1",
        "+5",
        "1.5",
        "",
        "x",
        "99999999999999999999",
    ] {
        let answer = service
            .history
            .invoke(&service.read(limit, None).http())
            .await;
        answer.assert_problem(422, "invalid_request");
        assert!(answer.text().contains("limit"), "{}", answer.text());
    }
    for before in ["", &"x".repeat(129)] {
        let event = service.read("5", Some(before)).rest();
        let answer = service.history.invoke(&event).await;
        answer.assert_problem(422, "invalid_request");
        assert!(answer.text().contains("before"), "{}", answer.text());
    }
    let event = Event::get("/api/v1/chat/history").token(&service.stage.token);
    let answer = service.history.invoke(&event.http()).await;
    answer.assert_problem(422, "invalid_request");
    let event = Event::post("/api/v1/chat/history").token(&service.stage.token);
    let answer = service.history.invoke(&event.http()).await;
    answer.assert_problem(405, "method_not_allowed");
}
