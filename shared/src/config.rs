//! Settings: environment variables, parsed once at start into typed sections.
//!
//! Each function reads only the sections it needs, so `clear-history` starts without an LLM key. A variable set to the
//! empty string counts as not set, because deployment templates cannot leave one out. Secrets are
//! [`secrecy::SecretString`]s, and no error repeats a value.

mod auth;
mod cors;
mod limits;
mod llm;
mod log;
mod memory;
mod metrics;
mod read;
mod redis;
mod secret;

pub use self::auth::{AuthConfig, JwtRules};
pub use self::cors::CorsConfig;
pub use self::limits::LimitsConfig;
pub use self::llm::{LlmConfig, OpenAiConfig, Provider};
pub use self::log::{LogConfig, LogFormat, LogLevel};
pub use self::memory::{ContextConfig, MemoryConfig};
pub use self::metrics::MetricsConfig;
pub use self::redis::{KeyLayout, RedisConfig, RedisMode};
pub use self::secret::{IamLogin, RedisLogin, SecretArn, SecretSource};

/// A setting that prevents the process from starting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {problem}")]
pub struct ConfigError {
    /// Name of the environment variable.
    pub variable: &'static str,
    /// Problem with the variable, and what would be valid. Never contains the value of the variable.
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

/// Returns the value of a variable by its name: from the environment, or from a table in tests.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A group of settings that are read together.
pub trait Section: Sized {
    /// Parses the section from the values that `lookup` returns.
    ///
    /// # Errors
    /// Returns the first variable that is missing or invalid.
    fn from_lookup(lookup: Lookup<'_>) -> Result<Self, ConfigError>;

    /// Parses the section from the environment of the process.
    ///
    /// # Errors
    /// Returns the first variable that is missing or invalid.
    fn from_env() -> Result<Self, ConfigError> {
        // Invalid Unicode is replaced by U+FFFD rather than dropped: the value is then refused or matches nothing,
        // instead of counting as not set.
        Self::from_lookup(&|name| {
            std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
        })
    }
}

#[cfg(test)]
mod tests;
