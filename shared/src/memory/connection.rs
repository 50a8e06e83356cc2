//! The connection to Redis: made at first use, reused by every invocation, replaced when it fails.
//!
//! An operation has one budget, in which connecting, retries and the pauses between them must fit. A connection that was
//! idle may be dead without this process knowing (closed by the server, dropped by a gateway on the way, or the process
//! was frozen), so the first failure on one is answered by a new connection at once; and because a half-open socket
//! never answers at all, the first answer on an idle connection is given only a part of the budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, Pipeline, RedisError,
    RedisResult, ScriptInvocation, ServerErrorKind, Value,
};
use secrecy::ExposeSecret;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Error;
use super::breaker::{Admission, Breaker, Rules};
use crate::config::{ConfigError, MemoryConfig, RedisConfig, RedisMode};

/// Attempts after the first, and the pause before each.
const RETRIES: u32 = 2;
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What a turn waits, at most, to learn whether a Redis that was down is back.
const PROBE_WAIT: Duration = Duration::from_millis(50);

/// A connection that was silent for longer is not trusted to be alive.
const IDLE_SUSPECT: Duration = Duration::from_secs(5);

/// The operating system gives a peer up that has not acknowledged for so long, so that no dead socket lingers.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// One request: everything that goes to Redis in one round trip.
pub(super) enum Call<'a> {
    /// Commands in one packet.
    Pipeline(&'a Pipeline),
    /// A script by its digest; loaded if the server does not know it.
    Script(&'a ScriptInvocation<'a>),
}

impl Call<'_> {
    async fn send(&self, connection: &mut MultiplexedConnection) -> RedisResult<Value> {
        match self {
            Self::Pipeline(pipeline) => pipeline.query_async(connection).await,
            Self::Script(invocation) => invocation.invoke_async(connection).await,
        }
    }
}

/// How connections are made. Sentinel and Cluster are further variants, and nothing else here depends on which it is.
enum Topology {
    Standalone(Client),
}

impl Topology {
    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        // Time limits are this module's, by budget: the client's own would cut into them.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        match self {
            Self::Standalone(client) => {
                client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await
            }
        }
    }
}

/// The connection in use.
struct Live {
    connection: MultiplexedConnection,
    generation: u64,
    /// When Redis last answered on it, in Unix milliseconds: a monotonic clock may stand still during a freeze.
    answered_at: Arc<AtomicU64>,
}

/// A connection as one attempt uses it.
struct Link {
    connection: MultiplexedConnection,
    generation: u64,
    answered_at: Arc<AtomicU64>,
    reused: bool,
}

impl Link {
    fn idle(&self) -> Duration {
        Duration::from_millis(
            unix_milliseconds().saturating_sub(self.answered_at.load(Ordering::Relaxed)),
        )
    }
}

/// Why an attempt failed.
enum Failure {
    /// No answer in time, on a connection that was reused or not.
    Timeout { reused: bool },
    /// The connection could not be made.
    Connect(RedisError),
    /// The connection broke, or the server answered with an error.
    Command { error: RedisError, reused: bool },
}

impl Failure {
    /// Whether the connection was dead before this attempt, which then cost nothing but the discovery.
    fn was_found_dead(&self) -> bool {
        match self {
            Self::Timeout { reused } => *reused,
            Self::Command { error, reused } => *reused && error.is_unrecoverable_error(),
            Self::Connect(_) => false,
        }
    }

    /// Whether the server may answer differently in a moment.
    fn is_passing(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Connect(error) => error.kind() != ErrorKind::AuthenticationFailed,
            Self::Command { error, .. } => is_outage(error),
        }
    }

    /// Whether it tells of the server rather than of this request.
    fn is_outage(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Connect(_) => true,
            Self::Command { error, .. } => is_outage(error),
        }
    }
}

/// Whether the server is in no state to serve, as opposed to refusing this request.
fn is_outage(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Io | ErrorKind::Parse | ErrorKind::AuthenticationFailed => true,
        ErrorKind::Server(kind) => matches!(
            kind,
            ServerErrorKind::BusyLoading
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::TryAgain
        ),
        _ => false,
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Timeout { .. } => Self::Timeout,
            Failure::Connect(error) | Failure::Command { error, .. } => Self::Redis(error),
        }
    }
}

/// The way to Redis. Cheap to clone; clones share the connection and the breaker.
#[derive(Clone)]
pub(super) struct Redis {
    inner: Arc<Inner>,
}

struct Inner {
    topology: Topology,
    /// Held while connecting, so that many turns at once make one connection.
    live: Mutex<Option<Live>>,
    generations: AtomicU64,
    breaker: Breaker,
    /// Wakes those who wait for a probe.
    probed: Notify,
    probe_budget: Duration,
}

impl Redis {
    /// Touches no network: an outage is not a crash at start.
    pub(super) fn new(redis: &RedisConfig, memory: &MemoryConfig) -> Result<Self, ConfigError> {
        Ok(Self {
            inner: Arc::new(Inner {
                topology: topology(redis)?,
                live: Mutex::new(None),
                generations: AtomicU64::new(0),
                breaker: Breaker::new(Rules {
                    failures: memory.breaker_failures,
                    cooldown: memory.breaker_cooldown,
                }),
                probed: Notify::new(),
                probe_budget: memory.read_timeout,
            }),
        })
    }

