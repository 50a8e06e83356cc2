//! Text, counts and ends in other shapes.

use serde_json::{Value, json};
use testkit::upstream::{Script, Step, chunk};

use crate::{Stage, deltas, good};

fn raw(text: &str) -> Step {
    Step::Bytes(text.to_owned().into())
}

#[tokio::test]
async fn text_in_any_shape_is_the_reply() {
    let whole = json!({
        "object": "chat.completion",
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": "你好" }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 9, "completion_tokens": 2 },
    });
    let pretty = serde_json::to_string_pretty(&whole).expect("JSON");
    let scripts = [
        (
            "parts",
            deltas(&[
                json!({ "content": [{ "type": "thinking", "thinking": [{ "type": "text", "text": "想" }] }] }),
                json!({ "content": [{ "type": "text", "text": "你" }, { "type": "image_url", "image_url": { "url": "x" } }] }),
                json!({ "content": [{ "type": "text", "text": "好" }, { "type": "reference", "reference_ids": [1] }] }),
            ]),
        ),
        (
            "strings in a list",
            deltas(&[json!({ "content": ["你", "好"] })]),
        ),
        (
            "a refusal",
            deltas(&[
                json!({ "content": null, "refusal": "你" }),
                json!({ "refusal": "好" }),
            ]),
        ),
        (
            "a whole completion",
            Script::status(200, &whole.to_string()),
        ),
        (
            "a whole completion, pretty, in pieces",
            Script::status(200, &pretty).byte_by_byte(),
        ),
        (
            "a whole completion after blank lines",
            Script::raw(vec![raw("\n\n"), raw("\r\n"), raw(&whole.to_string())]),
        ),
        (
            "a whole completion by another name",
            Script::status(200, &whole.to_string()).header("content-type", "text/event-stream"),
        ),
        (
            "a whole completion in an event",
            Script::raw(vec![Step::Bytes(chunk(&whole))]).done(),
        ),
        (
            "a whole message after its deltas",
            Script::deltas(&["你", "好"])
                .then(Step::Bytes(chunk(&whole)))
                .done(),
        ),
        (
            "a whole completion that thought",
            Script::status(
                200,
                &whole
                    .to_string()
                    .replace("你好", "<think>想</think>\\n你好"),
            ),
        ),
    ];
    let stage = Stage::new(scripts.iter().map(|(_, script)| script.clone()).collect()).await;
    for (case, _) in &scripts {
        let answer = stage.replies("你好", case).await;
        assert_eq!(answer.last()["finish_reason"], "stop", "{case}");
    }
}

#[tokio::test]
async fn a_body_that_is_json_and_no_completion_is_an_outage() {
    for body in [
        "{}",
        r#"{"choices":[]}"#,
        r#"{"object":"list","data":[]}"#,
        r#"{"choices":[{"message":{"content":"#,
    ] {
        let stage = Stage::new(vec![Script::status(200, body)]).await;
        stage.fails("upstream_unavailable", body).await;
    }
}

/// Deltas whose text is spelled as it stands in JSON.
fn spelled(texts: &[&str]) -> Script {
    let steps = texts.iter().map(|text| {
        raw(&format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":{text}}}}}]}}\n\n"
        ))
    });
    Script::raw(steps.collect()).finish("stop").done()
}

