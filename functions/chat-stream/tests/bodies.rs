//! What a chat request may look like: one JSON object in UTF-8, declared as such, of limited size, posted.

use testkit::answer::Problem;
use testkit::events::{Event, Gateway};
use testkit::stage::Stage;

const GATEWAYS: [Gateway; 2] = [Gateway::Rest, Gateway::Http];
const MAX_BODY: usize = 64 * 1024;
const TOO_LARGE: Problem =
    Problem::new(413, "payload_too_large", "the body must be at most 64 KiB");
const MEDIA_TYPE: Problem = Problem::new(
    415,
    "unsupported_media_type",
    "the body must be sent as application/json",
);

/// A refusal of a body that is not valid JSON.
const fn invalid_json(detail: &'static str) -> Problem {
    Problem::new(400, "invalid_json", detail)
}

/// A refusal of a body that says something else than a request must.
const fn invalid_request(detail: &'static str) -> Problem {
    Problem::new(422, "invalid_request", detail)
}

#[tokio::test]
async fn a_body_is_one_json_object_in_utf_8() {
    let stage = Stage::builder().start().await;
    let good = r#"{"character_id":"luna","message":"晚上好呀"}"#;
    let deep = "[".repeat(30_000) + &"]".repeat(30_000);
    for (case, body) in [
        ("plain", good.to_owned()),
        ("white space around", format!(" \r\n\t{good}\n")),
        (
            "escapes",
            r#"{"character_id":"\u006cuna","m\u0065ssage":"\u665a\u4e0a\u597d\u5440"}"#.to_owned(),
        ),
        (
            "unknown fields, even twice",
            good.replace("{", r#"{"x":1,"x":{"y":[null]},"user_id":"bob","#),
        ),
        (
            "an unknown field without end",
            good.replace("{", &format!(r#"{{"x":{deep},"#)),
        ),
        (
            "an unknown field that is no text",
            good.replace("{", r#"{"x":"\ud83d","#),
        ),
    ] {
        for gateway in GATEWAYS {
            stage
                .assert_answers(&stage.post().body(&body).build(gateway), "晚上好呀", case)
                .await;
            let encoded = stage.post().bytes(body.as_bytes()).build(gateway);
            stage.assert_answers(&encoded, "晚上好呀", case).await;
        }
    }
    let object = invalid_request("the body must be a JSON object");
    let twice = invalid_request("the body has a field twice");
    let broken = invalid_json;
    for (case, body, refusal) in [
        ("a list", "[]", object.clone()),
        (
            "the fields as a list",
            r#"["luna","晚上好呀",null]"#,
            object.clone(),
        ),
        ("text", r#""x""#, object.clone()),
        ("null", "null", object.clone()),
        ("a number", " 7", object.clone()),
        (
            "a message twice",
            r#"{"character_id":"luna","message":"晚上好呀","message":"再见"}"#,
            twice.clone(),
        ),
        (
            "null, then a character",
            r#"{"character_id":null,"character_id":"luna","message":"晚上好呀"}"#,
            twice.clone(),
        ),
        (
            "nothing",
            "",
            broken("the body is not valid JSON (line 1, column 0)"),
        ),
        (
            "white space",
            "\n ",
            broken("the body is not valid JSON (line 2, column 1)"),
        ),
        (
            "half",
            r#"{"character_id":"luna","#,
            broken("the body is not valid JSON (line 1, column 23)"),
        ),
        (
            "half a list",
            "[1,",
            broken("the body is not valid JSON (line 1, column 3)"),
        ),
        (
            "two objects",
            "{}\n{}",
            broken("the body is not valid JSON (line 2, column 1)"),
        ),
        (
            "a comma too many",
            r#"{"message":"x",}"#,
            broken("the body is not valid JSON (line 1, column 16)"),
        ),
        (
            "a line break in text",
            "{\"message\":\"a\nb\"}",
            broken("the body is not valid JSON (line 1, column 13)"),
        ),
        (
            "a byte order mark",
            "\u{feff}{}",
            broken("the body is not valid JSON (line 1, column 1)"),
        ),
        (
            "half a character",
            r#"{"character_id":"luna","message":"\ud83d"}"#,
            broken("message: is not valid JSON text"),
        ),
        (
            "halves in the wrong order",
            r#"{"character_id":"luna","message":"\ude42\ud83d"}"#,
            broken("message: is not valid JSON text"),
        ),
        (
            "half a character's id",
            r#"{"character_id":"\ud83d","message":"x"}"#,
            broken("character_id: is not valid JSON text"),
        ),
    ] {
        stage
            .assert_refuses(&stage.post().body(body).rest(), &refusal, case)
            .await;
        stage
            .assert_refuses(&stage.post().bytes(body.as_bytes()).http(), &refusal, case)
            .await;
    }
    let nothing = broken("the body is not valid JSON (line 1, column 0)");
    for gateway in GATEWAYS {
        stage
            .assert_refuses(&stage.post().build(gateway), &nothing, "no body")
            .await;
    }
    for bytes in [
        &b"{\"message\":\"\xff\"}"[..],
        b"\xff\xfe{\0}\0",
        b"{\"x\":\"\xed\xa0\xbd\"}",
    ] {
        let refusal = invalid_json("the body is not UTF-8");
        stage
            .assert_refuses(&stage.post().bytes(bytes).http(), &refusal, "not UTF-8")
            .await;
    }
}

#[tokio::test]
async fn a_body_is_at_most_64_kib() {
    let stage = Stage::builder().start().await;
    let of_size = |bytes: usize| {
        let start = r#"{"character_id":"luna","message":"晚上好呀","x":""#;
        format!("{start}{}\"}}", "x".repeat(bytes - start.len() - 2))
    };
    let (largest, too_large) = (of_size(MAX_BODY), of_size(MAX_BODY + 1));
    assert_eq!((largest.len(), too_large.len()), (65_536, 65_537));
    for gateway in GATEWAYS {
        let event = stage.post().body(&largest).build(gateway);
        stage
            .assert_answers(&event, "晚上好呀", "the largest")
            .await;
        // Encoded it is longer, and that does not count.
        let event = stage.post().bytes(largest.as_bytes()).build(gateway);
        stage
            .assert_answers(&event, "晚上好呀", "the largest, encoded")
            .await;
        for event in [
            stage.post().body(&too_large),
            stage.post().bytes(too_large.as_bytes()),
        ] {
            stage
                .assert_refuses(&event.build(gateway), &TOO_LARGE, "one byte more")
                .await;
        }
        // Nobody looks into a body that is too large.
        let event = stage.post().body(&"灵".repeat(21_846)).build(gateway);
        stage.assert_refuses(&event, &TOO_LARGE, "no JSON").await;
    }
}

#[tokio::test]
async fn a_body_is_declared_as_json() {
    let stage = Stage::builder().start().await;
    let body = r#"{"character_id":"luna","message":"晚上好呀"}"#;
    for gateway in GATEWAYS {
        for name in ["content-type", "Content-Type"] {
            for value in [
                "application/json",
                "application/json; charset=utf-8",
                "application/json;charset=UTF-8",
                "Application/JSON ; charset=utf-8",
                "APPLICATION/JSON",
            ] {
                let event = Event::stream()
                    .token(&stage.token)
                    .header(name, value)
                    .body(body);
                stage
                    .assert_answers(&event.build(gateway), "晚上好呀", value)
                    .await;
            }
        }
        for value in [
            "",
            "json",
            "text/plain",
            "text/json",
            "application/jsonp",
            "application/problem+json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=application/json",
        ] {
            let event = stage.post().header("content-type", value).body(body);
            stage
                .assert_refuses(&event.build(gateway), &MEDIA_TYPE, value)
                .await;
        }
        let event = Event::stream()
            .token(&stage.token)
            .body(body)
            .build(gateway);
        stage.assert_refuses(&event, &MEDIA_TYPE, "no type").await;
    }
}

#[tokio::test]
async fn a_chat_is_posted_and_read_again() {
    let stage = Stage::builder().start().await;
    let refusal = Problem::new(
        405,
        "method_not_allowed",
        "this path does not support this method",
    );
    for method in ["HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "BREW"] {
        for gateway in GATEWAYS {
            // Nobody has to say who asks.
            let answer = stage
                .chat
                .invoke(&Event::new(method, "/api/v1/chat/stream").build(gateway))
                .await;
            assert_eq!(answer.problem(), refusal, "{method}");
            assert_eq!(answer.header("allow"), Some("GET, POST"));
        }
    }
    assert_eq!(stage.redis.command::<i64>(&["DBSIZE"]).await, 0);
}
