//! `make capacity`: what Redis and Lambda must have for so many users, from sessions that are really written and measured.
//!
//! Exit code 2: an option is wrong, and nothing was done. 1: the two samples disagree, or the JSON cannot be written.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool that prints, and whose failures are the measurement's"
)]

mod measure;
mod options;
mod plan;
mod report;
mod text;

use std::process::ExitCode;

use self::measure::{Sample, Shape};
use self::options::Options;
use self::plan::rule;
use self::report::Measured;

/// The second sample is this many times smaller than the first. Redis's tables of keys double as they fill, so a power of two
/// finds both equally full, and small sessions are not taken for unlike ones.
const SECOND_SAMPLE: u64 = 4;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let environment =
        |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let options = match Options::read(&arguments, &environment) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("capacity: {error}");
            return ExitCode::from(2);
        }
    };
    let measured = measure(&options).await;
    report::print(&options, &measured);
    if let Some(path) = &options.json {
        let json = format!("{:#}\n", report::json(&options, &measured));
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

/// Each sample has a server of its own, which ends with it.
async fn measure(options: &Options) -> Measured {
    let shape = Shape {
        messages: options.messages,
        bytes: options.bytes,
        layout: options.layout,
    };
    let ruled = Shape {
        messages: rule::MESSAGES,
        bytes: rule::BYTES,
        layout: options.layout,
    };
    let rule_sample = Sample::write(options.rule_sessions, ruled).await;
    let rule_bytes_a_session = rule_sample.bytes_a_session();
    let fragmentation = rule_sample.fragmentation().await;
    drop(rule_sample);
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
        fragmentation,
        rule_sessions: options.rule_sessions,
        rule_bytes_a_session,
    }
}
