//! Settings: environment variables become typed sections, once, at start.
//!
//! Each function reads only the sections that it needs, so `clear-history` starts without an LLM key. A variable that is
//! set to nothing counts as not set, because deployment templates cannot leave one out. Secrets are [`SecretString`]s, and
//! no error repeats a value.

mod metrics;
mod read;

use std::time::Duration;

use secrecy::SecretString;

pub use self::metrics::MetricsConfig;
use self::read::{choice, count, header_safe, http_url, milliseconds, number, secret, small, text};

/// A variable that keeps the process from starting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {problem}")]
pub struct ConfigError {
    /// The variable's name.
    pub variable: &'static str,
    /// What is wrong with it and what would be right; never its value.
    pub problem: String,
}

impl ConfigError {
    pub(crate) fn new(variable: &'static str, problem: impl Into<String>) -> Self {
        Self {
            variable,
            problem: problem.into(),
        }
    }
}

/// Where values come from: the environment, or a test's table.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A group of settings that is read together.
pub trait Section: Sized {
    /// Reads the section.
    ///
    /// # Errors
    /// The first variable that is missing or out of its range.
    fn from_lookup(lookup: Lookup<'_>) -> Result<Self, ConfigError>;

    /// Reads the section from the process's environment.
    ///
    /// # Errors
    /// As [`Section::from_lookup`].
    fn from_env() -> Result<Self, ConfigError> {
        // What is not Unicode becomes something that no setting accepts or matches, and not something that is not set.
        Self::from_lookup(&|name| {
            std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
        })
    }
}

/// How the Redis servers are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisMode {
    /// One server.
    Standalone,
    /// A master that sentinels name.
    Sentinel,
    /// A cluster.
    Cluster,
}

/// How keys are spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyLayout {
    /// `chat:user:character:…`
    Plain,
    /// `chat:{user}:character:…`: all keys of a user share a cluster slot.
    Tagged,
}

/// Where the memory is.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `REDIS_MODE`
    pub mode: RedisMode,
    /// `REDIS_URL`, split at its commas. A URL can hold a password.
    pub urls: Vec<SecretString>,
    /// `REDIS_SENTINEL_MASTER`
    pub sentinel_master: String,
    /// `REDIS_USERNAME`
    pub username: Option<String>,
    /// `REDIS_PASSWORD`
    pub password: Option<SecretString>,
    /// `REDIS_SENTINEL_USERNAME`
    pub sentinel_username: Option<String>,
    /// `REDIS_SENTINEL_PASSWORD`
    pub sentinel_password: Option<SecretString>,
    /// `REDIS_TLS_CA_FILE`
    pub tls_ca_file: Option<String>,
    /// `REDIS_WAIT_REPLICAS`: replicas that must have a commit before it counts as saved.
    pub wait_replicas: u32,
    /// `REDIS_KEY_LAYOUT`, with `auto` resolved.
    pub key_layout: KeyLayout,
}

impl Section for RedisConfig {
    fn from_lookup(lookup: Lookup<'_>) -> Result<Self, ConfigError> {
        let mode = choice(
            lookup,
            "REDIS_MODE",
            RedisMode::Standalone,
            &[
                ("standalone", RedisMode::Standalone),
                ("sentinel", RedisMode::Sentinel),
                ("cluster", RedisMode::Cluster),
            ],
        )?;
        let urls: Vec<String> = text(lookup, "REDIS_URL")
            .unwrap_or_else(|| "redis://127.0.0.1:6379/0".to_owned())
            .split(',')
            .map(|url| url.trim().to_owned())
            .collect();
        let schemes = ["redis://", "rediss://", "redis+unix://", "unix://"];
        if !urls
            .iter()
            .all(|url| schemes.iter().any(|scheme| url.starts_with(scheme)))
        {
            return Err(ConfigError::new(
                "REDIS_URL",
                "must start with redis:// or rediss:// (or unix:// for a socket)",
            ));
        }
        if mode == RedisMode::Standalone && urls.len() > 1 {
            return Err(ConfigError::new(
                "REDIS_URL",
                "must be one URL while REDIS_MODE is standalone",
            ));
        }
        let auto = match mode {
            RedisMode::Standalone | RedisMode::Sentinel => KeyLayout::Plain,
            RedisMode::Cluster => KeyLayout::Tagged,
        };
        let key_layout = choice(
            lookup,
            "REDIS_KEY_LAYOUT",
            auto,
            &[
                ("auto", auto),
                ("plain", KeyLayout::Plain),
                ("tagged", KeyLayout::Tagged),
            ],
        )?;
        if mode == RedisMode::Cluster && key_layout == KeyLayout::Plain {
            return Err(ConfigError::new(
                "REDIS_KEY_LAYOUT",
                "plain keys of one session lie on different nodes of a cluster; use tagged or auto",
            ));
        }
        Ok(Self {
            mode,
            urls: urls.into_iter().map(SecretString::from).collect(),
            sentinel_master: text(lookup, "REDIS_SENTINEL_MASTER")
                .unwrap_or_else(|| "mymaster".to_owned()),
            username: text(lookup, "REDIS_USERNAME"),
            password: secret(lookup, "REDIS_PASSWORD"),
            sentinel_username: text(lookup, "REDIS_SENTINEL_USERNAME"),
            sentinel_password: secret(lookup, "REDIS_SENTINEL_PASSWORD"),
            tls_ca_file: text(lookup, "REDIS_TLS_CA_FILE"),
            wait_replicas: small(lookup, "REDIS_WAIT_REPLICAS", 0, 0, 16)?,
            key_layout,
        })
    }
}

