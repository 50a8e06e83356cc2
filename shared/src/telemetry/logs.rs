//! Logging as such: where lines go, which are let through, and what is said when a process cannot start.
//!
//! The Lambda runtime logs whole events at TRACE, and HTTP and TLS libraries log what they carry, so all code but this
//! project's own is held to INFO.

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

use tracing::level_filters::LevelFilter;
use tracing::subscriber::set_global_default;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::config::{LogConfig, LogFormat, LogLevel};

/// Crates of this project, as they name themselves in logs.
const OWN: [&str; 4] = ["shared", "chat_stream", "clear_history", "session_meta"];
/// Where the runtime opens the span that says whose request a line belongs to. It logs nothing itself, and at any level its
/// span is wanted.
const REQUEST_SPAN: (&str, LevelFilter) = ("lambda_runtime::layers::trace", LevelFilter::INFO);

/// Starts logging, once, at start.
pub(super) fn init(config: LogConfig) {
    let level = match config.level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let filter = Targets::new()
        .with_default(level.min(LevelFilter::INFO))
        .with_targets(OWN.map(|name| (name, level)))
        .with_targets([REQUEST_SPAN]);
    let registry = tracing_subscriber::registry().with(filter);
    // Set as it is: `init` would also take in what other libraries hand to the `log` crate. A second start in one process,
    // as in tests, keeps the first.
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
    // The standard hook prints the message of a panic, and such a message can quote the text that it failed on.
    std::panic::set_hook(Box::new(|panic| {
        let at = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::error!(target: "shared", at, "panic");
    }));
}

/// Says why a process does not start, and gives its exit status.
pub(crate) fn start_failed(error: &dyn Error) -> ExitCode {
    report("start failed", error)
}

/// Says that there is nobody left to serve, and gives the exit status.
pub(crate) fn platform_lost(error: &dyn Error) -> ExitCode {
    report("the platform is gone", error)
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
        reason = "logging may be what could not be started"
    )]
    {
        eprintln!(
            "{}",
            serde_json::json!({ "level": "ERROR", "message": message, "reason": reason })
        );
    }
    ExitCode::FAILURE
}
