//! Frames leave at once: TCP_NODELAY on the connections to the runtime API.
//!
//! The runtime's HTTP client leaves Nagle's algorithm on, so that a small frame waits for the acknowledgement of the one
//! before it, 40 ms on a peer that delays its acknowledgements. The client takes no connector, so the option is set on the
//! live sockets, through duplicates of their descriptors: safe code, and Linux only. Where the platform refuses any of it,
//! nothing happens and nothing breaks. To be deleted when the runtime sets the option itself.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::net::sockopt::set_tcp_nodelay;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// The runtime keeps its connections, so looking for new ones now and then is enough.
const SECONDS_BETWEEN_LOOKS: u64 = 60;

/// Remembers when the sockets were looked at.
#[derive(Debug, Default)]
pub(super) struct NoDelay {
    looked_at: AtomicU64,
}

impl NoDelay {
    /// Sees to it, if it has not been seen to for a while.
    pub(super) fn ensure(&self) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |since| since.as_secs());
        let looked_at = self.looked_at.load(Ordering::Relaxed);
        if now.abs_diff(looked_at) >= SECONDS_BETWEEN_LOOKS
            && self
                .looked_at
                .compare_exchange(looked_at, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            // Without it frames are late and nothing is wrong.
            let _ = set_on_all_sockets();
        }
    }
}

/// On all of them, because every other TCP socket of this process has the option already.
fn set_on_all_sockets() -> io::Result<()> {
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        let is_socket = std::fs::read_link(&path).is_ok_and(|target| {
            target
                .as_os_str()
                .as_encoded_bytes()
                .starts_with(b"socket:")
        });
        let number = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.parse().ok());
        if let (true, Some(number)) = (is_socket, number) {
            let socket = pidfd_getfd(&own, number, PidfdGetfdFlags::empty())?;
            // A socket that is not TCP refuses.
            let _ = set_tcp_nodelay(&socket, true);
        }
    }
    Ok(())
}
