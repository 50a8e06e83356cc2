//! Sets TCP_NODELAY on the connections to the Runtime API, so that frames are sent without delay.
//!
//! The runtime's HTTP client leaves Nagle's algorithm on: a small frame then waits for the acknowledgement of the one
//! before it, 40 ms on a peer that delays its acknowledgements. `lambda_runtime_api_client` accepts a connector
//! (`PooledClient::builder().with_connector`), but `lambda_runtime::Runtime::new` builds its client itself, without
//! one and without TCP_NODELAY. The option is therefore set on the open sockets, through duplicates of their
//! descriptors: safe code, and Linux only. If the platform denies any of it, frames are late and nothing else
//! changes.
//!
//! Either of two changes of the runtime makes this file unnecessary: `connector.set_nodelay(true)` on the
//! `HttpConnector` in the builders of `lambda_runtime_api_client` (one line), or a `Runtime::with_client` that
//! accepts a client. Then delete this file, `nodelay_elsewhere.rs`, and `sent_at_once` in `serve.rs`. The expectation in `acceptance/tests/sockets.rs` stays.

use std::collections::HashMap;
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fd::{AsFd, RawFd};
use rustix::fs::{Mode, OFlags, RawDir, open, readlinkat};
use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_nodelay;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tokio::time::sleep;

use crate::clock::lock;

/// Number of known sockets below which every response triggers a scan. The runtime opens a new connection whenever
/// its last one is still busy. With few sockets a scan costs microseconds.
const SCAN_EVERY_TIME_BELOW: usize = 65;
/// Shortest time between two scans of many sockets. A scan that would come earlier is postponed, never dropped.
const SCAN_INTERVAL: Duration = Duration::from_millis(50);
/// How many times as long as a scan has taken no other follows. A scan of thousands of sockets takes milliseconds, in
/// which no delta is sent.
const SCAN_SHARE: u32 = 50;

/// The sockets that already have the option.
#[derive(Debug, Default)]
pub(super) struct NoDelay {
    /// Locked during a scan. A caller that arrives meanwhile may own a socket the scan has already passed, so it
    /// scans again.
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The link target of each socket, by descriptor. It contains the socket's inode, so a reused descriptor is
    /// recognized as a new socket.
    sockets: HashMap<i32, CString>,
    /// When the next scan of many sockets may begin. At the first scan there are none.
    next_at: Option<Instant>,
    /// Whether a postponed scan is scheduled.
    is_scheduled: bool,
}

impl NoDelay {
    /// Sets the option on new sockets: at once, or later if many sockets have just been scanned.
    pub(super) fn ensure(self: &Arc<Self>) {
        let mut seen = lock(&self.seen);
        let wait = seen.next_at.map_or(Duration::ZERO, |at| {
            at.saturating_duration_since(Instant::now())
        });
        if seen.sockets.len() < SCAN_EVERY_TIME_BELOW || wait.is_zero() {
            seen.scan();
        } else if !std::mem::replace(&mut seen.is_scheduled, true) {
            let later = Arc::clone(self);
            // Not awaited: it ends on its own, and no response depends on it.
            tokio::spawn(async move {
                sleep(wait).await;
                let mut seen = lock(&later.seen);
                seen.is_scheduled = false;
                seen.scan();
            });
        }
    }
}

impl Seen {
    fn scan(&mut self) {
        let began = Instant::now();
        // A failure only delays frames.
        if let Ok(sockets) = set_on_new_sockets(&self.sockets) {
            self.sockets = sockets;
        }
        self.next_at = Some(Instant::now() + pause_after(began.elapsed()));
    }
}

/// Returns how long no scan of many sockets follows one that took so long.
fn pause_after(scan: Duration) -> Duration {
    SCAN_INTERVAL.max(scan * SCAN_SHARE)
}

/// Sets the option on every socket that is not in `before`, and returns all sockets. Other TCP sockets of this
/// process set the option themselves, so they need no distinction.
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
            if !set_on(own, number)? {
                continue;
            }
        }
        sockets.insert(number, target);
    }
    Ok(sockets)
}

/// Sets the option on a socket of the process `own`. Returns whether the descriptor is still open: another thread may
/// have closed it since the directory was read, and the sockets behind it must get the option all the same.
fn set_on(own: impl AsFd, number: RawFd) -> rustix::io::Result<bool> {
    match pidfd_getfd(own, number, PidfdGetfdFlags::empty()) {
        Ok(socket) => {
            // Fails on sockets other than TCP.
            let _ = set_tcp_nodelay(&socket, true);
            Ok(true)
        }
        Err(Errno::BADF) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    use rustix::net::sockopt::tcp_nodelay;
    use tokio::time::timeout;

    use super::*;

    /// The time within which a postponed scan has ended, on a slow machine too.
    const POSTPONED: Duration = Duration::from_secs(10);
    /// Above every descriptor that a process can have.
    const CLOSED: RawFd = 1 << 30;

    #[test]
    fn a_descriptor_that_was_closed_meanwhile_is_passed_over() {
        let own = pidfd_open(getpid(), PidfdFlags::empty()).expect("Linux 5.6 or later");
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        assert_eq!(set_on(&own, CLOSED), Ok(false));
        assert_eq!(set_on(&own, socket.as_raw_fd()), Ok(true));
        assert_eq!(tcp_nodelay(&socket), Ok(true));
    }

    #[tokio::test]
    async fn one_more_of_many_sockets_is_not_forgotten() {
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let no_delay = Arc::new(NoDelay::default());
        let mut sockets: Vec<_> = (0..SCAN_EVERY_TIME_BELOW).map(|_| listen()).collect();
        no_delay.ensure();
        assert!(sockets.iter().all(|socket| tcp_nodelay(socket) == Ok(true)));
        sockets.push(listen());
        no_delay.ensure();
        let is_set = async {
            while sockets.iter().any(|socket| tcp_nodelay(socket) != Ok(true)) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(timeout(POSTPONED, is_set).await.is_ok());
    }

    #[test]
    fn a_long_scan_takes_a_fiftieth_of_the_time() {
        for (scan_ms, pause_ms) in [(0, 50), (1, 50), (8, 400)] {
            let pause = pause_after(Duration::from_millis(scan_ms));
            assert_eq!(pause.as_millis(), pause_ms, "{scan_ms}");
        }
    }
}
