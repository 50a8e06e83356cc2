//! A real redis-server on its own TCP port and Unix socket, killed on drop.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ::redis::aio::MultiplexedConnection;
use ::redis::{Client, FromRedisValue};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::process::Command;

use crate::process::Process;

/// How long a server may take to start. It takes milliseconds; a loaded machine may need more.
const START_WITHIN: Duration = Duration::from_secs(20);

/// A running redis-server, killed on drop.
///
/// # Example
/// ```no_run
/// # use testkit::redis::Server;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let mut redis = Server::start().await;
/// let _: () = redis.command(&["SET", "key", "value"]).await;
/// redis.kill().await; // Connections to its port are refused now.
/// redis.restart().await; // The same port, and no data.
/// assert_eq!(redis.command::<i64>(&["DBSIZE"]).await, 0);
/// # }
/// ```
pub struct Server {
    process: Process,
    port: u16,
    setup: Setup,
    directory: TempDir,
}

/// How a server is started.
#[derive(Debug, Clone)]
struct Setup {
    kind: Kind,
    arguments: Vec<String>,
    /// What its wall clock is ahead of the machine's, in milliseconds.
    clock_ahead_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A data node.
    Data,
    /// A data node that is not Redis but Valkey.
    Valkey,
    /// A sentinel. Its settings are in a file, which it rewrites.
    Sentinel,
}

impl Server {
    /// Starts an empty server without persistence.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts an empty server with further arguments, such as `["--requirepass", "…"]`.
    ///
    /// # Panics
    /// If redis-server is not installed or does not start.
    pub async fn start_with(arguments: &[&str]) -> Self {
        Self::start_with_clock(arguments, 0).await
    }

