//! What an answer that is no reply means: whether to ask again, when, and what to leave out.
//!
//! Upstreams say the same thing in many ways, so words are looked for and not sentences. A word that misleads costs one
//! request: what is left out is remembered only if the model then answers.

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::llm::hint::Hint;
use crate::llm::{Cause, Error};

/// A pause that is longer is as good as none.
const FAR_OFF: Duration = Duration::from_secs(86_400);
/// Fields of an error that repeat the request, and so hold every word.
const ECHOES: [&str; 5] = ["input", "body", "request", "messages", "metadata"];

/// Why an attempt failed, and what may help.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) error: Error,
    pub(super) retry: Option<Retry>,
    pub(super) objection: Option<Objection>,
    pub(super) hint: Option<Hint>,
}

/// When to try again: as the upstream says, or as this service thinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    After(Duration),
    Backoff,
}

/// What of a request a model does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Objection {
    StreamOptions,
    /// It may go by its other name.
    MaxTokensName,
    /// The value does not fit.
    MaxTokens,
    Temperature,
    TopP,
    SystemRole,
    TooLong,
}

impl From<Error> for Refusal {
    /// Neither another attempt nor another wording helps.
    fn from(error: Error) -> Self {
        Self {
            error,
            retry: None,
            objection: None,
            hint: None,
        }
    }
}

impl Refusal {
    /// Reads an answer whose status is not a success.
    pub(super) fn of_answer(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let json: Option<Value> = serde_json::from_slice(body).ok();
        let said = Said::new(json.as_ref(), &String::from_utf8_lossy(body));
        let passes = may_pass(status.as_u16());
        let hint = said.hint(Some(status.as_u16()));
        let code = json
            .as_ref()
            .and_then(|json| error_code(json.get("error").unwrap_or(json)));
        let cause = Cause::Status(status.as_u16(), code, hint);
        Self {
            error: if passes {
                Error::Unavailable(cause)
            } else {
                Error::Rejected(cause)
            },
            retry: passes.then(|| retry_after(headers).map_or(Retry::Backoff, Retry::After)),
            objection: said.objection(Some(status.as_u16())),
            hint,
        }
    }

    /// Reads an error object that came instead of the first delta.
    pub(super) fn of_event(error: &Value) -> Self {
        let said = Said::new(Some(error), "");
        let status = status_of(error);
        let hint = said.hint(status);
        let code = error_code(error);
        let passes = match status {
            Some(status) => may_pass(status),
            None => code.as_deref().is_some_and(is_passing_code),
        };
        let is_refusal = status.is_some_and(|status| (400..500).contains(&status)) && !passes;
        let objection = said.objection(status);
        let cause = Cause::ErrorObject(code, hint);
        Self {
            error: if is_refusal || objection.is_some() {
                Error::Rejected(cause)
            } else {
                Error::Unavailable(cause)
            },
            retry: passes.then_some(Retry::Backoff),
            objection,
            hint,
        }
    }

    /// Whether another key may be let in. Some upstreams say it of other things too, which a fetch now and then does no harm.
    /// A key that no header can carry did not even get there.
    pub(super) fn is_of_key(&self) -> bool {
        matches!(
            self.error,
            Error::Rejected(Cause::Status(401 | 403, ..)) | Error::Unavailable(Cause::NoKey)
        )
    }
}

/// Statuses of what may pass by itself: a time-out, too early, a rate limit, a failure of the server.
fn may_pass(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..)
}

fn is_passing_code(code: &str) -> bool {
    let code = code.to_ascii_lowercase();
    [
        "overload",
        "rate_limit",
        "ratelimit",
        "server_error",
        "internal_error",
        "internal_server",
        "unavailable",
        "timeout",
        "busy",
        "too_many",
    ]
    .iter()
    .any(|word| code.contains(word))
}

/// The status in an error object's code, as a number or as text.
fn status_of(error: &Value) -> Option<u16> {
    let number = |value: &Value| {
        value
            .as_u64()
            .or_else(|| value.as_str()?.parse().ok())
            .and_then(|status| u16::try_from(status).ok())
            .filter(|status| (400..600).contains(status))
    };
    ["code", "status", "status_code"]
        .iter()
        .find_map(|name| number(error.get(name)?))
}

/// Returns the pause that an upstream asks for: milliseconds, seconds or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim());
    let seconds = |seconds: f64| {
        let pause = Duration::try_from_secs_f64(seconds).ok()?;
        Some(pause.min(FAR_OFF))
    };
    let milliseconds = ["retry-after-ms", "x-ms-retry-after-ms"]
        .iter()
        .find_map(|name| seconds(text(name)?.parse::<f64>().ok()? / 1_000.0));
    if milliseconds.is_some() {
        return milliseconds;
    }
    let value = text(RETRY_AFTER.as_str())?;
    if let Ok(value) = value.parse() {
        return seconds(value);
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let pause = date.duration_since(SystemTime::now()).unwrap_or_default();
    Some(pause.min(FAR_OFF))
}

