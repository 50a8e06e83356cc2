//! Where and when a run was measured.

use std::time::SystemTime;

use plots::Machine;

/// Returns this machine and today's date.
pub(crate) fn machine(trial: bool) -> Machine {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo");
    // Linux on arm64 names no model.
    let cpu = processor.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == "model name").then(|| value.trim())
    });
    let release = read("/proc/sys/kernel/osrelease");
    // Such as `Fri, 27 Nov 2026 12:00:00 GMT`.
    let now = httpdate::fmt_http_date(SystemTime::now());
    let date = now.split(' ').skip(1).take(3).collect::<Vec<_>>().join(" ");
    Machine {
        cpu: cpu.unwrap_or(std::env::consts::ARCH).to_owned(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        kernel: format!("Linux {}", release.trim()),
        date,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        trial,
    }
}
