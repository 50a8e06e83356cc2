//! What the refusals of real endpoints object to.

use super::*;

fn said(body: &str) -> Said {
    Said::new(serde_json::from_str(body).ok().as_ref(), body)
}

fn objection(status: u16, body: &str) -> Option<Objection> {
    said(body).objection(Some(status))
}

fn message(text: &str) -> String {
    serde_json::json!({ "error": { "message": text, "type": "invalid_request_error", "param": null } }).to_string()
}

#[test]
fn many_ways_to_say_too_long_are_understood() {
    for text in [
        "This model's maximum context length is 4097 tokens. However, your messages resulted in 5000 tokens.",
        "prompt is too long: 205000 tokens > 200000 maximum",
        "the request exceeds the available context size (4096 tokens), try increasing it",
        "Range of input length should be [1, 30720]",
        "Total tokens of image and text exceed max message tokens. Request id: 1",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
        "length of prompt_tokens (9000) must be less than max_seq_len (8192).",
        "Prompt exceeds max length",
        "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 inputs tokens",
        "'max_tokens' is too large: 4000. This model's maximum context length is 4096 tokens and your request has 500 input tokens",
        "输入内容超长",
    ] {
        assert_eq!(
            objection(400, &message(text)),
            Some(Objection::TooLong),
            "{text}"
        );
    }
    assert_eq!(
        objection(
            400,
            r#"{"error":{"message":"no","code":"context_length_exceeded"}}"#
        ),
        Some(Objection::TooLong)
    );
    assert_eq!(objection(413, "<html>413</html>"), Some(Objection::TooLong));
    assert_eq!(objection(400, "prompt too long"), Some(Objection::TooLong));
}

#[test]
fn the_parameter_that_is_refused_is_found() {
    use Objection::{
        MaxTokens, MaxTokensName, Order, StreamOptions, SystemRole, Temperature, TopP,
    };
    for (text, expected) in [
        (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            MaxTokensName,
        ),
        (
            "max_tokens is too large: 100000. This model supports at most 4096 completion tokens",
            MaxTokens,
        ),
        ("Range of max_tokens should be [1, 8192]", MaxTokens),
        (
            "Unrecognized request argument supplied: stream_options",
            StreamOptions,
        ),
        (
            "unknown field `stream_options`, expected one of `model`, `temperature`, `top_p`, `max_tokens`",
            StreamOptions,
        ),
        (
            "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) value is supported.",
            Temperature,
        ),
        (
            "invalid temperature: only 1 is allowed for this model",
            Temperature,
        ),
        (
            "`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
            TopP,
        ),
        ("top_p is deprecated for this model", TopP),
        ("System role not supported", SystemRole),
        (
            "Developer instruction is not enabled for models/gemma-3",
            SystemRole,
        ),
        (
            "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
            SystemRole,
        ),
        (
            "Conversation roles must alternate user/assistant/user/assistant/...",
            Order,
        ),
        ("messages: first message must use the \"user\" role", Order),
        (
            "A conversation must start with a user message. Try again with a conversation that starts with a user message.",
            Order,
        ),
        (
            "After the (optional) system message(s), user or tool message(s) roles should be alternating with assistant message(s)",
            Order,
        ),
        ("System message must be at the beginning.", Order),
        (
            "Expected last role User or Tool (or Assistant with prefix True) for serving but got system: last message must be user",
            Order,
        ),
    ] {
        assert_eq!(objection(400, &message(text)), Some(expected), "{text}");
    }
    let pydantic = r#"{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not permitted","input":{"temperature":1}}]}"#;
    assert_eq!(objection(422, pydantic), Some(StreamOptions));
    let named =
        r#"{"error":{"message":"no","param":"messages[0].role","code":"unsupported_value"}}"#;
    assert_eq!(
        objection(400, named),
        None,
        "it does not say what of the role"
    );
}

#[test]
fn other_refusals_object_to_nothing() {
    for (status, body) in [
        (400, message("bad")),
        (401, message("max_tokens")),
        (429, message("context length")),
        (503, message("temperature")),
        (400, String::new()),
        (422, "null".to_owned()),
    ] {
        assert_eq!(objection(status, &body), None, "{status} {body}");
    }
}

#[test]
fn the_hint_names_a_setting_and_quotes_nothing() {
    let hint = |status: u16, body: &str| said(body).hint(Some(status));
    assert_eq!(hint(401, "my secret"), Some(Hint::Key));
    assert_eq!(hint(404, ""), Some(Hint::NotFound));
    assert_eq!(hint(307, ""), Some(Hint::Moved));
    assert_eq!(
        hint(429, r#"{"error":{"code":"insufficient_quota"}}"#),
        Some(Hint::Credit)
    );
    let long = hint(
        400,
        &message("This model's maximum context length is 4097 tokens. My secret."),
    );
    assert_eq!(long, Some(Hint::TooLong(Some(4_097))));
    assert_eq!(hint(400, "bad"), None);
    // The wording of LiteLLM.
    let no_db =
        r#"{"error":{"message":"No connected db.","type":"no_db_connection","code":"400"}}"#;
    assert_eq!(hint(400, no_db), Some(Hint::Key));
    for (text, kind) in [
        (
            "/chat/completions: Invalid model name passed in model=nope. Call `/v1/models` to view",
            Hint::NotFound,
        ),
        (
            "litellm.BadRequestError: OpenAIException - The response was filtered due to the prompt triggering \
             content management policy",
            Hint::Filtered,
        ),
        (
            "litellm.ContextWindowExceededError: litellm.BadRequestError: OpenAIException - too much",
            Hint::TooLong(None),
        ),
    ] {
        assert_eq!(hint(400, &message(text)), Some(kind), "{text}");
    }
}
