//! Clearing a history: what is forgotten, what is not, and what is said when it cannot be done.

use serde_json::{Value, json};
use testkit::answer::{Answer, Problem};
use testkit::events::{self, Event, Gateway};
use testkit::redis::Server;
use testkit::runtime::Function;
use testkit::tokens::{secret, token};
use testkit::upstream::{Script, Upstream};

const GATEWAYS: [Gateway; 2] = [Gateway::Rest, Gateway::Http];

async fn clear_history(redis: &Server) -> Function {
    Function::builder("clear-history")
        .env("REDIS_URL", redis.url())
        .env("JWT_SECRET", secret())
        .start()
        .await
}

/// Stores a session's keys by their literal names.
async fn store(redis: &Server, session: &str) {
    let element = r#"{"role":"user","content":"你好"}"#;
    let _: i64 = redis
        .command(&["LPUSH", &format!("chat:{session}:messages"), element])
        .await;
    let _: i64 = redis
        .command(&["HSET", &format!("chat:{session}:meta"), "state", "ACTIVE"])
        .await;
}

/// How many of a session's two keys exist.
async fn stored(redis: &Server, session: &str) -> i64 {
    let [messages, meta] = ["messages", "meta"].map(|part| format!("chat:{session}:{part}"));
    redis.command(&["EXISTS", &messages, &meta]).await
}

