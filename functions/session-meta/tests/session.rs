//! A session: read as it is stored, set to a state, never made and never prolonged.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use testkit::answer::Problem;
use testkit::events::{self, Event, Gateway};
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tokens::{secret, token};
use testkit::upstream::{Script, Upstream};

const GATEWAYS: [Gateway; 2] = [Gateway::Rest, Gateway::Http];
const MESSAGES: &str = "chat:alice:luna:messages";
const META: &str = "chat:alice:luna:meta";

fn function(name: &str, redis: &Server) -> FunctionBuilder {
    Function::builder(name)
        .env("REDIS_URL", redis.url())
        .env("JWT_SECRET", secret())
}

async fn session_meta(redis: &Server) -> Function {
    function("session-meta", redis).start().await
}

fn read(gateway: Gateway) -> Value {
    Event::session()
        .token(&token("alice"))
        .query("character_id", "luna")
        .build(gateway)
}

fn set(state: &Value, gateway: Gateway) -> Value {
    let body = json!({ "character_id": "luna", "state": state });
    Event::set_state()
        .token(&token("alice"))
        .json(&body)
        .build(gateway)
}

/// The session as it is shown.
async fn shown(function: &Function, event: &Value) -> Value {
    let answer = function.invoke(event).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    answer.json()
}

/// What the Python service writes after a turn, command by command; it has no `session_start`.
async fn store_as_python_does(redis: &Server) {
    let user = r#"{"msg_id":"3f8e1c9a-52b7-4d0e-9a63-0c6f3b7d21ab","role":"user","content":"我叫小雨","timestamp":1732430000,"token_count":6,"metadata":null}"#;
    let reply = r#"{"msg_id":"b0c4a9de-1f6e-4b8e-8a35-6f0f35a4d7c2","role":"assistant","content":"你好，小雨","timestamp":1732430003,"token_count":7,"metadata":null}"#;
    for element in [user, reply] {
        let _: i64 = redis.command(&["LPUSH", MESSAGES, element]).await;
    }
    let _: () = redis.command(&["LTRIM", MESSAGES, "0", "99"]).await;
    let _: i64 = redis.command(&["EXPIRE", MESSAGES, "86400"]).await;
    let hset = [
        "HSET",
        META,
        "state",
        "ACTIVE",
        "last_active_at",
        "1732430003",
    ];
    let _: i64 = redis.command(&hset).await;
    let _: i64 = redis
        .command(&["HINCRBY", META, "message_count", "2"])
        .await;
    let _: i64 = redis
        .command(&["HINCRBY", META, "total_tokens", "13"])
        .await;
    let _: i64 = redis.command(&["EXPIRE", META, "86400"]).await;
}

#[tokio::test]
async fn without_a_session_there_is_none_and_setting_its_state_makes_none() {
    let redis = Server::start().await;
    let session = session_meta(&redis).await;
    for gateway in GATEWAYS {
        for event in [read(gateway), set(&json!("ENDED"), gateway)] {
            let answer = session.invoke(&event).await;
            assert_eq!(
                answer.problem(),
                Problem::new(404, "session_not_found", "the session does not exist"),
                "none"
            );
        }
    }
    assert_eq!(redis.command::<i64>(&["EXISTS", MESSAGES, META]).await, 0);
    assert_eq!(redis.command::<i64>(&["DBSIZE"]).await, 0);
}

#[tokio::test]
async fn a_session_is_shown_whole_with_numbers_as_numbers() {
    let redis = Server::start().await;
    let upstream = Upstream::start(Script::reply(&["你", "好"])).await;
    let chat = function("chat-stream", &redis)
        .envs(upstream.env())
        .env("MEMORY_MAX_MESSAGES", "4")
        .start()
        .await;
    let session = session_meta(&redis).await;
    let before = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let mut tokens = 0;
    for _ in 0..3 {
        let turn = chat
            .invoke(&events::chat(&token("alice"), "luna", "晚上好呀"))
            .await;
        assert_eq!(turn.last()["saved"], true);
        let newest: Vec<String> = redis.command(&["LRANGE", MESSAGES, "0", "1"]).await;
        for element in newest {
            let message: Value = serde_json::from_str(&element).expect("JSON");
            tokens += message["token_count"].as_i64().expect("a number");
        }
    }
    let _: i64 = redis
        .command(&["HSET", META, "session_start", "1732430000"])
        .await;
    for key in [MESSAGES, META] {
        let _: i64 = redis.command(&["PERSIST", key]).await;
    }
    for gateway in GATEWAYS {
        let mut shown = shown(&session, &read(gateway)).await;
        let last_active_at = shown["last_active_at"].take().as_u64().expect("a number");
        assert!((before..before + 60).contains(&last_active_at));
        // All messages ever are counted, those that were trimmed away too.
        assert_eq!(
            shown,
            json!({
                "character_id": "luna", "state": "ACTIVE", "last_active_at": null, "message_count": 6,
                "session_start": 1_732_430_000, "total_tokens": tokens, "stored_messages": 4, "expires_in": null,
            })
        );
    }
    assert!(tokens >= 6, "{tokens}");
    let _: i64 = redis.command(&["EXPIRE", META, "1000"]).await;
    let left = shown(&session, &read(Gateway::Rest)).await["expires_in"].as_i64();
    assert!((900..=1_000).contains(&left.expect("a number")));
}

