//! Logs and metrics: one event per invocation, written when it ends, once as a log line and once as metrics.
//!
//! Code that works on an invocation records its part in the [`Invocation`]; [`Figures`] holds everything that can be
//! recorded. The event is written when the last holder drops it, which happens before the response ends: afterwards the
//! platform may freeze the process. Both forms go to standard output, where the platform collects them.
//!
//! Neither form, at any level, contains message text, prompts, tokens or secrets. A user id is recorded as a hash,
//! which is a pseudonym only: anyone who knows the id can find its lines.

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

/// The logs and metrics of one process. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Telemetry {
    process: Arc<Process>,
}

/// The `target` of log lines that describe the whole service rather than one module.
const LOG_TARGET: &str = "companion_chat";

struct Process {
    function: &'static str,
    /// Whether the process has had an invocation.
    warm: AtomicBool,
    metrics: Option<Metrics>,
}

impl Telemetry {
    /// Starts logging for this process. Call it once, at start; `function` is the name of the function's
    /// package, which is its name in logs and metrics.
    ///
    /// # Errors
    /// Returns the first `LOG_…` or `METRICS…` variable that is invalid.
    pub fn from_env(function: &'static str) -> Result<Self, ConfigError> {
        logs::init(LogConfig::from_env()?, function);
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
