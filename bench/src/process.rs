//! What the operating system says of a process.

use std::time::Duration;

/// User and system time of a process so far.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    // In nanoseconds, where clock ticks would be 10 ms: the sum over its threads.
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
    let nanoseconds = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// A figure of `/proc/PID/status`, in KiB.
pub(crate) fn memory(pid: u32, name: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let figure = line.map(|line| line.trim_start_matches(':').trim().trim_end_matches(" kB"));
    figure
        .and_then(|figure| figure.parse().ok())
        .unwrap_or(f64::NAN)
}