#[tokio::test]
async fn halves_of_characters_are_joined_and_a_lone_one_is_replaced() {
    let cases: [(&[&str], &str); 7] = [
        (&[r#""a\ud83d""#, r#""\ude00b""#], "a😀b"),
        (&[r#""a\uD83D""#, r#""""#, r#""\uDE00""#], "a😀"),
        (
            &[r#"[{"type":"text","text":"a\ud83d"}]"#, r#""\ude00""#],
            "a😀",
        ),
        (&[r#""a\ud83d""#, r#""b""#], "a\u{FFFD}b"),
        (&[r#""a\ud83d""#], "a\u{FFFD}"),
        (&[r#""\ude00b""#], "\u{FFFD}b"),
        (&[r#""\ud83d\ud83d\ude00""#], "\u{FFFD}😀"),
    ];
    let stage = Stage::new(cases.iter().map(|(texts, _)| spelled(texts)).collect()).await;
    for (texts, expected) in cases {
        stage.replies(expected, &texts.concat()).await;
    }
    // In what is not shown, a half disturbs nobody.
    let thought =
        raw("data: {\"choices\":[{\"delta\":{\"reasoning\":\"\\ud83d\",\"content\":\"好\"}}]}\n\n");
    let stage = Stage::new(vec![Script::raw(vec![thought]).finish("stop").done()]).await;
    stage.replies("好", "thought").await;
}

#[tokio::test]
async fn a_usage_of_any_shape_is_taken_if_it_makes_sense_and_ends_nothing() {
    let completion = |value: &Value| json!({ "prompt_tokens": 9, "completion_tokens": value });
    for (value, expected) in [
        (json!(3.0), Some(3)),
        (json!("3"), Some(3)),
        (json!(3), Some(3)),
        (json!(-1), None),
        (json!(null), None),
        (json!("three"), None),
        (json!([]), None),
        (json!(1e300), None),
    ] {
        let usage = completion(&value);
        let apart = Script::deltas(&["你好呀"])
            .finish("stop")
            .then(Step::Bytes(chunk(
                &json!({ "choices": [], "usage": usage }),
            )))
            .done();
        let in_choice = Script::deltas(&["你好呀"])
            .then(Step::Bytes(chunk(&json!({
                "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop", "usage": usage }],
            }))))
            .done();
        let stage = Stage::new(vec![apart, in_choice]).await;
        for case in ["apart", "in the choice"] {
            let answer = stage.replies("你好呀", case).await;
            let told = &answer.last()["usage"]["completion_tokens"];
            match expected {
                Some(count) => assert_eq!(told, count, "{value} {case}"),
                None => assert!(
                    told.as_u64().is_some_and(|count| (1..=9).contains(&count)),
                    "{value} {case}: {told}"
                ),
            }
        }
    }
    for odd in [
        json!("none"),
        json!([1]),
        json!(7),
        json!({ "prompt_tokens": {} }),
        json!(true),
    ] {
        let script = Script::deltas(&["好"])
            .finish("stop")
            .then(Step::Bytes(chunk(&json!({ "choices": [], "usage": odd }))))
            .done();
        Stage::new(vec![script])
            .await
            .replies("好", &odd.to_string())
            .await;
    }
}

#[tokio::test]
async fn words_for_the_end_are_understood_in_any_case() {
    let cases = [
        ("sensitive", "content_filter"),
        ("safety", "content_filter"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("Blocklist", "content_filter"),
        ("MAX_TOKENS", "length"),
        ("Length", "length"),
        ("STOP", "stop"),
        ("eos", "stop"),
    ];
    let scripts = cases.map(|(word, _)| Script::deltas(&["嗯"]).finish(word).done());
    let stage = Stage::new(scripts.to_vec()).await;
    for (word, expected) in cases {
        let answer = stage.replies("嗯", word).await;
        assert_eq!(answer.last()["finish_reason"], expected, "{word}");
    }
}

#[tokio::test]
async fn the_word_null_ends_nothing_and_a_network_error_is_a_failure() {
    let null = |text: &str| {
        Step::Bytes(chunk(&json!({
            "choices": [{ "index": 0, "delta": { "content": text }, "finish_reason": "null" }],
        })))
    };
    // The pause is longer than what is waited for a usage after the end of a reply.
    let pause = Step::Delay(std::time::Duration::from_millis(2_500));
    let script = Script::raw(vec![null("你"), pause, null("好")])
        .finish("stop")
        .done();
    Stage::new(vec![script]).await.replies("你好", "null").await;

    let stage = Stage::new(vec![Script::deltas(&["半"]).finish("network_error").done()]).await;
    let answer = stage.say("你在吗？").await;
    let last = answer.events().pop().expect("an event");
    assert_eq!(
        (last.event.as_str(), &last.data["code"]),
        ("error", &json!("upstream_interrupted"))
    );
    assert_eq!(stage.stored().await, ["你在吗？", "半"]);

    // Before any text it may pass.
    let stage = Stage::new(vec![
        Script::deltas(&[]).finish("network_error").done(),
        good(),
    ])
    .await;
    stage.replies("好", "again").await;
}
