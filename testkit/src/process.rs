//! A child process whose output is collected and which is killed when its owner is dropped.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{getpeername, getsockname, sockopt};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, Signal, getrlimit, kill_process,
    pidfd_getfd, pidfd_open, prlimit,
};
use tokio::process::{Child, Command};

pub(crate) struct Process {
    child: Child,
    pid: u32,
    output: Arc<Mutex<String>>,
    held: Arc<Held>,
    /// Threads and not tasks, so that `drop`, which cannot await, can wait for the last output.
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    pub(crate) fn spawn(mut command: Command) -> std::io::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = Arc::new(Mutex::new(String::new()));
        let held = Arc::new(Held::default());
        let readers = vec![
            collect(
                child.stdout.take().expect("piped").into_owned_fd()?,
                &output,
                &held,
            ),
            collect(
                child.stderr.take().expect("piped").into_owned_fd()?,
                &output,
                &held,
            ),
        ];
        let pid = child.id().expect("just started");
        Ok(Self {
            child,
            pid,
            output,
            held,
            readers,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn output(&self) -> String {
        self.output.lock().expect("not poisoned").clone()
    }

    /// Stops reading the output (`true`), so that the process blocks once the pipe is full, or reads on (`false`).
    pub(crate) fn hold_output(&self, held: bool) {
        *self.held.held.lock().expect("not poisoned") = held;
        self.held.changed.notify_all();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // Once it has been waited for, its number may be somebody else's.
        if self.child.id().is_some() {
            // An error means that it has ended already.
            let _ = kill_process(self.raw_pid(), signal);
        }
    }

    /// Returns the process's TCP connections: own port, peer's port, and whether `TCP_NODELAY` is set.
    pub(crate) fn connections(&self) -> std::io::Result<Vec<(u16, u16, bool)>> {
        let process = pidfd_open(self.raw_pid(), PidfdFlags::empty())?;
        let mut connections = Vec::new();
        for entry in std::fs::read_dir(format!("/proc/{}/fd", self.pid))? {
            let path = entry?.path();
            let is_socket = std::fs::read_link(&path)
                .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
            let number = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.parse().ok());
            let (true, Some(number)) = (is_socket, number) else {
                continue;
            };
            let socket = pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?;
            let peer = getpeername(&socket)
                .ok()
                .flatten()
                .and_then(|peer| SocketAddr::try_from(peer).ok());
            if let (Some(peer), Ok(nodelay)) = (peer, sockopt::tcp_nodelay(&socket)) {
                let own = getsockname(&socket)
                    .ok()
                    .and_then(|own| SocketAddr::try_from(own).ok());
                connections.push((own.map_or(0, |own| own.port()), peer.port(), nodelay));
            }
        }
        Ok(connections)
    }

    /// Lowers the soft limit of open descriptors to none (`true`), or raises it to the hard one. What is open stays
    /// open.
    pub(crate) fn withhold_descriptors(&self, withheld: bool) -> std::io::Result<()> {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let current = if withheld { Some(0) } else { maximum };
        let limit = Rlimit { current, maximum };
        prlimit(Some(self.raw_pid()), Resource::Nofile, limit)?;
        Ok(())
    }

    fn raw_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.pid).expect("a pid")).expect("not zero")
    }

    /// Pauses the process and waits until every thread has stopped: the signal alone only requests that.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        let asked = std::time::Instant::now();
        while !self.stands_still() {
            assert!(
                asked.elapsed() < Duration::from_secs(10),
                "the process did not stop in time"
            );
            std::thread::yield_now();
        }
    }

    /// Returns whether each thread of the process has stopped or ended.
    fn stands_still(&self) -> bool {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.pid)) else {
            return true;
        };
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // The name before the state is in parentheses, and may hold some.
            let state = stat
                .rsplit_once(") ")
                .and_then(|(_, rest)| rest.chars().next());
            matches!(state, None | Some('T' | 'Z' | 'X'))
        })
    }

    /// Kills the process and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        let _ = self.child.start_kill();
        let _ = self.child.wait().await;
    }

    /// Waits until the process exits by itself and all its output is collected.
    pub(crate) async fn wait(&mut self, at_most: Duration) -> Option<ExitStatus> {
        let status = tokio::time::timeout(at_most, self.child.wait())
            .await
            .ok()?
            .ok()?;
        self.read_to_end();
        Some(status)
    }

    /// Kills the process, and waits until it is gone and all its output is collected.
    pub(crate) fn end(&mut self) {
        self.hold_output(false);
        self.signal(Signal::CONT);
        let _ = self.child.start_kill();
        // It has been killed, so this is short.
        while let Ok(None) = self.child.try_wait() {
            std::thread::yield_now();
        }
        self.read_to_end();
    }

    fn read_to_end(&mut self) {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

/// Whether reading of the output is paused.
#[derive(Default)]
struct Held {
    held: Mutex<bool>,
    changed: Condvar,
}

impl Held {
    fn wait(&self) {
        let held = self.held.lock().expect("not poisoned");
        let _released = self.changed.wait_while(held, |held| *held);
    }
}

/// No process outlives its owner.
impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

fn collect(stream: OwnedFd, into: &Arc<Mutex<String>>, held: &Arc<Held>) -> JoinHandle<()> {
    let (into, held) = (Arc::clone(into), Arc::clone(held));
    std::thread::spawn(move || {
        let mut stream = BufReader::new(std::fs::File::from(stream));
        let mut line = Vec::new();
        while stream
            .read_until(b'\n', &mut line)
            .is_ok_and(|read| read > 0)
        {
            let text = String::from_utf8_lossy(&line);
            into.lock().expect("not poisoned").push_str(&text);
            line.clear();
            held.wait();
        }
    })
}