fn assert_cleared(answer: &Answer, case: &str) {
    assert_eq!(answer.status, 200, "{case}: {}", answer.text());
    assert_eq!(answer.text(), r#"{"message":"历史已清空"}"#, "{case}");
    assert_eq!(
        answer.header("content-type"),
        Some("application/json"),
        "{case}"
    );
}

#[tokio::test]
async fn a_clear_forgets_one_session_and_no_other() {
    let redis = Server::start().await;
    let clear = clear_history(&redis).await;
    for gateway in GATEWAYS {
        let sessions = ["alice:luna", "alice:kai", "bob:luna", "alice:luna2"];
        for session in sessions {
            store(&redis, session).await;
        }
        let event = Event::clear()
            .token(&token("alice"))
            .query("character_id", "luna")
            .build(gateway);
        assert_cleared(&clear.invoke(&event).await, "with a history");
        for (session, keys) in sessions.into_iter().zip([0, 2, 2, 2]) {
            assert_eq!(stored(&redis, session).await, keys, "{session}");
        }
        // The mark that keeps older turns out goes by itself, and not before the longest turn has ended.
        let left: i64 = redis.command(&["TTL", "chat:alice:luna:cleared"]).await;
        assert!(left > 900, "{left}");
    }
}

#[tokio::test]
async fn a_clear_of_nothing_is_a_clear() {
    let redis = Server::start().await;
    let clear = clear_history(&redis).await;
    for gateway in GATEWAYS {
        // A character that nobody knows any longer can have a history, so nobody looks it up.
        for character in ["luna", "nobody"] {
            let event = Event::clear()
                .token(&token("alice"))
                .query("character_id", character)
                .build(gateway);
            assert_cleared(&clear.invoke(&event).await, character);
        }
    }
}

#[tokio::test]
async fn after_a_clear_the_conversation_begins_anew() {
    let redis = Server::start().await;
    let upstream = Upstream::start(Script::reply(&["好"])).await;
    let clear = clear_history(&redis).await;
    let chat = Function::builder("chat-stream")
        .env("REDIS_URL", redis.url())
        .env("JWT_SECRET", secret())
        .envs(upstream.env())
        .start()
        .await;
    let alice = token("alice");
    let _ = chat.invoke(&events::chat(&alice, "luna", "我叫小雨")).await;
    let second = chat
        .invoke(&events::chat(&alice, "luna", "我叫什么？"))
        .await;
    assert_eq!(second.start()["history_messages"], 2);

    assert_cleared(&clear.invoke(&events::clear(&alice, "luna")).await, "clear");
    let third = chat
        .invoke(&events::chat(&alice, "luna", "我叫什么？"))
        .await;
    assert_eq!(
        (&third.start()["memory"], &third.start()["history_messages"]),
        (&json!("empty"), &json!(0))
    );
    assert_eq!(third.last()["saved"], true);
    let sent = upstream.requests()[2].messages();
    assert_eq!(sent.len(), 2, "{sent:?}");
}

#[tokio::test]
async fn the_character_of_the_query_is_decoded_once() {
    let redis = Server::start().await;
    let clear = clear_history(&redis).await;
    // As it comes in the query of an HTTP API, as the gateway of a REST API hands it over, and as the key has it.
    for (raw, decoded, key) in [
        ("luna", "luna", "luna"),
        ("%E7%81%B5", "灵", "%E7%81%B5"),
        ("灵", "灵", "%E7%81%B5"),
        ("a+b", "a b", "a%20b"),
        ("a%20b", "a b", "a%20b"),
        ("a%2Bb", "a+b", "a%2Bb"),
        ("a%2Cb", "a,b", "a%2Cb"),
        ("a,b", "a,b", "a%2Cb"),
        ("%2541", "%41", "%2541"),
        (
            "a%26character_id%3Db",
            "a&character_id=b",
            "a%26character_id%3Db",
        ),
        ("a:b{c}", "a:b{c}", "a%3Ab%7Bc%7D"),
    ] {
        let session = format!("alice:{key}");
        let mut http = Event::clear().token(&token("alice")).http();
        http["rawQueryString"] = json!(format!("x=1&character_id={raw}&y"));
        // The gateway's own reading, in which a comma may be one value or two, is not used.
        http["queryStringParameters"] = json!({ "character_id": "another", "x": "1" });
        let rest = Event::clear()
            .token(&token("alice"))
            .query("character_id", decoded)
            .rest();
        for event in [http, rest] {
            store(&redis, &session).await;
            assert_cleared(&clear.invoke(&event).await, raw);
            assert_eq!(stored(&redis, &session).await, 0, "{event}");
        }
    }
    // An event made by hand may have the one map and not the other.
    let mut event = Event::clear()
        .token(&token("alice"))
        .query("character_id", "luna")
        .rest();
    event["multiValueQueryStringParameters"] = Value::Null;
    store(&redis, "alice:luna").await;
    assert_cleared(&clear.invoke(&event).await, "one map");
    assert_eq!(stored(&redis, "alice:luna").await, 0);
}

#[tokio::test]
async fn the_query_names_exactly_one_character() {
    let redis = Server::start().await;
    let clear = clear_history(&redis).await;
    let required = "character_id: is required in the query";
    let once = "character_id: must be given once";
    let size = "character_id: must be 1 to 128 bytes";
    let longer = "灵".repeat(43);
    let cases: [(&[(&str, &str)], &str); 7] = [
        (&[], required),
        (
            &[("characterId", "luna"), ("CHARACTER_ID", "luna")],
            required,
        ),
        (&[("character_id", "")], size),
        (&[("character_id", &longer)], size),
        (&[("character_id", "luna"), ("character_id", "kai")], once),
        (&[("character_id", "luna"), ("character_id", "luna")], once),
        (&[("character_id", "luna"), ("character_id", "")], once),
    ];
    for gateway in GATEWAYS {
        for (parameters, detail) in cases {
            // A body is no place for it.
            let mut event = Event::clear()
                .token(&token("alice"))
                .json(&json!({ "character_id": "luna" }));
            for (name, value) in parameters {
                event = event.query(name, value);
            }
            let answer = clear.invoke(&event.build(gateway)).await;
            assert_eq!(
                answer.problem(),
                Problem::new(422, "invalid_request", detail),
                "{parameters:?}"
            );
        }
    }
    let mut event = Event::clear().token(&token("alice")).http();
    event["rawQueryString"] = json!("character_id");
    assert_eq!(
        clear.invoke(&event).await.problem(),
        Problem::new(422, "invalid_request", size),
        "a name without a value"
    );
    assert_eq!(redis.command::<i64>(&["DBSIZE"]).await, 0);
}

#[tokio::test]
async fn a_history_is_deleted() {
    let redis = Server::start().await;
    let clear = clear_history(&redis).await;
    store(&redis, "alice:luna").await;
    for method in ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH"] {
        for gateway in GATEWAYS {
            let event = Event::new(method, "/api/v1/chat/history")
                .token(&token("alice"))
                .query("character_id", "luna");
            let answer = clear.invoke(&event.build(gateway)).await;
            let detail = "this path does not support this method";
            assert_eq!(
                answer.problem(),
                Problem::new(405, "method_not_allowed", detail),
                "{method}"
            );
            assert_eq!(answer.header("allow"), Some("DELETE"));
        }
    }
    assert_eq!(stored(&redis, "alice:luna").await, 2);
}

#[tokio::test]
async fn while_redis_is_down_a_clear_fails_and_says_so() {
    let mut redis = Server::start().await;
    let clear = clear_history(&redis).await;
    let event = events::clear(&token("alice"), "luna");
    assert_cleared(&clear.invoke(&event).await, "up");

    redis.kill().await;
    for attempt in ["first", "second"] {
        let answer = clear.invoke(&event).await;
        assert_eq!(
            answer.problem(),
            Problem::new(503, "memory_unavailable", "清空历史失败"),
            "{attempt}"
        );
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    let refused = clear
        .invoke(&Event::clear().query("character_id", "luna").http())
        .await;
    assert_eq!(
        refused.problem(),
        Problem::new(401, "unauthorized", "a bearer token is required"),
        "who calls is asked first"
    );
}
