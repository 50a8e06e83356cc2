//! The log: its format, its filter, and the report of a process that cannot start or go on.
//!
//! The Lambda runtime logs whole events at TRACE, and HTTP and TLS libraries log what they transfer, so the level of
//! all code outside this project is capped at INFO.

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

use tracing::level_filters::LevelFilter;
use tracing::subscriber::set_global_default;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;

use super::LOG_TARGET;
use crate::config::{LogConfig, LogFormat, LogLevel};

/// Target of the span in which the runtime puts the request id. It must be enabled at every level, or lines would lose
/// the request id; the target itself logs nothing.
const REQUEST_SPAN: (&str, LevelFilter) = ("lambda_runtime::layers::trace", LevelFilter::INFO);

/// Starts logging for this process. `function` is the name of its package.
pub(super) fn init(config: LogConfig, function: &str) {
    let level = match config.level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    // The service as a whole, and the crates of this project: targets are named after crates.
    let function = function.replace('-', "_");
    let own_targets = [LOG_TARGET, "shared", &function].map(|name| (name, level));
    let filter = Targets::new()
        .with_default(level.min(LevelFilter::INFO))
        .with_targets(own_targets)
        .with_targets([REQUEST_SPAN]);
    let registry = tracing_subscriber::registry().with(filter);
    // Not `init`, which would also collect what libraries send to the `log` crate. A second call in one process, as in
    // tests, changes nothing.
    let _ = match config.format {
        LogFormat::Json => {
            let lines = fmt::layer()
                .json()
                .flatten_event(true)
                .with_span_list(false);
            set_global_default(registry.with(lines))
        }
        LogFormat::Text => set_global_default(registry.with(fmt::layer().with_ansi(false))),
    };
    // The standard hook prints the message of a panic, which can quote message text. This one logs only the place.
    std::panic::set_hook(Box::new(|panic| {
        let at = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::error!(target: LOG_TARGET, at, "panic");
    }));
}

/// Reports on standard error why the process cannot start, and returns its exit status.
pub(crate) fn start_failed(error: &dyn Error) -> ExitCode {
    report("start failed", error)
}

/// Reports on standard error that the Runtime API is lost, and returns the process's exit status.
pub(crate) fn platform_lost(error: &dyn Error) -> ExitCode {
    report("lost the Runtime API", error)
}

fn report(message: &str, error: &dyn Error) -> ExitCode {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a string cannot fail.
        let _ = write!(reason, ": {cause}");
        source = cause.source();
    }
    #[expect(
        clippy::print_stderr,
        reason = "logging itself may have failed to start"
    )]
    {
        eprintln!(
            "{}",
            serde_json::json!({ "level": "ERROR", "message": message, "reason": reason })
        );
    }
    ExitCode::FAILURE
}
