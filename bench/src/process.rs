//! CPU time and memory of a process, from `/proc`, and the CPUs and descriptors of this one.

use std::process::{Command, id};
use std::thread::available_parallelism;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

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

/// Raises the soft limit of open descriptors of this process to the hard one, and returns it.
pub(crate) fn raised_descriptor_limit() -> u64 {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).expect("as far as the hard limit");
    maximum.unwrap_or(u64::MAX)
}

/// This process, and the children that it starts, on some CPUs. Dropping this gives all of them back.
pub(crate) struct Pinned {
    cpus: usize,
}

impl Pinned {
    /// Leaves the first CPU to the function. With a single CPU, nothing is pinned.
    pub(crate) fn to_all_but_the_first() -> Self {
        let cpus = available_parallelism().map_or(1, usize::from);
        if cpus > 1 {
            run_on(&format!("1-{}", cpus - 1));
        }
        Self { cpus }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        run_on(&format!("0-{}", self.cpus - 1));
    }
}

fn run_on(cpus: &str) {
    let mut taskset = Command::new("taskset");
    let done = taskset.args(["-apc", cpus, &id().to_string()]).output();
    assert!(done.expect("util-linux").status.success(), "taskset {cpus}");
}
