//! The cost of exact token counts: the tables, which a process builds once, and each count after that.
//!
//! Tables are static, so each measurement is a process of its own: this one runs itself again with [`COUNTER`] set.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::tokens::{Counter, estimate};

use crate::process;
use crate::report::{Report, Series, heading};

/// The variable that names the counter that this process measures.
const COUNTER: &str = "BENCH_COUNTER";
/// How often the text is counted once the tables are built.
const COUNTS: usize = 51;

/// Measures a counter and returns true if this process was started for that. Returns false in any other process.
pub(crate) fn measured_here() -> bool {
    let Ok(counter) = std::env::var(COUNTER) else {
        return false;
    };
    let figures = match counter.as_str() {
        "estimate" => measure(estimate),
        // A new counter each time, which has kept no count.
        _ => measure(|text| Counter::new().count(text)),
    };
    println!("{figures}");
    true
}

/// Measures the exact counter and the estimate, interleaved.
pub(crate) fn tokenizer(report: &mut Report, processes: usize) {
    const GROUP: &str = "tokenizer";
    heading("Counting tokens, where the upstream does not");
    let counters = ["counter", "estimate"];
    let mut series: [[Series; 3]; 2] = Default::default();
    for _ in 0..processes {
        for (counter, series) in counters.iter().zip(&mut series) {
            let figures = measured(counter);
            for (name, series) in ["build_us", "kib", "count_us"].iter().zip(series) {
                series.push(figures[*name].as_f64().unwrap_or(f64::NAN));
            }
        }
    }
    for (counter, [build, kib, count]) in counters.iter().zip(&series) {
        report.measured(GROUP, &format!("{counter}: first count"), "us", build);
        report.measured(GROUP, &format!("{counter}: memory at its peak"), "KiB", kib);
        report.measured(GROUP, &format!("{counter}: a text of 5 kB"), "us", count);
    }
}

fn measured(counter: &str) -> Value {
    let this = std::env::current_exe().expect("a path to this program");
    let output = Command::new(this)
        .env(COUNTER, counter)
        .output()
        .expect("this program can be started");
    serde_json::from_slice(&output.stdout).expect("figures")
}

fn measure<Count: TryInto<u64>>(count: impl Fn(&str) -> Count) -> Value {
    let text = text();
    let before = process::memory(std::process::id(), "VmHWM");
    let build = timed(|| count("hello world"));
    let peak = process::memory(std::process::id(), "VmHWM") - before;
    let mut counts = Series::default();
    for _ in 0..COUNTS {
        counts.push_time(timed(|| count(&text)));
    }
    json!({ "build_us": build.as_secs_f64() * 1e6, "kib": peak, "count_us": counts.median() })
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let began = Instant::now();
    std::hint::black_box(work());
    began.elapsed()
}

/// Returns 5 kB of alternating English and Chinese, about 1,400 tokens.
fn text() -> String {
    let mut text = String::new();
    for number in 0.. {
        if text.len() > 5_000 {
            break;
        }
        text.push_str(&format!(
            "It's walk number {number} by the sea, and the wind didn't stop. 今天在海边散步，风很轻，你那边怎么样？\n"
        ));
    }
    text
}
