//! Logging: the variables that start with `LOG_`.

use super::read::choice;
use super::{ConfigError, Lookup, Section};

/// The least severe level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Logs everything.
    Trace,
    /// Adds details for developers.
    Debug,
    /// Adds one line per request.
    Info,
    /// Adds problems that did not fail a request.
    Warn,
    /// Logs only problems that failed a request.
    Error,
}

/// The format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line, for machines.
    Json,
    /// Plain text, for people.
    Text,
}

/// Level and format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// Least severe level that is logged. Read from `LOG_LEVEL`; defaults to `info`.
    pub level: LogLevel,
    /// Format of a line. Read from `LOG_FORMAT`; defaults to `json`.
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
