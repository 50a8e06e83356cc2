//! Frames leave at once: TCP_NODELAY on the connections to the runtime API.
//!
//! The runtime's HTTP client leaves Nagle's algorithm on, so that a small frame waits for the acknowledgement of the one
//! before it, 40 ms on a peer that delays its acknowledgements. The client takes no connector, so the option is set on the
//! live sockets, through duplicates of their descriptors: safe code, and Linux only. Where the platform refuses any of it,
//! nothing happens and nothing breaks. To be deleted when the runtime sets the option itself.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{Dir, Mode, OFlags, open, readlinkat};
use rustix::net::sockopt::set_tcp_nodelay;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// The runtime opens a connection now and then, whenever its last one is not idle again in time. With few descriptors, looking
/// at all of them costs microseconds and is done for every invocation; with many, at most so often.
const FEW: usize = 64;
const BETWEEN_LOOKS_AT_MANY: Duration = Duration::from_secs(1);

/// Remembers which sockets have been seen to.
#[derive(Debug, Default)]
pub(super) struct NoDelay {
    /// Held while looking; who comes meanwhile relies on that.
    seen: Mutex<Option<Seen>>,
}

#[derive(Debug)]
struct Seen {
    /// By descriptor, what it was: the kernel names a socket by its inode, so a descriptor that was used again is told apart.
    sockets: HashMap<i32, CString>,
    at: SystemTime,
}

impl NoDelay {
    /// Sees to the sockets that are new.
    pub(super) fn ensure(&self) {
        let mut seen = match self.seen.try_lock() {
            Ok(seen) => seen,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(std::sync::TryLockError::WouldBlock) => return,
        };
        let now = SystemTime::now();
        if let Some(seen) = &*seen
            && seen.sockets.len() > FEW
            && now
                .duration_since(seen.at)
                .is_ok_and(|since| since < BETWEEN_LOOKS_AT_MANY)
        {
            return;
        }
        let before = seen.take().map(|seen| seen.sockets).unwrap_or_default();
        // Without it frames are late and nothing is wrong.
        if let Ok(sockets) = set_on_new_sockets(&before) {
            *seen = Some(Seen { sockets, at: now });
        }
    }
}

/// On all that are new, because every other TCP socket of this process has the option already.
fn set_on_new_sockets(before: &HashMap<i32, CString>) -> rustix::io::Result<HashMap<i32, CString>> {
    let directory = open(
        c"/proc/self/fd",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut own = None;
    let mut sockets = HashMap::with_capacity(before.len() + 1);
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().ok().and_then(|name| name.parse().ok());
        let (Some(number), Ok(target)) = (number, readlinkat(&directory, name, Vec::new())) else {
            continue;
        };
        if !target.as_bytes().starts_with(b"socket:") {
            continue;
        }
        if before.get(&number) != Some(&target) {
            let own = match &own {
                Some(own) => own,
                None => own.insert(pidfd_open(getpid(), PidfdFlags::empty())?),
            };
            let socket = pidfd_getfd(own, number, PidfdGetfdFlags::empty())?;
            // A socket that is not TCP refuses.
            let _ = set_tcp_nodelay(&socket, true);
        }
        sockets.insert(number, target);
    }
    Ok(sockets)
}
