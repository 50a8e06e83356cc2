//! Finds out which part of a request an upstream objects to, from the words of its error.
//!
//! Upstreams phrase the same objection in many ways, so the code searches for words and not for sentences. A misleading
//! word costs one request: what was left out is remembered only if the model then answers.

use serde_json::Value;

use crate::llm::hint::Hint;

/// Fields of an error that repeat the request, so they can contain any word.
const ECHOES: [&str; 5] = ["input", "body", "request", "messages", "metadata"];

/// The part of a request that a model rejects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Objection {
    StreamOptions,
    /// The model rejects the name `max_tokens` or `max_completion_tokens`, and may accept the other one.
    MaxTokensName,
    /// The model rejects the value of the reply's token limit.
    MaxTokens,
    Temperature,
    TopP,
    SystemRole,
    /// The model rejects the order of the roles.
    Order,
    TooLong,
}

/// The text of an upstream's error, in lower case. It is evaluated here and never logged or returned to a client.
pub(super) struct Said {
    text: String,
    /// Name of the field that the upstream rejects, if it names one.
    param: Option<String>,
}

/// Phrases that report that roles are in an order that a model does not take.
const ORDER: [&str; 6] = [
    "roles must alternate",
    "roles should be alternating",
    "first message must",
    "last message must",
    "must start with a user",
    "must be at the beginning",
];

/// Phrases that report that a prompt is too long.
const TOO_LONG: [&str; 36] = [
    "context_length",
    "context length",
    "context window",
    "context_window",
    "contextwindow",
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
    pub(super) fn new(json: Option<&Value>, raw: &str) -> Self {
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

    /// Returns what the upstream objects to, or `None` if the error is not about the content of the request.
    pub(super) fn objection(&self, status: Option<u16>) -> Option<Objection> {
        match status {
            Some(413) => return Some(Objection::TooLong),
            // Some gateways and servers answer 500 if the model's template cannot render a request.
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
        // The first name is the rejected one; a list of the supported ones may follow.
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
            .or_else(|| self.objects_to_roles())
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
            _ => self.objects_to_roles(),
        }
    }

    fn objects_to_roles(&self) -> Option<Objection> {
        if self.says_any(&ORDER) {
            return Some(Objection::Order);
        }
        let names_role = self.says("system")
            && self.says_any(&[
                "role",
                "system message",
                "system prompt",
                "system instruction",
            ]);
        let says_so = names_role || self.says("developer instruction");
        says_so.then_some(Objection::SystemRole)
    }

    pub(super) fn hint(&self, status: Option<u16>) -> Option<Hint> {
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
            // LiteLLM without a database answers this for every key that is not its own.
            Some(400) if self.says("no_db_connection") => Some(Hint::Key),
            _ if self.says_any(&[
                "model_not_found",
                "model not found",
                "model does not exist",
                "invalid model name",
            ]) =>
            {
                Some(Hint::NotFound)
            }
            _ if self.says_any(&[
                "content_filter",
                "content_policy",
                "content policy",
                "content management policy",
                "data_inspection_failed",
                "sensitive",
            ]) =>
            {
                Some(Hint::Filtered)
            }
            _ => None,
        }
    }

    /// Returns the model's limit in tokens, if the words before a number identify it as one.
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

/// Collects the texts of an error, without the fields that repeat the request.
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
    /// Returns the hint for the log. `limit` is the model's, in tokens.
    fn hint(self, limit: Option<u64>) -> Hint {
        match self {
            Self::StreamOptions => Hint::StreamOptions,
            Self::MaxTokensName | Self::MaxTokens => Hint::MaxTokens,
            Self::Temperature => Hint::Temperature,
            Self::TopP => Hint::TopP,
            Self::SystemRole | Self::Order => Hint::SystemRole,
            Self::TooLong => Hint::TooLong(limit),
        }
    }
}

#[cfg(test)]
mod tests {
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
}