    /// As [`Server::start_with`], with a wall clock that is ahead of the machine's by this many milliseconds, or behind
    /// it if the number is negative.
    ///
    /// # Panics
    /// As [`Server::start_with`], or if the C compiler fails.
    pub async fn start_with_clock(arguments: &[&str], clock_ahead_ms: i64) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned());
        let setup = Setup {
            kind: Kind::Data,
            arguments: arguments.collect(),
            clock_ahead_ms,
        };
        Self::start_setup(setup, "").await
    }

    /// As [`Server::start_with`], with the Valkey server that `scripts/setup.sh test` installs.
    ///
    /// # Panics
    /// If it is not installed or does not start.
    pub async fn start_valkey(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned());
        let setup = Setup {
            kind: Kind::Valkey,
            arguments: arguments.collect(),
            clock_ahead_ms: 0,
        };
        Self::start_setup(setup, "").await
    }

    /// Starts a sentinel with these lines as its settings file.
    ///
    /// # Panics
    /// As [`Server::start_with`].
    pub async fn start_sentinel(settings: &str) -> Self {
        let setup = Setup {
            kind: Kind::Sentinel,
            arguments: Vec::new(),
            clock_ahead_ms: 0,
        };
        Self::start_setup(setup, settings).await
    }

    async fn start_setup(setup: Setup, settings: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        if setup.clock_ahead_ms != 0 {
            build_clock(&directory);
        }
        std::fs::write(sentinel_file(&directory), settings).expect("written");
        // Between choosing a free port and binding it, somebody else may take it.
        for _ in 0..20 {
            let port = free_port();
            if let Some(process) = launch(&setup, port, &directory).await {
                return Self {
                    process,
                    port,
                    setup,
                    directory,
                };
            }
        }
        panic!("redis-server found no free port");
    }

    /// Returns the `redis://` URL of the TCP port.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Returns the URL of the Unix socket.
    #[must_use]
    pub fn unix_url(&self) -> String {
        format!("redis+unix://{}?db=0", socket(&self.directory))
    }

    /// Returns the TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Opens a connection for the test itself, over the Unix socket.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn connection(&self) -> MultiplexedConnection {
        let client = Client::open(self.unix_url()).expect("a valid URL");
        client
            .get_multiplexed_async_connection()
            .await
            .expect("the server answers")
    }

    /// Runs one command, such as `["LRANGE", key, "0", "-1"]`, over the Unix socket.
    ///
    /// # Panics
    /// If the command fails.
    pub async fn command<T: FromRedisValue>(&self, parts: &[&str]) -> T {
        let mut command = ::redis::Cmd::new();
        command.arg(parts);
        command
            .query_async(&mut self.connection().await)
            .await
            .expect("the command succeeds")
    }

    /// Returns how many times the server has run a command, such as `lrange`. Calls that failed do not count.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn calls(&self, command: &str) -> u64 {
        let stats: String = self.command(&["INFO", "commandstats"]).await;
        let name = format!("cmdstat_{command}:");
        let Some(figures) = stats.lines().find_map(|line| line.strip_prefix(&name)) else {
            return 0;
        };
        let figure = |name: &str| -> u64 {
            let value = figures.split(',').find_map(|part| part.strip_prefix(name));
            value.map_or(0, |value| value.trim().parse().expect("a number"))
        };
        figure("calls=") - figure("failed_calls=")
    }

    /// Waits until `replicas` replicas have everything that this server has stored so far.
    ///
    /// WAIT would not do that: it counts only writes of its own connection.
    ///
    /// # Panics
    /// If that takes more than 20 s.
    pub async fn replicated(&self, replicas: usize) {
        let started = Instant::now();
        loop {
            let info: String = self.command(&["INFO", "replication"]).await;
            let own = info
                .lines()
                .find_map(|line| line.strip_prefix("master_repl_offset:"));
            let offset = |line: &str| {
                line.split_once("offset=")?
                    .1
                    .split(',')
                    .next()
                    .map(str::to_owned)
            };
            let has_all =
                |line: &&str| line.contains("state=online") && offset(line).as_deref() == own;
            if info.lines().filter(has_all).count() >= replicas {
                return;
            }
            assert!(
                started.elapsed() < START_WITHIN,
                "the replicas do not follow:\n{info}"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Returns the number of connections that the server has accepted since it started.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn connections_received(&self) -> u64 {
        let info: String = self.command(&["INFO", "stats"]).await;
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("total_connections_received:"));
        line.expect("INFO has the line").parse().expect("a number")
    }

    /// Returns whether the process is running.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Returns whether the server sends any answer, errors included, within 300 ms. A paused server does not.
    #[must_use]
    pub fn answers(&self) -> bool {
        const PATIENCE: Duration = Duration::from_millis(300);
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], self.port));
        let Ok(mut stream) = std::net::TcpStream::connect_timeout(&address, PATIENCE) else {
            return false;
        };
        let mut byte = [0];
        stream.set_read_timeout(Some(PATIENCE)).is_ok()
            && stream.write_all(b"PING\r\n").is_ok()
            && stream.read_exact(&mut byte).is_ok()
    }

    /// Returns the port over which the nodes of a cluster talk to each other.
    #[must_use]
    pub fn bus_port(&self) -> u16 {
        let arguments = &self.setup.arguments;
        let at = arguments
            .iter()
            .position(|argument| argument == "--cluster-port");
        let given = at
            .and_then(|at| arguments.get(at + 1))
            .and_then(|port| port.parse().ok());
        given.unwrap_or_else(|| self.port.wrapping_add(10_000))
    }

    /// Kills the server, as a crash would. Connections to its port are refused afterwards.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// Kills the server if it runs, and starts it again on the same port with the data that it persisted: by default
    /// none.
    ///
    /// # Panics
    /// If the server does not start.
    pub async fn restart(&mut self) {
        self.process.kill().await;
        let started = Instant::now();
        while started.elapsed() < START_WITHIN {
            if let Some(process) = launch(&self.setup, self.port, &self.directory).await {
                self.process = process;
                return;
            }
        }
        panic!("redis-server did not restart on port {}", self.port);
    }

    /// Starts the server again with further arguments, and does not wait until it has loaded its data.
    ///
    /// # Panics
    /// If the server does not begin to listen.
    pub async fn restart_loading(&mut self, arguments: &[&str]) {
        self.process.kill().await;
        let mut setup = self.setup.clone();
        let arguments = arguments.iter().map(|argument| (*argument).to_owned());
        setup.arguments.extend(arguments);
        let mut process = spawn(&setup, self.port, &self.directory);
        let started = Instant::now();
        // It listens before it loads, and answers LOADING until it has.
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(
                process.is_running() && started.elapsed() < START_WITHIN,
                "{}",
                process.output()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.process = process;
    }

    /// Pauses the process: connections stay open and nothing is answered.
    pub fn pause(&self) {
        self.process.stop();
    }

    /// Resumes a paused process.
    pub fn resume(&self) {
        self.process.signal(Signal::CONT);
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    listener.local_addr().expect("bound").port()
}

fn socket(directory: &TempDir) -> String {
    directory
        .path()
        .join("redis.sock")
        .to_str()
        .expect("UTF-8")
        .to_owned()
}

fn sentinel_file(directory: &TempDir) -> PathBuf {
    directory.path().join("sentinel.conf")
}

/// Builds the library that sets a server's clock.
fn build_clock(directory: &TempDir) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/clock_ahead.c");
    let built = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(clock(directory))
        .arg(source)
        .status();
    assert!(
        built.is_ok_and(|status| status.success()),
        "cc could not build {source}"
    );
}

