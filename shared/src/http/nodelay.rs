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
/// Shortest pause after a scan of many sockets. A scan that would come earlier is postponed, never dropped.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause. A scan that lost the CPU seems to have taken long.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// The pause is this many times as long as the scan was. A scan of thousands of sockets takes milliseconds, and delays
/// deltas meanwhile.
const PAUSE_PER_SCAN: u32 = 50;

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
    /// Earliest time of the next scan of many sockets. `None` before the first scan.
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
        let is_due = wait.is_zero() && !seen.is_scheduled;
        if seen.sockets.len() < SCAN_EVERY_TIME_BELOW || is_due {
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

/// Returns the shortest pause after a scan of many sockets that took `scan`.
fn pause_after(scan: Duration) -> Duration {
    scan.saturating_mul(PAUSE_PER_SCAN)
        .clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
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

    use super::*;

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

    #[tokio::test(start_paused = true)]
    async fn a_postponed_scan_is_not_forgotten() {
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let no_delay = Arc::new(NoDelay::default());
        let mut sockets: Vec<_> = (0..SCAN_EVERY_TIME_BELOW).map(|_| listen()).collect();
        no_delay.ensure();
        let are_set = |sockets: &[TcpListener]| {
            let mut options = sockets.iter().map(tcp_nodelay);
            options.all(|option| option == Ok(true))
        };
        assert!(are_set(&sockets));
        let pause = Duration::from_secs(60);
        lock(&no_delay.seen).next_at = Some(Instant::now() + pause);
        sockets.push(listen());
        no_delay.ensure();
        assert!(!are_set(&sockets));
        // The clock of the test has jumped there before this returns.
        sleep(2 * pause).await;
        assert!(are_set(&sockets));
    }

    #[test]
    fn scans_take_a_fiftieth_of_the_time() {
        for (scan_ms, pause_ms) in [(0, 50), (1, 50), (8, 400), (3_600_000, 500)] {
            let pause = pause_after(Duration::from_millis(scan_ms));
            assert_eq!(pause.as_millis(), pause_ms, "{scan_ms}");
        }
    }
}
