//! `make capacity`: how much memory Redis needs and what Lambda costs for a number of users, from sessions that are
//! really written and measured.
//!
//! Exit code 2: an option is wrong, and nothing was measured. 1: the two samples disagree, or the JSON cannot be
//! written.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool that prints, and whose failures are the measurement's"
)]

mod managed;
mod measure;
mod options;
mod plan;
mod report;
mod text;

use std::process::ExitCode;

use self::measure::{Sample, Shape};
use self::options::Options;
use self::report::{Measured, Plans};

/// How many times smaller the second sample is. Redis's tables of keys double as they fill: with a power of two both
/// samples find them equally full, and the difference between samples is not a difference between tables.
const SECOND_SAMPLE: u64 = 4;

#[tokio::main]
async fn main() -> ExitCode {
    let environment = |name: &str| std::env::var_os(name);
    // A wrong option ends the process here.
    let options = Options::read(std::env::args_os().skip(1), environment)
        .unwrap_or_else(|error| error.exit());
    let measured = measure(&options).await;
    let plans = Plans::new(&options, &measured);
    report::print(&options, &measured, &plans);
    if let Some(path) = &options.capacity_json {
        let json = format!("{:#}\n", report::json(&options, &measured, &plans));
        if let Err(error) = std::fs::write(path, json) {
            eprintln!("capacity: CAPACITY_JSON: {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
        println!("\nAll figures: {}", path.display());
    }
    if !measured.is_linear() {
        eprintln!(
            "capacity: the two samples disagree, so the totals are wrong; try a larger SAMPLE"
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Writes and measures both samples. Each has a server of its own, which ends with it.
async fn measure(options: &Options) -> Measured {
    let shape = Shape {
        messages: options.messages,
        bytes: options.bytes,
        layout: options.layout,
    };
    let second = Sample::write(options.sample / SECOND_SAMPLE, shape).await;
    let first = Sample::write(options.sample, shape).await;
    Measured {
        redis_version: first.version().await,
        sample: first.sessions,
        bytes_a_session: first.bytes_a_session(),
        anatomy: first.anatomy().await,
        second_sample: second.sessions,
        second_bytes_a_session: second.bytes_a_session(),
        bytes_a_connection: first.bytes_a_connection().await,
    }
}