fn clock(directory: &TempDir) -> PathBuf {
    directory.path().join("clock_ahead.so")
}

fn spawn(setup: &Setup, port: u16, directory: &TempDir) -> Process {
    let Setup {
        kind,
        arguments,
        clock_ahead_ms,
    } = setup;
    let mut command = Command::new(match kind {
        Kind::Data | Kind::Sentinel => "redis-server",
        Kind::Valkey => concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../.tools/valkey/bin/valkey-server"
        ),
    });
    if *clock_ahead_ms != 0 {
        command
            .env("LD_PRELOAD", clock(directory))
            .env("CLOCK_AHEAD_MILLISECONDS", clock_ahead_ms.to_string());
    }
    let port = port.to_string();
    match kind {
        Kind::Data | Kind::Valkey => {
            command
                .args([
                    "--port",
                    &port,
                    "--bind",
                    "127.0.0.1",
                    "--unixsocket",
                    &socket(directory),
                ])
                .args([
                    "--save",
                    "",
                    "--appendonly",
                    "no",
                    "--enable-debug-command",
                    "yes",
                    "--dir",
                ])
                .arg(directory.path())
                .args(arguments);
        }
        Kind::Sentinel => {
            command
                .arg(sentinel_file(directory))
                .args([
                    "--sentinel",
                    "--port",
                    &port,
                    "--bind",
                    "127.0.0.1",
                    "--dir",
                ])
                .arg(directory.path());
        }
    }
    Process::spawn(command).unwrap_or_else(|error| {
        panic!("redis-server cannot be started ({error}): install it with your package manager")
    })
}

/// Starts a server and waits until it answers; returns `None` if it exits instead.
async fn launch(setup: &Setup, port: u16, directory: &TempDir) -> Option<Process> {
    let mut process = spawn(setup, port, directory);
    let ready = match setup.kind {
        Kind::Data | Kind::Valkey => "eady to accept connections",
        Kind::Sentinel => "+monitor master",
    };
    let started = Instant::now();
    while process.is_running() {
        // Its readiness shows in its log: no password is needed for that, and no connection is left behind.
        if process.output().contains(ready) {
            return Some(process);
        }
        assert!(
            started.elapsed() < START_WITHIN,
            "redis-server did not answer in time:\n{}",
            process.output()
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    None
}
