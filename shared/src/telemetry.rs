//! Logs and metrics: one event an invocation, told twice when it ends, as a log line and as metrics.
//!
//! Whoever works on an invocation notes in its [`Invocation`] what only they know; [`Figures`] holds all that can be noted. The
//! event is closed when the last of them lets go of it, before the invocation's answer ends, however it ends: nothing is
//! left to be written after it, because the platform may freeze the process then. Both forms go to standard output, where
//! the platform collects them.
//!
//! Never told in either form, at any level: what anybody said, prompts, tokens, secrets. A user's id is told as a hash. That
//! is a pseudonym and no more: who has the id can find its lines.

mod figures;
mod invocation;
mod logs;
mod metrics;
mod request_line;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use self::figures::{
    CommitResult, Done, Figures, Operation, Status, TurnFigures, UpstreamTokens,
};
pub use self::invocation::Invocation;
pub(crate) use self::logs::{platform_lost, start_failed};
use self::metrics::Metrics;
use crate::config::{ConfigError, LogConfig, MetricsConfig, Section};

/// What one process tells of itself. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Telemetry {
    process: Arc<Process>,
}

struct Process {
    function: &'static str,
    /// Whether it has had an invocation.
    warm: AtomicBool,
    metrics: Option<Metrics>,
}

impl Telemetry {
    /// Starts logging, once, at start. `function` is the name that logs and metrics call it by.
    ///
    /// # Errors
    /// A setting of logs or metrics that cannot be used.
    pub fn from_env(function: &'static str) -> Result<Self, ConfigError> {
        logs::init(LogConfig::from_env()?);
        let metrics = MetricsConfig::from_env()?;
        Ok(Self {
            process: Arc::new(Process {
                function,
                warm: AtomicBool::new(false),
                metrics: metrics.namespace.map(Metrics::new),
            }),
        })
    }
}
