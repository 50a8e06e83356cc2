//! A share of a CPU for a function, as Lambda gives it with a share of 1,769 MB.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use testkit::runtime::{Function, FunctionBuilder};

/// A function at its share of a CPU. Fields are dropped in order, so it ends before its cgroup is removed.
pub(crate) struct Held {
    pub(crate) function: Function,
    _group: Option<Cgroup>,
}

impl Held {
    /// Starts a function, and holds it to a share of a CPU if that is less than 1 and [`can_hold`] is true.
    pub(crate) async fn start(builder: FunctionBuilder, share: f64) -> Self {
        // Each has a cgroup of its own, so that none pays for what an earlier one overdrew.
        let group = (share < 1.0).then(|| Cgroup::new(share)).flatten();
        let function = match &group {
            Some(group) => builder.cgroup(group.processes()).start().await,
            None => builder.start().await,
        };
        Self {
            function,
            _group: group,
        }
    }
}

/// Returns whether functions can be held to this share of a CPU. If not, it prints so under `name`.
pub(crate) fn can_hold(name: &str, share: f64) -> bool {
    let can = share >= 1.0 || Cgroup::new(share).is_some();
    if !can {
        println!("  {name}: this machine has no cgroup that can be written");
    }
    can
}

/// A cgroup of either version that limits its processes to a share of a CPU. It is removed on drop.
struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Returns a group whose processes together have this share of a CPU, in periods of 20 ms; `None` if the machine has no
    /// cgroup that can be written.
    fn new(share: f64) -> Option<Self> {
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
    fn processes(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It can only be removed once its processes are gone, and they are: their owners wait for them.
        let _ = std::fs::remove_dir(&self.path);
    }
}
