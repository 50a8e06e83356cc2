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
mod tests;
