//! CPU time and memory of a process, from `/proc`.

use std::time::Duration;

/// Returns the user and system time of a process so far.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    // The sum over its threads, in nanoseconds. `/proc/PID/stat` counts in ticks of 10 ms.
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
    let nanoseconds = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// Returns a figure of `/proc/PID/status`, in KiB.
pub(crate) fn memory(pid: u32, name: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let figure = line.map(|line| line.trim_start_matches(':').trim().trim_end_matches(" kB"));
    figure
        .and_then(|figure| figure.parse().ok())
        .unwrap_or(f64::NAN)
}