/// Returns the code of an error object, if it is a word and not a sentence: a sentence may quote the prompt.
pub(super) fn error_code(error: &Value) -> Option<String> {
    let code = [error.get("code"), error.get("type")]
        .into_iter()
        .flatten()
        .find(|code| !code.is_null())?;
    let code = code
        .as_str()
        .map_or_else(|| code.to_string(), str::to_owned);
    let is_word = code.len() <= 64
        && code
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    is_word.then_some(code)
}

/// What an upstream said about a request, in lower case. Read here and never passed on.
struct Said {
    text: String,
    /// The field that it names as the culprit.
    param: Option<String>,
}

/// The ways to say that a prompt is too long.
const TOO_LONG: [&str; 35] = [
    "context_length",
    "context length",
    "context window",
    "context_window",
    "context size",
    "context_size",
    "context limit",
    "maximum context",
    "max context",
    "maximum model length",
    "max_model_len",
    "max_seq_len",
    "max_prompt_tokens",
    "max message tokens",
    "maximum input",
    "maximum prompt length",
    "maximum number of tokens",
    "prompt is too long",
    "prompt too long",
    "prompt exceeds",
    "prompt length",
    "input is too long",
    "input too long",
    "input length",
    "input token count",
    "inputs tokens",
    "request too large",
    "request_too_large",
    "request entity too large",
    "string_above_max_length",
    "too many tokens",
    "token limit",
    "reduce the length",
    "超长",
    "输入长度",
];

impl Said {
    fn new(json: Option<&Value>, raw: &str) -> Self {
        let mut text = String::new();
        match json {
            Some(json) => collect(json, &mut text),
            None => text.push_str(raw),
        }
        text.make_ascii_lowercase();
        let param = json.and_then(|json| json.get("error").unwrap_or(json).get("param"));
        let param = param.and_then(Value::as_str).map(str::to_ascii_lowercase);
        Self { text, param }
    }

    /// Returns what the upstream objects to. Only answers that are about the request itself object to something.
    fn objection(&self, status: Option<u16>) -> Option<Objection> {
        match status {
            Some(413) => return Some(Objection::TooLong),
            // Some gateways and servers answer 500 to a request that the model's template cannot take.
            None | Some(400 | 404 | 422 | 500) => {}
            Some(_) => return None,
        }
        if self.says_any(&TOO_LONG) {
            return Some(Objection::TooLong);
        }
        if let Some(objection) = self.param.as_deref().and_then(|param| self.named(param)) {
            return Some(objection);
        }
        if self.says("temperature")
            && self.says("top_p")
            && self.says_any(&["both", "only one", "together", "either"])
        {
            return Some(Objection::TopP);
        }
        // The first name is the culprit; a list of what is allowed may follow.
        let names = [
            "stream_options",
            "max_tokens",
            "max_completion_tokens",
            "temperature",
            "top_p",
            "top p",
        ];
        names
            .iter()
            .filter_map(|name| Some((self.text.find(name)?, *name)))
            .min()
            .and_then(|(_, name)| self.named(name))
            .or_else(|| self.objects_to_system())
    }

    fn named(&self, name: &str) -> Option<Objection> {
        let is_about_value = || {
            self.says_any(&[
                "too large",
                "at most",
                "range",
                "less than",
                "greater than",
                "between",
                "maximum",
                "<=",
                "exceed",
            ])
        };
        match name {
            "stream_options" | "stream_options.include_usage" => Some(Objection::StreamOptions),
            "temperature" => Some(Objection::Temperature),
            "top_p" | "top p" => Some(Objection::TopP),
            "max_tokens" | "max_completion_tokens" => {
                let names_other = name == "max_tokens" && self.says("max_completion_tokens");
                if is_about_value() && !names_other {
                    Some(Objection::MaxTokens)
                } else {
                    Some(Objection::MaxTokensName)
                }
            }
            _ => self.objects_to_system(),
        }
    }

    fn objects_to_system(&self) -> Option<Objection> {
        let names_role = self.says("system")
            && self.says_any(&[
                "role",
                "system message",
                "system prompt",
                "system instruction",
            ]);
        let says_so =
            names_role || self.says_any(&["developer instruction", "roles must alternate"]);
        says_so.then_some(Objection::SystemRole)
    }

