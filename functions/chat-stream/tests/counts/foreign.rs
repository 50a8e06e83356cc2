//! What the Python service stored is part of the conversation, however it spelled it.

use serde_json::{Value, json};
use testkit::events;
use testkit::runtime::Function;
use testkit::tokens::{secret, token};
use testkit::upstream::Script;

use crate::{House, MESSAGES, element};

/// Spellings of a user's message, and the content that is sent on.
const ODD: [(&str, &str); 14] = [
    (
        r#"{"role":"user","content":"a","metadata":{"score":NaN}}"#,
        "a",
    ),
    (
        r#"{"role":"user","content":"b","metadata":{"far":[Infinity,-Infinity]}}"#,
        "b",
    ),
    (r#"{"role":"user","content":"c\ud83d"}"#, "c\u{FFFD}"),
    (
        r#"{"role":"user","content":"\ude00d \ud83d\ude00"}"#,
        "\u{FFFD}d 😀",
    ),
    (r#"{"role":"user","content":"e","msg_id":42}"#, "e"),
    (
        r#"{"role":"user","content":"f","token_count":"3.0","timestamp":"2024-11-24T06:33:20"}"#,
        "f",
    ),
    (
        r#"{"role":"user","content":"g","token_count":2.5,"timestamp":1732430000.25}"#,
        "g",
    ),
    (
        r#"{"role":"user","content":"h","token_count":1e999,"timestamp":null}"#,
        "h",
    ),
    (r#"{"role":"USER","content":"i"}"#, "i"),
    (r#"{"role":"user","content":"j","role":"user"}"#, "j"),
    (
        r#"{"role":"user","content":"k","extra":{"deep":[NaN]},"metadata":null}"#,
        "k",
    ),
    (
        r#"{"role":"user","content":"l","metadata":{"half":"\ud83d"}}"#,
        "l",
    ),
    (r#"{"role":"user","content":5}"#, "5"),
    ("{\"role\":\"user\",\"content\":\"m\nn\"}", "m\nn"),
];

#[tokio::test]
async fn every_field_is_read_as_well_as_it_can_be() {
    let house = House::new(vec![Script::reply(&["好"])]).await;
    for (question, _) in ODD {
        let reply = element("assistant", "嗯", &json!(1));
        house.store(&[question, &reply]).await;
    }
    let answer = house.say("你好").await;
    assert_eq!(answer.start()["history_messages"], 2 * ODD.len());
    let sent: Vec<String> = house
        .sent_history()
        .into_iter()
        .filter(|(role, _)| role == "user")
        .map(|(_, content)| content)
        .collect();
    assert_eq!(sent, ODD.map(|(_, content)| content));
}

#[tokio::test]
async fn a_message_without_content_takes_only_its_turn_with_it() {
    let house = House::new(vec![Script::reply(&["好"])]).await;
    let reply = element("assistant", "嗯", &json!(1));
    house
        .store(&[r#"{"role":"user","content":"a"}"#, &reply])
        .await;
    house
        .store(&[r#"{"role":"user","content":null}"#, &reply])
        .await;
    let answer = house.say("你好").await;
    assert_eq!(answer.start()["history_messages"], 2);
}

#[tokio::test]
async fn bytes_that_are_not_utf_8_are_read() {
    let house = House::new(vec![Script::reply(&["好"])]).await;
    let mut push = redis::Cmd::new();
    push.arg("LPUSH")
        .arg(MESSAGES)
        .arg(b"{\"role\":\"user\",\"content\":\"a\xFF\"}")
        .arg(element("assistant", "嗯", &json!(1)));
    let _: i64 = push
        .query_async(&mut house.redis.connection().await)
        .await
        .expect("stored");
    assert_eq!(house.say("你好").await.start()["history_messages"], 2);
    assert_eq!(house.sent_history()[0].1, "a\u{FFFD}");
}

#[tokio::test]
async fn notes_at_the_head_do_not_hide_the_turns_behind_them() {
    let counted = json!(1);
    let turn = |n: usize| {
        [
            element("user", &format!("q{n}"), &counted),
            element("assistant", &format!("a{n}"), &counted),
        ]
    };
    let foreign = [
        element("system", "note", &counted),
        element("assistant", "orphan", &counted),
        element("user", "unanswered", &counted),
        "not a message".to_owned(),
    ];
    for (case, note) in foreign.iter().enumerate() {
        let house = House::new(vec![Script::reply(&["好"])]).await;
        for n in 0..3 {
            house.store(&turn(n)).await;
        }
        house.store(&vec![note.clone(); 50]).await;
        let answer = house.say("你好").await;
        assert_eq!(answer.start()["history_messages"], 6, "case {case}");
        assert_eq!(answer.start()["memory"], "ok");
    }
    // Blank turns are skipped in the same way.
    let house = House::new(vec![Script::reply(&["好"])]).await;
    for n in 0..3 {
        house.store(&turn(n)).await;
    }
    for _ in 0..25 {
        house
            .store(&[
                element("user", "q", &counted),
                element("assistant", "\n", &counted),
            ])
            .await;
    }
    assert_eq!(house.say("你好").await.start()["history_messages"], 6);
}

#[tokio::test]
async fn a_history_of_whole_turns_is_read_once() {
    let house = House::new(vec![Script::reply(&["好"])]).await;
    let counted = json!(1);
    for n in 0..50 {
        house
            .store(&[
                element("user", &format!("q{n}"), &counted),
                element("assistant", "a", &counted),
            ])
            .await;
    }
    // A commit looks into a list without figures for the turn itself.
    let meta = MESSAGES.replace(":messages", ":meta");
    let figures = ["HSET", &meta, "message_count", "100"];
    let _: i64 = house.redis.command(&figures).await;
    assert_eq!(house.say("你好").await.start()["history_messages"], 50);
    assert_eq!(house.redis.calls("lrange").await, 1);
    house.store(&[element("system", "note", &counted)]).await;
    assert_eq!(house.say("你好").await.start()["history_messages"], 50);
    assert_eq!(house.redis.calls("lrange").await, 3);
}

#[tokio::test]
async fn figures_that_another_language_wrote_are_numbers() {
    let house = House::new(vec![Script::reply(&["好"])]).await;
    let session = Function::builder("session-meta")
        .env("REDIS_URL", house.redis.url())
        .env("JWT_SECRET", secret())
        .start()
        .await;
    for (stored, read, after) in [
        ("4.0", 4, 6),
        ("1e3", 1_000, 1_002),
        ("7.9", 7, 9),
        ("nan", 0, 2),
        ("inf", 0, 2),
        ("-inf", 0, 2),
        ("-3", 0, 2),
        ("0x10", 0, 2),
        ("many", 0, 2),
    ] {
        let figures = [
            "chat:alice:luna:meta",
            "message_count",
            stored,
            "total_tokens",
            stored,
        ];
        let at = [
            "last_active_at",
            "2024-11-24T06:33:20",
            "session_start",
            "1732430000.5",
        ];
        let command: Vec<&str> = ["HSET"].into_iter().chain(figures).chain(at).collect();
        let _: i64 = house.redis.command(&command).await;
        let get = async || -> Value {
            let event = events::session(&token("alice"), "luna");
            session.invoke(&event).await.json()
        };
        let before = get().await;
        assert_eq!(before["message_count"], read, "{stored}");
        assert_eq!(before["total_tokens"], read, "{stored}");
        assert_eq!(before["last_active_at"], 1_732_430_000);
        assert_eq!(before["session_start"], 1_732_430_000);
        assert_eq!(house.say("你好").await.last()["saved"], true);
        assert_eq!(get().await["message_count"], after, "{stored}");
    }
}

#[tokio::test]
async fn a_number_that_no_type_holds_is_kept_as_it_was_sent() {
    let house = House::new(vec![Script::reply(&["好"])]).await;
    let metadata = r#"{"far":1e999,"near":[-1e-999]}"#;
    let body = format!(r#"{{"character_id":"luna","message":"你好","metadata":{metadata}}}"#);
    let event = events::Event::stream()
        .token(&token("alice"))
        .header("content-type", "application/json")
        .body(&body);
    let answer = house.chat.invoke(&event.http()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.last()["saved"], true);
    let elements: Vec<String> = house.redis.command(&["LRANGE", MESSAGES, "0", "-1"]).await;
    assert!(
        elements[1].ends_with(&format!("\"metadata\":{metadata}}}")),
        "{}",
        elements[1]
    );
    assert_eq!(house.say("你好").await.start()["history_messages"], 2);
}
