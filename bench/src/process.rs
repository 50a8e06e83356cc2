//! CPU time and memory of a process, from `/proc`, and the CPUs of this one.

use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

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

/// All threads of this process, and the children that they start, on some of its CPUs. Dropping this gives all back.
pub(crate) struct Pinned {
    all: CpuSet,
    /// The CPU that is left to the function.
    pub(crate) left: usize,
}

impl Pinned {
    /// Leaves the first CPU to the function. With a single CPU, nothing is pinned.
    pub(crate) fn to_all_but_the_first() -> Self {
        let all = sched_getaffinity(None).expect("the CPUs of this process");
        let mut cpus = 0..CpuSet::MAX_CPU;
        let left = cpus.find(|cpu| all.is_set(*cpu)).expect("a CPU");
        let mut others = all;
        others.unset(left);
        if others.count() > 0 {
            run_on(&others);
        }
        Self { all, left }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        run_on(&self.all);
    }
}

fn run_on(cpus: &CpuSet) {
    let threads = std::fs::read_dir("/proc/self/task").expect("this process lives");
    for thread in threads.flatten() {
        let id = thread.file_name().into_string().ok();
        let id = id.and_then(|id| Pid::from_raw(id.parse().ok()?));
        // A thread may end meanwhile.
        let _ = sched_setaffinity(id, cpus);
    }
}