/// How much is remembered, and how long an operation may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryConfig {
    /// `MEMORY_MAX_MESSAGES`: messages stored per session.
    pub max_messages: usize,
    /// `MEMORY_TTL_SECONDS`: seconds from the last turn until a session is forgotten.
    pub ttl_seconds: u64,
    /// `MEMORY_READ_TIMEOUT_MS`: the whole budget of a read, connecting and retries included.
    pub read_timeout: Duration,
    /// `MEMORY_WRITE_TIMEOUT_MS`: the whole budget of a write, connecting and retries included.
    pub write_timeout: Duration,
    /// `REDIS_BREAKER_FAILURES`: consecutive failed operations after which turns stop waiting for Redis.
    pub breaker_failures: u32,
    /// `REDIS_BREAKER_COOLDOWN_MS`: time between a failed probe of a Redis that is down and the next one.
    pub breaker_cooldown: Duration,
}

impl Section for MemoryConfig {
    fn from_lookup(lookup: Lookup<'_>) -> Result<Self, ConfigError> {
        const TEN_YEARS: u64 = 10 * 365 * 86_400;
        Ok(Self {
            max_messages: count(lookup, "MEMORY_MAX_MESSAGES", 100, 2, 10_000)?,
            ttl_seconds: number(lookup, "MEMORY_TTL_SECONDS", 86_400, 1, TEN_YEARS)?,
            read_timeout: milliseconds(lookup, "MEMORY_READ_TIMEOUT_MS", 1000)?,
            write_timeout: milliseconds(lookup, "MEMORY_WRITE_TIMEOUT_MS", 1000)?,
            breaker_failures: small(lookup, "REDIS_BREAKER_FAILURES", 1, 1, 1_000)?,
            breaker_cooldown: milliseconds(lookup, "REDIS_BREAKER_COOLDOWN_MS", 500)?,
        })
    }
}

/// What is sent upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextConfig {
    /// `CONTEXT_MAX_MESSAGES`: remembered messages sent with a new one.
    pub max_messages: usize,
    /// `CONTEXT_MAX_TOKENS`: tokens of everything sent: system prompt, history, new message, overhead.
    pub max_tokens: u64,
}

impl Section for ContextConfig {
    fn from_lookup(lookup: Lookup<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            max_messages: count(lookup, "CONTEXT_MAX_MESSAGES", 50, 0, 10_000)?,
            max_tokens: number(lookup, "CONTEXT_MAX_TOKENS", 20_000, 1, 10_000_000)?,
        })
    }
}

/// Which upstream answers.
#[derive(Debug, Clone)]
pub enum Provider {
    /// Any endpoint that speaks OpenAI's streaming chat completions.
    OpenAi {
        /// `LLM_BASE_URL`, without a slash at its end.
        base_url: String,
        /// `LLM_API_KEY`
        api_key: SecretString,
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
                api_key: header_safe(lookup, "LLM_API_KEY")?
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

/// Where published keys are.
#[derive(Debug, Clone)]
pub struct JwtRules {
    /// `JWT_SECRET`, for HS256.
    pub secret: Option<SecretString>,
    /// `JWT_JWKS_URL`, for RS256, ES256 and EdDSA.
    pub jwks_url: Option<String>,
    /// `JWT_ISSUER`: what `iss` must be.
    pub issuer: Option<String>,
    /// `JWT_AUDIENCE`: what `aud` must hold.
    pub audience: Option<String>,
}

/// Who says who the caller is.
#[derive(Debug, Clone)]
pub enum AuthConfig {
    /// `AUTH_TRUST_AUTHORIZER`: the gateway's authorizer has checked the token.
    Authorizer,
    /// The function checks the token itself.
    Token(JwtRules),
}

impl Section for AuthConfig {
    fn from_lookup(lookup: Lookup<'_>) -> Result<Self, ConfigError> {
        if choice(
            lookup,
            "AUTH_TRUST_AUTHORIZER",
            false,
            &[("true", true), ("false", false)],
        )? {
            return Ok(Self::Authorizer);
        }
        let rules = JwtRules {
            secret: secret(lookup, "JWT_SECRET"),
            jwks_url: http_url(lookup, "JWT_JWKS_URL")?,
            issuer: text(lookup, "JWT_ISSUER"),
            audience: text(lookup, "JWT_AUDIENCE"),
        };
        if rules.secret.is_none() && rules.jwks_url.is_none() {
            return Err(ConfigError::new(
                "JWT_SECRET",
                "must be set, unless JWT_JWKS_URL is or AUTH_TRUST_AUTHORIZER is true: without one of them nobody can be let in",
            ));
        }
        Ok(Self::Token(rules))
    }
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// What a developer wants.
    Debug,
    /// One line a request.
    Info,
    /// What went wrong but did not stop a request.
    Warn,
    /// What stopped a request.
    Error,
}

/// What a log line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line, for machines.
    Json,
    /// For people.
    Text,
}

/// Logging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// `LOG_LEVEL`
    pub level: LogLevel,
    /// `LOG_FORMAT`
    pub format: LogFormat,
}

impl Section for LogConfig {
    fn from_lookup(lookup: Lookup<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            level: choice(
                lookup,
                "LOG_LEVEL",
                LogLevel::Info,
                &[
                    ("trace", LogLevel::Trace),
                    ("debug", LogLevel::Debug),
                    ("info", LogLevel::Info),
                    ("warn", LogLevel::Warn),
                    ("error", LogLevel::Error),
                ],
            )?,
            format: choice(
                lookup,
                "LOG_FORMAT",
                LogFormat::Json,
                &[("json", LogFormat::Json), ("text", LogFormat::Text)],
            )?,
        })
    }
}

#[cfg(test)]
mod tests;
