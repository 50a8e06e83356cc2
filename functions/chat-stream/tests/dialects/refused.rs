//! What a model refuses, how it is asked instead, and when it is asked again.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::upstream::{Received, Script, Step, chunk};

use crate::{Stage, good};

fn refusal(status: u16, message: &str) -> Script {
    let error =
        json!({ "error": { "message": message, "type": "invalid_request_error", "param": null } });
    Script::status(status, &error.to_string())
}

/// A character that sends every parameter.
fn demanding() -> Value {
    json!({
        "name": "侠客", "system_prompt": "你是一名侠客。",
        "temperature": 0.7, "top_p": 0.9, "max_tokens": 512,
    })
}

/// Two turns with a character that sends every parameter, the first of which is refused as given; what was asked.
async fn two_turns(refusals: Vec<Script>) -> (Stage, Vec<Received>) {
    let refused = refusals.len();
    let mut scripts = refusals;
    scripts.push(good());
    // No retry is needed for any of this.
    let stage = Stage::with(&[("LLM_MAX_RETRIES", "0")], scripts).await;
    stage.character("hero", &demanding()).await;
    for _ in 0..2 {
        let answer = stage.say_to("hero", "你在吗？").await;
        assert_eq!(answer.reply(), "好", "{}", answer.text());
    }
    let requests = stage.upstream.requests();
    assert_eq!(requests.len(), refused + 2);
    (stage, requests)
}

#[tokio::test]
async fn a_refused_parameter_is_left_out_or_renamed_and_remembered() {
    let cases = [
        (
            400,
            "Unrecognized request argument supplied: stream_options",
            "stream_options",
            None,
        ),
        (
            422,
            r#"unknown field "stream_options", expected "model", "temperature" or "max_tokens""#,
            "stream_options",
            None,
        ),
        (
            400,
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            "max_tokens",
            Some("max_completion_tokens"),
        ),
        (
            400,
            "max_tokens is too large: 512. This model supports at most 256 completion tokens",
            "max_tokens",
            None,
        ),
        (
            400,
            "Unsupported value: 'temperature' does not support 0.7 with this model.",
            "temperature",
            None,
        ),
        (
            400,
            "invalid temperature: only 1 is allowed for this model",
            "temperature",
            None,
        ),
        (
            400,
            "`temperature` and `top_p` cannot both be specified for this model",
            "top_p",
            None,
        ),
        (400, "top_p is deprecated for this model", "top_p", None),
        (
            500,
            "litellm.BadRequestError: top_p is not supported",
            "top_p",
            None,
        ),
    ];
    for (status, message, gone, renamed) in cases {
        let (stage, requests) = two_turns(vec![refusal(status, message)]).await;
        assert!(!requests[0].body[gone].is_null(), "{message}");
        for request in &requests[1..] {
            let mut expected = requests[0].body.clone();
            let value = expected.as_object_mut().expect("an object").remove(gone);
            if let Some(name) = renamed {
                expected[name] = value.expect("it was sent");
            }
            expected["messages"] = request.body["messages"].clone();
            assert_eq!(request.body, expected, "{message}");
        }
        let log = stage.chat.stop();
        assert!(log.contains("\"kind\"") && log.contains(gone), "{log}");
        assert!(!log.contains(message), "{log}");
    }
}

#[tokio::test]
async fn the_code_and_the_field_of_an_error_are_enough() {
    let error = json!({ "error": { "message": "no", "param": "temperature", "code": "unsupported_value" } });
    let (_, requests) = two_turns(vec![Script::status(400, &error.to_string())]).await;
    assert!(requests[1].body["temperature"].is_null() && !requests[1].body["top_p"].is_null());

    let detail = json!({ "detail": [{
        "type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted",
        "input": { "include_usage": true, "temperature": 1 },
    }] });
    let (_, requests) = two_turns(vec![Script::status(422, &detail.to_string())]).await;
    assert!(
        requests[1].body["stream_options"].is_null() && !requests[1].body["temperature"].is_null()
    );
}

