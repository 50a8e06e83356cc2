//! Frames leave at once: TCP_NODELAY on the connections to the runtime API.
//!
//! The runtime's HTTP client leaves Nagle's algorithm on, so that a small frame waits for the acknowledgement of the one
//! before it, 40 ms on a peer that delays its acknowledgements. The client takes no connector, so the option is set on the
//! live sockets, through duplicates of their descriptors: safe code, and Linux only. Where the platform refuses any of it,
//! nothing happens and nothing breaks. To be deleted when the runtime sets the option itself.

use std::collections::HashMap;
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, RawDir, open, readlinkat};
use rustix::net::sockopt::set_tcp_nodelay;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tokio::time::sleep;

/// The runtime opens a connection now and then, whenever its last one is not idle again in time. With few descriptors, looking
/// at all of them costs microseconds and is done for every answer; with many, where many answers begin at once, at most so
/// often, and the last of them is not forgotten.
const FEW: usize = 64;
const BETWEEN_LOOKS_AT_MANY: Duration = Duration::from_millis(50);

/// Remembers which sockets have been seen to.
#[derive(Debug, Default)]
pub(super) struct NoDelay {
    /// Held while looking: whoever comes meanwhile has a socket that the look may have passed, and looks again.
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// By descriptor, what it was: the kernel names a socket by its inode, so a descriptor that was used again is told apart.
    sockets: HashMap<i32, CString>,
    looked_at: Option<Instant>,
    /// Somebody will look when it is time again.
    promised: bool,
}

impl NoDelay {
    /// Sees to the sockets that are new, at once or, where it has just been done for many, in a moment.
    pub(super) fn ensure(self: &Arc<Self>) {
        let mut seen = self.seen();
        let since = seen.looked_at.map_or(Duration::MAX, |at| at.elapsed());
        if seen.sockets.len() <= FEW || since >= BETWEEN_LOOKS_AT_MANY {
            seen.look();
        } else if !std::mem::replace(&mut seen.promised, true) {
            let later = Arc::clone(self);
            // Not awaited: it ends by itself, and no answer depends on it.
            tokio::spawn(async move {
                sleep(BETWEEN_LOOKS_AT_MANY).await;
                let mut seen = later.seen();
                seen.promised = false;
                seen.look();
            });
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn look(&mut self) {
        // Without it frames are late and nothing is wrong.
        if let Ok(sockets) = set_on_new_sockets(&self.sockets) {
            self.sockets = sockets;
        }
        self.looked_at = Some(Instant::now());
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
    let mut buffer = [MaybeUninit::uninit(); 2_048];
    let mut entries = RawDir::new(&directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        let Some(number) = name.to_str().ok().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(target) = readlinkat(&directory, name, Vec::new()) else {
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
