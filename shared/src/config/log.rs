//! Logging: variables that begin with `LOG_`.

use super::read::choice;
use super::{ConfigError, Lookup, Section};

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
