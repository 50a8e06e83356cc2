//! What is asked of an upstream, and over which connection.

use std::time::Duration;

use serde_json::json;
use testkit::upstream::{Script, Step};

use crate::{House, assert_done, good};

#[tokio::test]
async fn a_characters_own_settings_are_sent() {
    let house = House::new(vec![good()]).await;
    let character = json!({
        "name": "侠客", "system_prompt": "你是一名侠客。",
        "temperature": 0.7, "top_p": 0.95, "max_tokens": 512, "model": "model-of-the-character",
    });
    let () = house
        .redis
        .command(&["SET", "character:hero", &character.to_string()])
        .await;

    assert_done(&house.say_to("hero", "晚上好呀").await, "好");
    let request = &house.upstream.requests()[0];
    assert_eq!(
        request.body,
        json!({
            "model": "model-of-the-character",
            "messages": [
                { "role": "system", "content": "你是一名侠客。" },
                { "role": "user", "content": "晚上好呀" },
            ],
            "stream": true,
            "stream_options": { "include_usage": true },
            "temperature": 0.7,
            "top_p": 0.95,
            "max_tokens": 512,
        })
    );
    assert_eq!(request.method, "POST");
    assert_eq!(request.headers["content-type"], "application/json");
    assert_eq!(request.headers["accept"], "text/event-stream");
}

#[tokio::test]
async fn a_character_without_settings_leaves_them_to_the_upstream() {
    let house = House::new(vec![good()]).await;
    let character = json!({ "name": "路人", "system_prompt": "你是路人。", "temperature": null });
    let () = house
        .redis
        .command(&["SET", "character:anybody", &character.to_string()])
        .await;

    assert_done(&house.say_to("anybody", "晚上好呀").await, "好");
    let body = &house.upstream.requests()[0].body;
    let mut fields: Vec<&String> = body.as_object().expect("an object").keys().collect();
    fields.sort();
    assert_eq!(fields, ["messages", "model", "stream", "stream_options"]);
    assert_eq!(body["model"], "model-of-a-test");
}

#[tokio::test]
async fn turns_share_a_connection() {
    let house = House::new(vec![good()]).await;
    for _ in 0..5 {
        assert_done(&house.say("晚上好呀").await, "好");
    }
    assert_eq!(connections(&house), [0; 5]);
}

#[tokio::test]
async fn a_connection_is_kept_when_the_answer_ends_a_little_after_the_reply() {
    // Over TLS and behind proxies, the end of the body is a packet of its own.
    let late = good().then(Step::Delay(Duration::from_millis(20)));
    let house = House::new(vec![late]).await;
    for _ in 0..5 {
        assert_done(&house.say("晚上好呀").await, "好");
        house.upstream.wait_until_no_streams().await;
    }
    assert_eq!(connections(&house), [0; 5]);
}

#[tokio::test]
async fn a_connection_is_kept_after_an_error_answer() {
    let house = House::new(vec![
        Script::status(503, r#"{"error":{"code":"overloaded"}}"#),
        good(),
    ])
    .await;
    assert_done(&house.say("晚上好呀").await, "好");
    assert_eq!(connections(&house), [0; 2]);
}

#[tokio::test]
async fn an_answer_that_does_not_end_after_done_is_not_waited_for() {
    let house = House::new(vec![good().then(Step::Silence)]).await;
    assert_done(&house.say("晚上好呀").await, "好");
    // Nor is its connection kept for ever.
    house.upstream.wait_until_no_streams().await;
    assert_done(&house.say("晚上好呀").await, "好");
}

fn connections(house: &House) -> Vec<u64> {
    let requests = house.upstream.requests();
    requests.iter().map(|request| request.connection).collect()
}
