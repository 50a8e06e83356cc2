//! A share of a CPU for a process, as Lambda gives it with a share of 1,769 MB.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A cgroup of either version that limits its processes to a share of a CPU. It is removed on drop.
pub(crate) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Returns a group whose processes together have this share of a CPU, in periods of 20 ms. Returns `None` if the machine
    /// has no cgroup that can be written.
    pub(crate) fn new(share: f64) -> Option<Self> {
        const PERIOD: f64 = 20_000.0;
        let quota = PERIOD * share;
        let first = Path::new("/sys/fs/cgroup/cpu");
        let (parent, limits) = if first.exists() {
            let limits = [
                ("cpu.cfs_period_us", format!("{PERIOD}")),
                ("cpu.cfs_quota_us", format!("{quota:.0}")),
            ];
            (first, limits.to_vec())
        } else {
            let limits = [("cpu.max", format!("{quota:.0} {PERIOD}"))];
            (Path::new("/sys/fs/cgroup"), limits.to_vec())
        };
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("companion-chat-bench-{}-{number}", std::process::id());
        let path = parent.join(name);
        std::fs::create_dir(&path).ok()?;
        let group = Self { path };
        for (file, limit) in limits {
            std::fs::write(group.path.join(file), limit).ok()?;
        }
        Some(group)
    }

    /// Returns the path of the file that processes of the group are written to.
    pub(crate) fn processes(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It can only be removed once its processes are gone, and they are: their owners wait for them.
        let _ = std::fs::remove_dir(&self.path);
    }
}