    fn hint(&self, status: Option<u16>) -> Option<Hint> {
        let objection = self
            .objection(status)
            .map(|objection| objection.hint(self.limit()));
        match status {
            Some(300..=399) => Some(Hint::Moved),
            Some(402) => Some(Hint::Credit),
            _ if self.says_any(&[
                "insufficient_quota",
                "insufficient_balance",
                "insufficient balance",
                "arrearage",
            ]) =>
            {
                Some(Hint::Credit)
            }
            Some(401 | 403) => Some(Hint::Key),
            _ if objection.is_some() => objection,
            Some(404 | 405) => Some(Hint::NotFound),
            _ if self.says_any(&["model_not_found", "model not found", "model does not exist"]) => {
                Some(Hint::NotFound)
            }
            _ if self.says_any(&[
                "content_filter",
                "content_policy",
                "data_inspection_failed",
                "sensitive",
            ]) =>
            {
                Some(Hint::Filtered)
            }
            _ => None,
        }
    }

    /// Returns the model's limit where the words before a number say that it is one.
    fn limit(&self) -> Option<u64> {
        let after = [
            "maximum context length is ",
            "context size (",
            "context length of ",
            "context window of ",
        ]
        .iter()
        .find_map(|words| Some(self.text.split_once(words)?.1))?;
        let digits: String = after
            .chars()
            .take_while(|character| character.is_ascii_digit())
            .collect();
        digits.parse().ok()
    }

    fn says(&self, words: &str) -> bool {
        self.text.contains(words)
    }

    fn says_any(&self, words: &[&str]) -> bool {
        words.iter().any(|words| self.says(words))
    }
}

/// Collects what an error says, without what it repeats of the request.
fn collect(value: &Value, text: &mut String) {
    match value {
        Value::String(words) => {
            text.push_str(words);
            text.push('\n');
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, text)),
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| !ECHOES.contains(&name.as_str()))
            .for_each(|(_, value)| collect(value, text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

impl Objection {
    /// Returns what the log says of it. `limit` is the model's, in tokens.
    fn hint(self, limit: Option<u64>) -> Hint {
        match self {
            Self::StreamOptions => Hint::StreamOptions,
            Self::MaxTokensName | Self::MaxTokens => Hint::MaxTokens,
            Self::Temperature => Hint::Temperature,
            Self::TopP => Hint::TopP,
            Self::SystemRole => Hint::SystemRole,
            Self::TooLong => Hint::TooLong(limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn objection(status: u16, body: &str) -> Option<Objection> {
        let status = StatusCode::from_u16(status).expect("a status");
        Refusal::of_answer(status, &HeaderMap::new(), body.as_bytes()).objection
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
        use Objection::{MaxTokens, MaxTokensName, StreamOptions, SystemRole, Temperature, TopP};
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
                SystemRole,
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
        let hint = |status: u16, body: &str| {
            let status = StatusCode::from_u16(status).expect("a status");
            Refusal::of_answer(status, &HeaderMap::new(), body.as_bytes()).hint
        };
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
    }

    #[test]
    fn retry_after_is_milliseconds_seconds_or_a_date() {
        let wait = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).expect("a header"));
            retry_after(&headers)
        };
        assert_eq!(
            wait("retry-after-ms", "250"),
            Some(Duration::from_millis(250))
        );
        assert_eq!(
            wait("x-ms-retry-after-ms", "1.5"),
            Some(Duration::from_micros(1_500))
        );
        assert_eq!(wait("retry-after", "3"), Some(Duration::from_secs(3)));
        assert_eq!(wait("retry-after", "0.5"), Some(Duration::from_millis(500)));
        assert_eq!(wait("retry-after", "-1"), None);
        assert_eq!(
            wait("retry-after", "1e19"),
            Some(Duration::from_secs(86_400))
        );
        assert_eq!(wait("retry-after", "soon"), None);
        assert_eq!(
            wait("retry-after", "Thu, 01 Jan 1970 00:00:10 GMT"),
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn an_error_code_is_a_word_and_never_a_sentence() {
        let code = |json: &str| error_code(&serde_json::from_str(json).expect("json"));
        assert_eq!(
            code(r#"{"code":"InvalidApiKey","message":"x"}"#).as_deref(),
            Some("InvalidApiKey")
        );
        assert_eq!(
            code(r#"{"code":null,"type":"server_error"}"#).as_deref(),
            Some("server_error")
        );
        assert_eq!(code(r#"{"code":429}"#).as_deref(), Some("429"));
        assert_eq!(code(r#"{"code":"you said: my secret"}"#), None);
        assert_eq!(code(r#"{"message":"my secret"}"#), None);
    }
}
