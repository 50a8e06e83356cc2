//! What kind of refusal an upstream's answer is, and which setting mends it. In this service's own words: the upstream's may
//! quote the prompt.

use std::fmt;

/// The kind of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// The API key is not let in.
    Key,
    /// The account has no credit, or used up its quota.
    Credit,
    /// The endpoint or the model does not exist.
    NotFound,
    /// The endpoint has moved.
    Moved,
    /// The prompt is longer than the model takes. With the model's limit in tokens, where the upstream names it.
    TooLong(Option<u64>),
    /// A filter of the upstream does not take the prompt.
    Filtered,
    /// The upstream does not take `stream_options`.
    StreamOptions,
    /// The model does not take `max_tokens`, or not this value.
    MaxTokens,
    /// The model does not take `temperature`, or not this value.
    Temperature,
    /// The model does not take `top_p`, or not this value.
    TopP,
    /// The model takes no `system` role.
    SystemRole,
}

impl Hint {
    /// Returns the kind as one word, to search logs for.
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
    /// Writes the remedy.
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
