//! The upstream: variables that begin with `LLM_`.

use std::time::Duration;

use super::read::{choice, header_safe, http_url, milliseconds, small, text};
use super::{ConfigError, Lookup, SecretSource, Section};

/// Which upstream answers.
#[derive(Debug, Clone)]
pub enum Provider {
    /// Any endpoint that speaks OpenAI's streaming chat completions.
    OpenAi {
        /// `LLM_BASE_URL`, without a slash at its end.
        base_url: String,
        /// `LLM_API_KEY` or `LLM_API_KEY_SECRET_ARN`
        api_key: SecretSource,
        /// `LLM_MODEL`; a character may name another.
        model: String,
    },
    /// Built in and offline, for development.
    Echo,
}

/// The upstream and its time limits.
#[derive(Debug, Clone)]
pub struct LlmConfig {
    /// `LLM_PROVIDER` and what it needs.
    pub provider: Provider,
    /// `LLM_CONNECT_TIMEOUT_MS`: one attempt to connect, TLS included.
    pub connect_timeout: Duration,
    /// `LLM_FIRST_TOKEN_TIMEOUT_MS`: from the first attempt to the first delta, retries included.
    pub first_token_timeout: Duration,
    /// `LLM_IDLE_TIMEOUT_MS`: silence between two deltas.
    pub idle_timeout: Duration,
    /// `LLM_MAX_RETRIES`: attempts after the first, all before the first delta.
    pub max_retries: u32,
}

impl Section for LlmConfig {
    fn from_lookup(lookup: Lookup<'_>) -> Result<Self, ConfigError> {
        let echo = choice(
            lookup,
            "LLM_PROVIDER",
            false,
            &[("openai", false), ("echo", true)],
        )?;
        let provider = if echo {
            Provider::Echo
        } else {
            let missing = |name| ConfigError::new(name, "must be set while LLM_PROVIDER is openai");
            Provider::OpenAi {
                base_url: http_url(lookup, "LLM_BASE_URL")?
                    .ok_or_else(|| missing("LLM_BASE_URL"))?
                    .trim_end_matches('/')
                    .to_owned(),
                api_key: SecretSource::or_arn(
                    lookup,
                    "LLM_API_KEY",
                    header_safe(lookup, "LLM_API_KEY")?,
                    "LLM_API_KEY_SECRET_ARN",
                )?
                .ok_or_else(|| missing("LLM_API_KEY"))?,
                model: text(lookup, "LLM_MODEL").ok_or_else(|| missing("LLM_MODEL"))?,
            }
        };
        Ok(Self {
            provider,
            connect_timeout: milliseconds(lookup, "LLM_CONNECT_TIMEOUT_MS", 2_000)?,
            first_token_timeout: milliseconds(lookup, "LLM_FIRST_TOKEN_TIMEOUT_MS", 30_000)?,
            idle_timeout: milliseconds(lookup, "LLM_IDLE_TIMEOUT_MS", 30_000)?,
            max_retries: small(lookup, "LLM_MAX_RETRIES", 2, 0, 10)?,
        })
    }
}