#[tokio::test]
async fn a_state_is_set_and_nothing_else_changes() {
    let redis = Server::start().await;
    let session = session_meta(&redis).await;
    store_as_python_does(&redis).await;
    for key in [MESSAGES, META] {
        let _: i64 = redis.command(&["EXPIRE", key, "1000"]).await;
    }
    let mut before: Vec<i64> = Vec::new();
    for key in [MESSAGES, META] {
        before.push(redis.command(&["PTTL", key]).await);
    }
    for gateway in GATEWAYS {
        for state in ["INACTIVE", "ENDED", "ACTIVE", "ACTIVE"] {
            let mut told = shown(&session, &set(&json!(state), gateway)).await;
            let mut found = shown(&session, &read(gateway)).await;
            for shown in [&mut told, &mut found] {
                assert!(
                    (900..=1_000).contains(&shown["expires_in"].take().as_i64().expect("a number"))
                );
                assert_eq!(
                    *shown,
                    json!({
                        "character_id": "luna", "state": state, "last_active_at": 1_732_430_003, "message_count": 2,
                        "session_start": null, "total_tokens": 13, "stored_messages": 2, "expires_in": null,
                    })
                );
            }
            let stored: String = redis.command(&["HGET", META, "state"]).await;
            assert_eq!(stored, state);
        }
    }
    for (key, before) in [MESSAGES, META].into_iter().zip(before) {
        let after: i64 = redis.command(&["PTTL", key]).await;
        assert!(
            (1..=before).contains(&after),
            "{key}: {before}, then {after}"
        );
    }
    // One that never expires stays so.
    let _: i64 = redis.command(&["PERSIST", META]).await;
    let ended = shown(&session, &set(&json!("ENDED"), Gateway::Rest)).await;
    assert_eq!(
        (&ended["state"], &ended["expires_in"]),
        (&json!("ENDED"), &Value::Null)
    );
    assert_eq!(redis.command::<i64>(&["PTTL", META]).await, -1);
}

#[tokio::test]
async fn a_session_of_the_python_service_is_read_and_goes_on() {
    let redis = Server::start().await;
    let upstream = Upstream::start(Script::reply(&["好"])).await;
    let chat = function("chat-stream", &redis)
        .envs(upstream.env())
        .start()
        .await;
    let session = session_meta(&redis).await;
    store_as_python_does(&redis).await;
    let before = shown(&session, &read(Gateway::Rest)).await;
    assert_eq!(before["session_start"], Value::Null);
    assert!((86_300..=86_400).contains(&before["expires_in"].as_i64().expect("a number")));

    let turn = chat
        .invoke(&events::chat(&token("alice"), "luna", "我叫什么？"))
        .await;
    assert_eq!(
        (&turn.start()["memory"], &turn.start()["history_messages"]),
        (&json!("ok"), &json!(2))
    );
    assert_eq!(turn.last()["saved"], true);
    let sent: Vec<String> = upstream.requests()[0]
        .messages()
        .into_iter()
        .skip(1)
        .map(|(_, text)| text)
        .collect();
    assert_eq!(sent, ["我叫小雨", "你好，小雨", "我叫什么？"]);

    let after = shown(&session, &read(Gateway::Rest)).await;
    assert_eq!(
        (&after["message_count"], &after["stored_messages"]),
        (&json!(4), &json!(4))
    );
    assert!(after["total_tokens"].as_i64() > Some(13));
    // The session began before anybody wrote down when; from now on it is known since when it is known.
    assert_eq!(after["session_start"], after["last_active_at"]);
    assert!(after["session_start"].as_i64() > Some(1_732_430_003));
    // And the Python service goes on with what it finds.
    store_as_python_does(&redis).await;
    let back = shown(&session, &read(Gateway::Http)).await;
    assert_eq!(
        (&back["message_count"], &back["stored_messages"]),
        (&json!(6), &json!(6))
    );
}

