//! What a chat request may say: limits to the character and to the byte, and refusals that name the field.

use serde_json::{Value, json};
use testkit::answer::Problem;
use testkit::events::Gateway;
use testkit::stage::Stage;

const GATEWAYS: [Gateway; 2] = [Gateway::Rest, Gateway::Http];

/// A refusal of a body that is not valid JSON.
const fn invalid_json(detail: &'static str) -> Problem {
    Problem::new(400, "invalid_json", detail)
}

/// A refusal of a body that says something else than a request must.
const fn invalid_request(detail: &'static str) -> Problem {
    Problem::new(422, "invalid_request", detail)
}

#[tokio::test]
async fn a_message_is_1_to_2000_characters_and_not_only_white_space() {
    let stage = Stage::builder().start().await;
    let said = |message: Value| {
        let body = json!({ "character_id": "luna", "message": message });
        stage.post().body(&body.to_string())
    };
    for (case, text) in [
        ("one character", "月".to_owned()),
        ("ideographs", "月".repeat(2_000)),
        ("four bytes each", "🙂".repeat(2_000)),
        ("letters and their accents", "e\u{301}".repeat(1_000)),
        ("a family of seven characters", "👨‍👩‍👧‍👦".repeat(285)),
        ("white space around", "\u{3000} 晚上好呀\n".to_owned()),
        (
            "an invisible character beside one that can be seen",
            "\u{200b}晚".to_owned(),
        ),
        (
            "NUL, quotes, line ends",
            "\0\"\\\r\n\u{2028}</script>".to_owned(),
        ),
    ] {
        for gateway in GATEWAYS {
            let event = said(json!(text)).build(gateway);
            stage.assert_answers(&event, &text, case).await;
        }
    }
    for (case, text) in [
        ("ideographs", "月".repeat(2_001)),
        ("four bytes each", "🙂".repeat(2_001)),
        ("letters and their accents", "e\u{301}".repeat(1_000) + "e"),
        ("white space counts", "月".to_owned() + &" ".repeat(2_000)),
    ] {
        let refusal = invalid_request("message: must be at most 2000 characters");
        stage
            .assert_refuses(&said(json!(text)).http(), &refusal, case)
            .await;
    }
    for text in [
        "",
        " ",
        "\t\r\n",
        "\u{3000}",
        "\u{a0}\u{2003}\u{2028}\u{85}",
        "\u{200b}",
        "\u{feff}\u{3164}\u{ad}",
    ] {
        let refusal = invalid_request("message: must not be empty");
        stage
            .assert_refuses(&said(json!(text)).http(), &refusal, text)
            .await;
    }
    for value in [
        json!(7),
        json!(true),
        json!(["晚上好呀"]),
        json!({ "text": "晚上好呀" }),
    ] {
        let refusal = invalid_request("message: must be text");
        stage
            .assert_refuses(&said(value.clone()).http(), &refusal, &value.to_string())
            .await;
    }
    let missing = invalid_request("message: is required");
    stage
        .assert_refuses(&said(Value::Null).http(), &missing, "null")
        .await;
    let event = stage.post().body(r#"{"character_id":"luna"}"#).http();
    stage.assert_refuses(&event, &missing, "nothing").await;
}

#[tokio::test]
async fn a_character_is_named_in_1_to_128_bytes_and_must_exist() {
    let stage = Stage::builder().start().await;
    let event = |id: &Value| {
        let body = json!({ "character_id": id, "message": "晚上好呀" });
        stage.post().body(&body.to_string())
    };
    let size = "character_id: must be 1 to 128 bytes";
    let text = "character_id: must be text";
    for (id, detail) in [
        (json!(""), size),
        (json!("a".repeat(129)), size),
        (json!("灵".repeat(43)), size),
        (json!(7), text),
        (json!(["luna"]), text),
        (Value::Null, "character_id: is required"),
    ] {
        let case = id.to_string();
        stage
            .assert_refuses(&event(&id).http(), &invalid_request(detail), &case)
            .await;
    }
    let event_without = stage.post().body(r#"{"message":"晚上好呀"}"#).http();
    let refusal = invalid_request("character_id: is required");
    stage
        .assert_refuses(&event_without, &refusal, "nothing")
        .await;

    // Before anything is streamed.
    let nobody = Problem::new(404, "character_not_found", "the character does not exist");
    for id in [
        "nobody".to_owned(),
        "Luna".to_owned(),
        "luna ".to_owned(),
        "a".repeat(128),
    ] {
        for gateway in GATEWAYS {
            let event = event(&json!(id)).build(gateway);
            stage.assert_refuses(&event, &nobody, &id).await;
        }
    }
    let stored =
        json!({ "name": "灵", "system_prompt": "你是灵。", "temperature": null, "later": [1] });
    let _: () = stage
        .redis
        .command(&["SET", "character:%E7%81%B5", &stored.to_string()])
        .await;
    stage
        .assert_answers(&event(&json!("灵")).rest(), "晚上好呀", "a stored one")
        .await;
    let prompt = stage.upstream.requests()[0].messages().swap_remove(0);
    assert_eq!(prompt, ("system".to_owned(), "你是灵。".to_owned()));
}

#[tokio::test]
async fn metadata_is_a_readable_object_of_at_most_2_kib() {
    let stage = Stage::builder().start().await;
    let event = |metadata: &str| {
        let body =
            format!(r#"{{"character_id":"luna","message":"晚上好呀","metadata":{metadata}}}"#);
        stage.post().body(&body)
    };
    let of_size = |bytes: usize| format!(r#"{{"k":"{}"}}"#, "x".repeat(bytes - 8));
    let nested = |levels: usize| format!(r#"{{"k":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    assert_eq!(of_size(2_048).len(), 2_048);
    let key = "chat:alice:luna:messages";
    for metadata in [
        "null",
        "{}",
        r#"{ "a" : [1.50, null], "a":2, "键":"\ud83d\ude42" }"#,
        &of_size(2_048),
        &nested(100),
    ] {
        stage
            .assert_answers(&event(metadata).rest(), "晚上好呀", metadata)
            .await;
        let said: String = stage.redis.command(&["LINDEX", key, "1"]).await;
        assert!(
            said.ends_with(&format!(r#","metadata":{metadata}}}"#)),
            "{said}"
        );
    }
    let long = format!(r#"{{"k":"{}"}}"#, "灵".repeat(681));
    assert_eq!(long.len(), 2_051);
    for metadata in [&of_size(2_049), &long] {
        let refusal = invalid_request("metadata: must be at most 2 KiB");
        stage
            .assert_refuses(&event(metadata).http(), &refusal, metadata)
            .await;
    }
    for metadata in ["[]", r#"["a"]"#, r#""{}""#, "7", "true"] {
        let refusal = invalid_request("metadata: must be a JSON object");
        stage
            .assert_refuses(&event(metadata).http(), &refusal, metadata)
            .await;
    }
    // What other readers of the stored message would choke on.
    for metadata in [
        r#"{"k":"\ud83d"}"#,
        r#"{"\udc00":1}"#,
        r#"{"k":"\ude42\ud83d"}"#,
        &nested(500),
    ] {
        let refusal = invalid_json("metadata: is not valid JSON, or nested too deeply");
        stage
            .assert_refuses(&event(metadata).http(), &refusal, metadata)
            .await;
    }
}
