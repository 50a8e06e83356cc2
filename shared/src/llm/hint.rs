//! The kind of an upstream's refusal, and the setting that solves it. The texts are this service's own, because the
//! upstream's text may quote the prompt.

use std::fmt;

/// The kind of an upstream's refusal. Its `Display` is the remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// The upstream does not accept the API key.
    Key,
    /// The account has no credit, or has used up its quota.
    Credit,
    /// The endpoint or the model does not exist.
    NotFound,
    /// The endpoint has moved.
    Moved,
    /// The prompt is too long for the model. Holds the model's limit in tokens, if the upstream names it.
    TooLong(Option<u64>),
    /// A content filter of the upstream rejects the prompt.
    Filtered,
    /// The upstream does not support `stream_options`.
    StreamOptions,
    /// The model does not support `max_tokens`, or not this value.
    MaxTokens,
    /// The model does not support `temperature`, or not this value.
    Temperature,
    /// The model does not support `top_p`, or not this value.
    TopP,
    /// The model does not support the `system` role.
    SystemRole,
}

impl Hint {
    /// Returns the kind as one word, by which logs can be searched.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Credit => "credit",
            Self::NotFound => "not_found",
            Self::Moved => "moved",
            Self::TooLong(_) => "too_long",
            Self::Filtered => "filtered",
            Self::StreamOptions => "stream_options",
            Self::MaxTokens => "max_tokens",
            Self::Temperature => "temperature",
            Self::TopP => "top_p",
            Self::SystemRole => "system_role",
        }
    }
}

impl fmt::Display for Hint {
    /// Writes the remedy: which setting to change.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "set LLM_API_KEY (or the secret in LLM_API_KEY_SECRET_ARN) to a key that may use this model",
            Self::Credit => "top up the account of LLM_API_KEY",
            Self::NotFound => {
                "set LLM_BASE_URL to the URL before /chat/completions, and LLM_MODEL (or the character's model) to a model \
                 that it serves"
            }
            Self::Moved => "set LLM_BASE_URL to the address that the endpoint redirects to; redirects are not followed",
            Self::TooLong(Some(limit)) => {
                return write!(f, "set CONTEXT_MAX_TOKENS below {limit}, less the reply's max_tokens");
            }
            Self::TooLong(None) => "set CONTEXT_MAX_TOKENS below the model's context length, less the reply's max_tokens",
            Self::Filtered => "the upstream's content filter refused the prompt; no setting changes that",
            Self::StreamOptions => "stream_options is left out, so tokens are counted here",
            Self::MaxTokens => "set max_tokens of the character to a value that the model takes, or remove it",
            Self::Temperature => "set temperature of the character to a value that the model takes, or remove it",
            Self::TopP => "set top_p of the character to a value that the model takes, or remove it",
            Self::SystemRole => "the instructions are sent in front of the user's message",
        })
    }
}