    /// Sends `call` and gives the answer, within `budget`.
    pub(super) async fn run(&self, budget: Duration, call: &Call<'_>) -> Result<Value, Error> {
        let deadline = Instant::now() + budget;
        self.admit().await?;
        let mut retries = 0;
        loop {
            let failure = match self.inner.attempt(call, deadline).await {
                Ok(value) => {
                    self.inner.breaker.succeeded();
                    return Ok(value);
                }
                Err(failure) => failure,
            };
            if failure.was_found_dead() && Instant::now() < deadline {
                continue;
            }
            if !failure.is_passing()
                || retries == RETRIES
                || Instant::now() + RETRY_PAUSE >= deadline
            {
                if failure.is_outage() {
                    self.inner.breaker.failed(SystemTime::now());
                } else {
                    self.inner.breaker.succeeded();
                }
                return Err(failure.into());
            }
            retries += 1;
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Passes at once while Redis is thought to be up. Otherwise sees to it that somebody asks, and waits a moment for the
    /// answer, so that the first turn after an outage has its memory.
    async fn admit(&self) -> Result<(), Error> {
        let probed = self.inner.probed.notified();
        tokio::pin!(probed);
        probed.as_mut().enable();
        match self.inner.breaker.admit(SystemTime::now()) {
            Admission::Admitted => return Ok(()),
            Admission::Refused => return Err(Error::BreakerOpen),
            Admission::Probing => {}
            Admission::StartProbe => {
                let probe = Probe {
                    inner: Arc::clone(&self.inner),
                };
                // Not awaited: it ends within its budget, and the turn must not wait that long.
                tokio::spawn(probe.run());
            }
        }
        let _ = timeout(PROBE_WAIT, probed).await;
        if self.inner.breaker.is_closed() {
            Ok(())
        } else {
            Err(Error::BreakerOpen)
        }
    }
}

impl Inner {
    async fn attempt(&self, call: &Call<'_>, deadline: Instant) -> Result<Value, Failure> {
        let mut link = timeout_at(deadline, self.link())
            .await
            .map_err(|_| Failure::Timeout { reused: false })?
            .map_err(Failure::Connect)?;
        let suspect = link.reused && link.idle() > IDLE_SUSPECT;
        let limit = if suspect {
            let left = deadline.saturating_duration_since(Instant::now());
            deadline - left.mul_f32(0.6)
        } else {
            deadline
        };
        match timeout_at(limit, call.send(&mut link.connection)).await {
            Ok(Ok(value)) => {
                link.answered_at
                    .store(unix_milliseconds(), Ordering::Relaxed);
                Ok(value)
            }
            Ok(Err(error)) => {
                let wrong_server = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
                if error.is_unrecoverable_error() || wrong_server {
                    self.discard(link.generation).await;
                }
                Err(Failure::Command {
                    error,
                    reused: link.reused,
                })
            }
            Err(_) => {
                self.discard(link.generation).await;
                Err(Failure::Timeout {
                    reused: link.reused,
                })
            }
        }
    }

    /// The connection in use, or a new one.
    async fn link(&self) -> RedisResult<Link> {
        let mut live = self.live.lock().await;
        if let Some(live) = &*live {
            return Ok(Link {
                connection: live.connection.clone(),
                generation: live.generation,
                answered_at: Arc::clone(&live.answered_at),
                reused: true,
            });
        }
        let connection = self.topology.connect().await?;
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let answered_at = Arc::new(AtomicU64::new(unix_milliseconds()));
        *live = Some(Live {
            connection: connection.clone(),
            generation,
            answered_at: Arc::clone(&answered_at),
        });
        Ok(Link {
            connection,
            generation,
            answered_at,
            reused: false,
        })
    }

    /// Drops the connection, unless somebody has replaced it already.
    async fn discard(&self, generation: u64) {
        let mut live = self.live.lock().await;
        if live
            .as_ref()
            .is_some_and(|live| live.generation == generation)
        {
            *live = None;
        }
    }
}

/// The one question whether Redis is back. However it ends, the breaker and those who wait learn of it.
struct Probe {
    inner: Arc<Inner>,
}

impl Probe {
    async fn run(self) {
        let deadline = Instant::now() + self.inner.probe_budget;
        let mut ping = redis::pipe();
        ping.cmd("PING");
        let mut outcome = self.inner.attempt(&Call::Pipeline(&ping), deadline).await;
        if outcome.as_ref().is_err_and(Failure::was_found_dead) {
            outcome = self.inner.attempt(&Call::Pipeline(&ping), deadline).await;
        }
        if outcome.is_ok() {
            self.inner.breaker.succeeded();
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // After a success the breaker is closed and this changes nothing.
        self.inner.breaker.probe_failed(SystemTime::now());
        self.inner.probed.notify_waiters();
    }
}

fn topology(config: &RedisConfig) -> Result<Topology, ConfigError> {
    let bad_url = |error: RedisError| ConfigError::new("REDIS_URL", error.category().to_owned());
    match config.mode {
        RedisMode::Standalone => {
            let url = config.urls.first().map_or("", |url| url.expose_secret());
            let info = url.into_connection_info().map_err(bad_url)?;
            let mut login = info.redis_settings().clone();
            if let Some(username) = &config.username {
                login = login.set_username(username);
            }
            if let Some(password) = &config.password {
                login = login.set_password(password.expose_secret());
            }
            let tcp = TcpSettings::default()
                .set_nodelay(true)
                .set_keepalive(TcpKeepalive::new().with_time(TCP_KEEPALIVE))
                .set_user_timeout(TCP_USER_TIMEOUT);
            let info = info.set_redis_settings(login).set_tcp_settings(tcp);
            Client::open(info)
                .map(Topology::Standalone)
                .map_err(bad_url)
        }
        RedisMode::Sentinel | RedisMode::Cluster => Err(ConfigError::new(
            "REDIS_MODE",
            "only standalone is supported in this version",
        )),
    }
}

fn unix_milliseconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}
