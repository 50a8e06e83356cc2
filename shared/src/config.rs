//! Settings: environment variables become typed sections, once, at start.
//!
//! Each function reads only the sections that it needs, so `clear-history` starts without an LLM key. A variable that is
//! set to nothing counts as not set, because deployment templates cannot leave one out. Secrets are [`secrecy::SecretString`]s, and
//! no error repeats a value.

mod auth;
mod cors;
mod llm;
mod log;
mod memory;
mod metrics;
mod read;
mod redis;
mod secret;

pub use self::auth::{AuthConfig, JwtRules};
pub use self::cors::CorsConfig;
pub use self::llm::{LlmConfig, OpenAiConfig, Provider};
pub use self::log::{LogConfig, LogFormat, LogLevel};
pub use self::memory::{ContextConfig, MemoryConfig};
pub use self::metrics::MetricsConfig;
pub use self::redis::{KeyLayout, RedisConfig, RedisMode};
pub use self::secret::{IamLogin, RedisLogin, SecretArn, SecretSource};

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

#[cfg(test)]
mod tests;