#[tokio::test]
async fn a_model_that_refuses_much_is_asked_without_all_of_it() {
    let (_, requests) = two_turns(vec![
        refusal(400, "Unsupported parameter: stream_options"),
        refusal(400, "Unsupported parameter: max_tokens"),
        refusal(400, "Unsupported parameter: max_completion_tokens"),
        refusal(400, "Unsupported parameter: temperature"),
        refusal(400, "Unsupported parameter: top_p"),
        refusal(400, "System role not supported"),
    ])
    .await;
    let fields = |request: &Received| {
        let fields = request.body.as_object().expect("an object").keys();
        fields.cloned().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(fields(&requests[6]), "messages model stream");
    assert_eq!(fields(&requests[7]), "messages model stream");
}

#[tokio::test]
async fn a_refusal_in_the_first_event_is_heeded_too() {
    let event =
        json!({ "error": { "message": "Unsupported parameter: temperature", "code": 400 } });
    let script = Script::raw(vec![Step::Bytes(chunk(&event))]);
    let (_, requests) = two_turns(vec![script]).await;
    assert!(requests[1].body["temperature"].is_null());
}

#[tokio::test]
async fn without_a_system_role_the_persona_goes_before_what_the_user_says_first() {
    for message in [
        "System role not supported",
        "Developer instruction is not enabled for models/gemma-3-27b-it",
        "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
        "Conversation roles must alternate user/assistant/user/assistant/...",
    ] {
        let (_, requests) = two_turns(vec![refusal(400, message)]).await;
        let first = ("user".to_owned(), "你是一名侠客。\n\n你在吗？".to_owned());
        assert_eq!(
            requests[1].messages(),
            std::slice::from_ref(&first),
            "{message}"
        );
        let second = requests[2].messages();
        assert_eq!(second.len(), 3, "{message}");
        assert_eq!(second[0], first, "{message}");
        assert_eq!(
            second[2],
            ("user".to_owned(), "你在吗？".to_owned()),
            "{message}"
        );
    }
}

#[tokio::test]
async fn what_one_model_refuses_another_is_sent() {
    let scripts = vec![refusal(400, "Unsupported parameter: temperature"), good()];
    let stage = Stage::new(scripts).await;
    stage.character("hero", &demanding()).await;
    let mut other = demanding();
    other["model"] = json!("another-model");
    stage.character("other", &other).await;
    for character in ["hero", "other", "hero"] {
        assert_eq!(stage.say_to(character, "你在吗？").await.reply(), "好");
    }
    let sent: Vec<bool> = stage
        .upstream
        .requests()
        .iter()
        .map(|request| !request.body["temperature"].is_null())
        .collect();
    assert_eq!(sent, [true, false, true, false]);
}

#[tokio::test]
async fn what_did_not_help_is_not_remembered() {
    let scripts = vec![
        refusal(400, "Unsupported parameter: temperature"),
        refusal(400, "bad"),
        good(),
    ];
    let stage = Stage::new(scripts).await;
    stage.character("hero", &demanding()).await;
    let failed = stage.say_to("hero", "你在吗？").await;
    assert_eq!(failed.last()["code"], "upstream_rejected");
    assert_eq!(stage.say_to("hero", "你在吗？").await.reply(), "好");
    assert_eq!(stage.upstream.requests()[2].body["temperature"], 0.7);
}

/// What was said, by its number in the conversation.
fn history(request: &Received) -> Vec<String> {
    let messages = request.messages();
    let said = messages.into_iter().filter(|(role, _)| role == "user");
    said.map(|(_, content)| content).collect()
}

#[tokio::test]
async fn a_prompt_that_is_too_long_loses_the_older_half_of_its_history() {
    for (status, message) in [
        (
            400,
            "This model's maximum context length is 4097 tokens. However, your messages resulted in 5000 tokens.",
        ),
        (400, "prompt is too long: 205000 tokens > 200000 maximum"),
        (
            400,
            "the request exceeds the available context size (4096 tokens), try increasing it",
        ),
        (400, "Range of input length should be [1, 30720]"),
        (
            400,
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        ),
        (413, "Payload Too Large"),
        (
            422,
            "length of prompt_tokens (9000) must be less than max_seq_len (8192).",
        ),
        (500, "context_length_exceeded"),
    ] {
        let mut scripts = vec![good(); 8];
        scripts.extend([refusal(status, message), refusal(status, message), good()]);
        let stage = Stage::with(&[("LLM_MAX_RETRIES", "0")], scripts).await;
        for turn in 0..8 {
            assert_eq!(
                stage.say(&format!("第{turn}句")).await.reply(),
                "好",
                "{message}"
            );
        }
        let answer = stage.say("最后一句").await;
        assert_eq!(answer.last()["saved"], true, "{message}: {}", answer.text());
        let asked = stage.upstream.requests();
        assert_eq!(history(&asked[8]).len(), 9);
        assert_eq!(
            history(&asked[9]),
            ["第4句", "第5句", "第6句", "第7句", "最后一句"],
            "{message}"
        );
        assert_eq!(
            history(&asked[10]),
            ["第6句", "第7句", "最后一句"],
            "{message}"
        );
        // The instructions stay, and nothing is forgotten.
        assert_eq!(asked[10].messages()[0], asked[8].messages()[0]);
        assert_eq!(stage.stored().await.len(), 18);
        let log = stage.chat.stop();
        assert!(
            log.contains("too_long") && log.contains("CONTEXT_MAX_TOKENS"),
            "{log}"
        );
    }
}

#[tokio::test]
async fn a_prompt_that_stays_too_long_is_rejected_after_two_halvings() {
    let too_long = || refusal(400, "maximum context length is 10 tokens");
    let mut scripts = vec![good(); 8];
    scripts.extend([too_long(), too_long(), too_long(), good()]);
    let stage = Stage::new(scripts).await;
    for turn in 0..8 {
        assert_eq!(stage.say(&format!("第{turn}句")).await.reply(), "好");
    }
    stage.fails("upstream_rejected", "three times").await;
    assert_eq!(stage.upstream.requests().len(), 11);

    // Without a history there is nothing to leave out.
    let stage = Stage::new(vec![too_long(), good()]).await;
    stage.fails("upstream_rejected", "no history").await;
    assert_eq!(stage.upstream.requests().len(), 1);
}

/// As llama.cpp's server in Python answers a prompt that is too long: the failure comes after the head of the answer.
#[tokio::test]
async fn an_answer_that_stays_empty_is_taken_for_a_prompt_that_is_too_long() {
    let empty = || Script::raw(Vec::new());
    let mut scripts = vec![good(); 4];
    scripts.extend([empty(), empty(), empty(), good(), empty(), good()]);
    let stage = Stage::with(&[("LLM_MAX_RETRIES", "1")], scripts).await;
    for turn in 0..4 {
        assert_eq!(stage.say(&format!("第{turn}句")).await.reply(), "好");
    }
    stage.replies("好", "empty").await;
    let asked: Vec<usize> = stage.upstream.requests()[4..]
        .iter()
        .map(|request| history(request).len())
        .collect();
    assert_eq!(asked, [5, 5, 3, 2], "as it was, again, and twice with half");
    // The server closes the connection a little after the empty answer, so no further request may rely on it.
    let connections: Vec<u64> = stage.upstream.requests()[3..]
        .iter()
        .map(|request| request.connection)
        .collect();
    assert_eq!(connections, [0, 0, 1, 2, 3]);
    // One that passes costs no history.
    stage.replies("好", "once").await;
    let asked = stage.upstream.requests();
    assert_eq!(history(&asked[8]), history(&asked[9]));

    // Without a history there is nothing to leave out, and a cut connection says nothing of the length.
    let stage = Stage::with(&[("LLM_MAX_RETRIES", "0")], vec![empty()]).await;
    stage.fails("upstream_unavailable", "no history").await;
    let cut = Script::raw(Vec::new()).cut();
    let stage = Stage::with(&[("LLM_MAX_RETRIES", "0")], vec![good(), cut, good()]).await;
    stage.replies("好", "before").await;
    stage.fails("upstream_unavailable", "cut").await;
    assert_eq!(stage.upstream.requests().len(), 2);
}

#[tokio::test]
async fn a_pause_in_milliseconds_is_honoured() {
    for (name, value, at_least, at_most) in [
        ("retry-after-ms", "600", 600, 2_000),
        ("retry-after", "0.6", 600, 2_000),
        ("retry-after-ms", "1", 1, 190),
    ] {
        let busy = Script::status(429, "{}").header(name, value);
        let stage = Stage::new(vec![busy, good()]).await;
        stage.replies("好", name).await;
        let asked = stage.upstream.requests();
        let pause = asked[1].at.duration_since(asked[0].at);
        let expected = Duration::from_millis(at_least)..Duration::from_millis(at_most);
        assert!(expected.contains(&pause), "{name}: {value}: {pause:?}");
    }
}

#[tokio::test]
async fn a_failure_in_the_first_event_is_retried_if_its_code_says_that_it_may_pass() {
    for (error, asked) in [
        (json!({ "message": "busy", "code": 429 }), 2),
        (json!({ "message": "busy", "code": "503" }), 2),
        (
            json!({ "message": "busy", "code": "rate_limit_exceeded" }),
            2,
        ),
        (json!({ "message": "busy", "type": "overloaded_error" }), 2),
        (json!({ "message": "bad", "code": 400 }), 1),
        (json!({ "message": "bad", "code": "invalid_api_key" }), 1),
        (json!("bad"), 1),
    ] {
        let script = Script::deltas(&[]).then(Step::Bytes(chunk(&json!({ "error": error }))));
        let stage = Stage::new(vec![script, good()]).await;
        let answer = stage.say("你在吗？").await;
        assert_eq!(stage.upstream.requests().len(), asked, "{error}");
        assert_eq!(answer.reply() == "好", asked == 2, "{error}");
    }
}

#[tokio::test]
async fn the_log_names_the_kind_and_the_setting_and_quotes_nothing() {
    for (status, body, kind, setting) in [
        (401, "this quotes a prompt", "key", "LLM_API_KEY"),
        (404, "this quotes a prompt", "not_found", "LLM_MODEL"),
        (402, "this quotes a prompt", "credit", "LLM_API_KEY"),
        (
            400,
            "maximum context length is 4096 tokens, this quotes a prompt",
            "too_long",
            "CONTEXT_MAX_TOKENS below 4096",
        ),
        (308, "this quotes a prompt", "moved", "LLM_BASE_URL"),
    ] {
        let stage = Stage::new(vec![Script::status(status, body)]).await;
        stage.fails("upstream_rejected", kind).await;
        let log = stage.chat.stop();
        assert!(log.contains(kind) && log.contains(setting), "{log}");
        assert!(!log.contains("quotes a prompt"), "{log}");
    }
}