#[tokio::test]
async fn what_is_not_a_state_is_refused_and_changes_nothing() {
    let redis = Server::start().await;
    let session = session_meta(&redis).await;
    store_as_python_does(&redis).await;
    let choice = "state: must be ACTIVE, INACTIVE or ENDED";
    for (value, detail) in [
        (json!("SLEEPING"), choice),
        (json!("ended"), choice),
        (json!(" ENDED"), choice),
        (json!(""), choice),
        (json!(1), "state: must be text"),
        (json!(["ENDED"]), "state: must be text"),
        (Value::Null, "state: is required"),
    ] {
        for gateway in GATEWAYS {
            let answer = session.invoke(&set(&value, gateway)).await;
            assert_eq!(
                answer.problem(),
                Problem::new(422, "invalid_request", detail),
                "{}",
                value
            );
        }
    }
    let patch = || {
        Event::set_state()
            .token(&token("alice"))
            .header("content-type", "application/json")
    };
    for (body, status, code, detail) in [
        (
            r#"{"state":"ENDED"}"#,
            422,
            "invalid_request",
            "character_id: is required",
        ),
        (
            r#"{"character_id":"luna"}"#,
            422,
            "invalid_request",
            "state: is required",
        ),
        (
            r#"{"character_id":"","state":"ENDED"}"#,
            422,
            "invalid_request",
            "character_id: must be 1 to 128 bytes",
        ),
        (
            r#"["luna","ENDED"]"#,
            422,
            "invalid_request",
            "the body must be a JSON object",
        ),
        (
            r#"{"character_id":"luna","state":"ACTIVE","state":"ENDED"}"#,
            422,
            "invalid_request",
            "the body has a field twice",
        ),
        (
            r#"{"character_id":"luna","state":"ENDED""#,
            400,
            "invalid_json",
            "the body is not valid JSON (line 1, column 38)",
        ),
    ] {
        assert_eq!(
            session.invoke(&patch().body(body).rest()).await.problem(),
            Problem::new(status, code, detail),
            "{body}"
        );
    }
    let good = r#"{"character_id":"luna","state":"ENDED"}"#;
    let typed = patch()
        .header("content-type", "text/plain")
        .body(good)
        .http();
    let detail = "the body must be sent as application/json";
    assert_eq!(
        session.invoke(&typed).await.problem(),
        Problem::new(415, "unsupported_media_type", detail),
        "type"
    );
    let large = patch()
        .body(&good.replace(':', &format!(":{}", " ".repeat(65_536))))
        .http();
    let detail = "the body must be at most 64 KiB";
    assert_eq!(
        session.invoke(&large).await.problem(),
        Problem::new(413, "payload_too_large", detail),
        "size"
    );
    // A query is read where there is no body, and only there.
    let query = Event::set_state()
        .token(&token("alice"))
        .query("character_id", "luna")
        .query("state", "ENDED");
    let detail = "the body must be sent as application/json";
    assert_eq!(
        session.invoke(&query.rest()).await.problem(),
        Problem::new(415, "unsupported_media_type", detail),
        "a query"
    );
    let detail = "character_id: is required in the query";
    let body = Event::session()
        .token(&token("alice"))
        .json(&json!({ "character_id": "luna" }));
    assert_eq!(
        session.invoke(&body.rest()).await.problem(),
        Problem::new(422, "invalid_request", detail),
        "a body"
    );
    for method in ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"] {
        let answer = session
            .invoke(&Event::new(method, "/api/v1/chat/session").rest())
            .await;
        let detail = "this path does not support this method";
        assert_eq!(
            answer.problem(),
            Problem::new(405, "method_not_allowed", detail),
            "{method}"
        );
        assert_eq!(answer.header("allow"), Some("GET, PATCH"));
    }
    assert_eq!(
        redis.command::<String>(&["HGET", META, "state"]).await,
        "ACTIVE"
    );
}

#[tokio::test]
async fn while_redis_is_down_a_session_is_unavailable_which_is_not_none() {
    let mut redis = Server::start().await;
    let session = session_meta(&redis).await;
    assert_eq!(session.invoke(&read(Gateway::Http)).await.status, 404);
    redis.kill().await;
    for event in [
        read(Gateway::Rest),
        set(&json!("ENDED"), Gateway::Rest),
        read(Gateway::Http),
    ] {
        let answer = session.invoke(&event).await;
        assert_eq!(
            answer.problem(),
            Problem::new(
                503,
                "memory_unavailable",
                "the session cannot be read or changed at the moment"
            ),
            "down"
        );
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
}
