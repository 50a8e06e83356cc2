//! The arrangement of the Redis servers, and how to connect to them.
//!
//! Only connecting uses the network. Certificates and settings are read and checked at start.

use std::time::Duration;

use futures_util::future::select_ok;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo, Pipeline, RedisConnectionInfo, RedisError, RedisFuture, RedisResult,
    TlsCertificates, TlsMode, Value,
};
use secrecy::ExposeSecret;

use super::login::Login;
use crate::config::{ConfigError, MemoryConfig, RedisConfig, RedisMode};
use crate::secrets::{Secrets, Value as Password};

/// Time without an acknowledgement after which the operating system closes a connection, so that no dead socket
/// lingers.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle time after which the operating system probes a connection.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// Number of retries of the cluster client within one attempt. It follows redirections and reconnects to single
/// nodes; the `connection` module decides when to wait and when to give up.
const CLUSTER_RETRIES: u32 = 6;
/// Shortest and longest pause between retries of the cluster client, in milliseconds.
const CLUSTER_RETRY_WAIT_MS: (u64, u64) = (10, 50);

/// An open connection. Cheap to clone; clones share the sockets.
#[derive(Clone)]
pub(super) enum Connection {
    /// A connection to one server: a standalone one, or the master that the sentinels name.
    Server(MultiplexedConnection),
    /// Connections to all servers of a cluster.
    Cluster(ClusterConnection),
}

impl Connection {
    /// Returns whether the connection reaches several servers, so that requests to the others may succeed while one
    /// is down.
    pub(super) fn is_many(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Server(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Server(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Server(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// The servers to connect to, and the login they require.
pub(super) struct Topology {
    arrangement: Arrangement,
    login: Login,
}

enum Arrangement {
    Standalone(Client),
    Sentinel(Sentinels),
    Cluster(Box<ClusterClient>),
}

/// The sentinels, and the credentials for them and for the servers that they name.
struct Sentinels {
    addresses: Vec<ConnectionAddr>,
    /// The name of the monitored master, from `REDIS_SENTINEL_MASTER`.
    master: String,
    /// The settings for the data nodes from the first URL: database, user and password.
    node: RedisConnectionInfo,
    /// The credentials for the sentinels themselves.
    sentinel: RedisConnectionInfo,
    tls: bool,
    certificates: Option<TlsCertificates>,
}

impl Topology {
    /// Returns the configured topology. Reads the CA file and opens no connection.
    ///
    /// # Errors
    /// A `REDIS_…` setting is invalid, or the CA file cannot be used.
    pub(super) fn new(
        redis: &RedisConfig,
        memory: &MemoryConfig,
        secrets: &Secrets,
    ) -> Result<Self, ConfigError> {
        let login = Login::new(redis, secrets)?;
        let certificates = certificates(redis)?;
        let infos = redis
            .urls
            .iter()
            .map(|url| url.expose_secret().into_connection_info())
            .collect::<RedisResult<Vec<_>>>()
            .map_err(|error| bad_url(&error))?;
        let tls = infos
            .iter()
            .any(|info| matches!(info.addr(), ConnectionAddr::TcpTls { .. }));
        if tls {
            // It fails only if a provider is installed already.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        } else if certificates.is_some() {
            return Err(ConfigError::new(
                "REDIS_TLS_CA_FILE",
                "is set, but REDIS_URL is not rediss://",
            ));
        }
        let arrangement = match redis.mode {
            RedisMode::Standalone => standalone(infos, certificates),
            RedisMode::Sentinel => sentinels(redis, &infos, &login, tls, certificates),
            RedisMode::Cluster => cluster(redis, memory, &login, infos, certificates),
        }
        .map_err(|error| bad_url(&error))?;
        Ok(Self { arrangement, login })
    }

    /// Opens a connection. If the server may have rejected the password and there is a different one by now, tries
    /// again with that.
    pub(super) async fn connect(&self) -> RedisResult<Connection> {
        let password = self.login.password().await?;
        let error = match self.connect_by(password.as_ref()).await {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        let Some(password) = password.filter(|_| self.may_be_refusal(&error)) else {
            return Err(error);
        };
        match self.login.refused(&password).await {
            Some(other) => self.connect_by(Some(&other)).await,
            None => Err(error),
        }
    }

    /// Makes sure that the next connection to a node uses the current password. For the cluster connection, which
    /// reconnects on its own and does not report why a node refused it.
    pub(super) async fn renew_login(&self) {
        if self.login.changes()
            && let Ok(Some(password)) = self.login.password().await
        {
            let _ = self.login.refused(&password).await;
        }
    }

    async fn connect_by(&self, password: Option<&Password>) -> RedisResult<Connection> {
        match &self.arrangement {
            Arrangement::Standalone(client) => {
                let info = client.get_connection_info();
                let login = self.login.over(info.redis_settings(), password);
                // The address includes the certificates.
                Client::open(info.clone().set_redis_settings(login))?
                    .get_multiplexed_async_connection_with_config(&no_time_limits())
                    .await
                    .map(Connection::Server)
            }
            Arrangement::Sentinel(sentinels) => {
                let login = self.login.over(&sentinels.node, password);
                sentinels.connect(&login).await.map(Connection::Server)
            }
            // The cluster client gets the password from its credentials provider for every connection to a node.
            Arrangement::Cluster(client) => {
                client.get_async_connection().await.map(Connection::Cluster)
            }
        }
    }

    /// Returns whether the server may have rejected the password. The sentinel and cluster clients return one of
    /// several node errors, with its kind erased, so any of their errors may be a rejection.
    fn may_be_refusal(&self, error: &RedisError) -> bool {
        match &self.arrangement {
            Arrangement::Standalone(_) => error.kind() == ErrorKind::AuthenticationFailed,
            Arrangement::Sentinel(_) | Arrangement::Cluster(_) => true,
        }
    }
}

impl Sentinels {
    /// Connects to the master that the fastest sentinel names, once the server confirms that it is a master. All
    /// sentinels are queried at once, so that those that are down cost no time.
    async fn connect(&self, login: &RedisConnectionInfo) -> RedisResult<MultiplexedConnection> {
        let attempts = self.addresses.iter().map(|address| {
            Box::pin(async move {
                let mut client = self.client(address, login)?;
                client
                    .get_async_connection_with_config(&no_time_limits())
                    .await
            })
        });
        select_ok(attempts)
            .await
            .map(|(connection, _others)| connection)
    }

    fn client(
        &self,
        address: &ConnectionAddr,
        login: &RedisConnectionInfo,
    ) -> RedisResult<SentinelClient> {
        let mut builder = SentinelClientBuilder::new(
            [address.clone()],
            &self.master,
            SentinelServerType::Master,
        )?
        .set_client_to_redis_tcp_settings(tcp_settings())
        .set_client_to_sentinel_tcp_settings(tcp_settings())
        .set_client_to_redis_db(login.db());
        if let Some(username) = login.username() {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = login.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if let Some(username) = self.sentinel.username() {
            builder = builder.set_client_to_sentinel_username(username);
        }
        if let Some(password) = self.sentinel.password() {
            builder = builder.set_client_to_sentinel_password(password);
        }
        if self.tls {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
            if let Some(certificates) = &self.certificates {
                builder = builder
                    .set_client_to_redis_certificates(certificates.clone())
                    .set_client_to_sentinel_certificates(certificates.clone());
            }
        }
        builder.build()
    }
}

fn standalone(
    infos: Vec<ConnectionInfo>,
    certificates: Option<TlsCertificates>,
) -> RedisResult<Arrangement> {
    let info = first(infos)?.set_tcp_settings(tcp_settings());
    let client = match certificates {
        Some(certificates) => Client::build_with_tls(info, certificates)?,
        None => Client::open(info)?,
    };
    Ok(Arrangement::Standalone(client))
}

fn sentinels(
    redis: &RedisConfig,
    infos: &[ConnectionInfo],
    login: &Login,
    tls: bool,
    certificates: Option<TlsCertificates>,
) -> RedisResult<Arrangement> {
    let mut sentinel = RedisConnectionInfo::default();
    if let Some(username) = &redis.sentinel_username {
        sentinel = sentinel.set_username(username);
    }
    if let Some(password) = &redis.sentinel_password {
        sentinel = sentinel.set_password(password.expose_secret());
    }
    let from_url = infos
        .first()
        .map(|info| info.redis_settings().clone())
        .unwrap_or_default();
    let sentinels = Sentinels {
        addresses: infos.iter().map(|info| info.addr().clone()).collect(),
        master: redis.sentinel_master.clone(),
        node: from_url,
        sentinel,
        tls,
        certificates,
    };
    // Reports invalid settings at start, before anything is connected.
    for address in &sentinels.addresses {
        sentinels.client(address, &login.over(&sentinels.node, None))?;
    }
    Ok(Arrangement::Sentinel(sentinels))
}

fn cluster(
    redis: &RedisConfig,
    memory: &MemoryConfig,
    login: &Login,
    infos: Vec<ConnectionInfo>,
    certificates: Option<TlsCertificates>,
) -> RedisResult<Arrangement> {
    let from_url = infos
        .first()
        .map(|info| info.redis_settings().clone())
        .unwrap_or_default();
    let budget = memory.read_timeout.min(memory.write_timeout);
    let mut builder = ClusterClientBuilder::new(infos)
        .tcp_settings(tcp_settings())
        // A node that hangs must not use up the budget that the others need.
        .connection_timeout(budget / 4)
        .response_timeout(memory.read_timeout.max(memory.write_timeout))
        .overall_response_timeout(None)
        .retries(CLUSTER_RETRIES)
        .min_retry_wait(CLUSTER_RETRY_WAIT_MS.0)
        .max_retry_wait(CLUSTER_RETRY_WAIT_MS.1);
    if let Some(username) = &redis.username {
        builder = builder.username(username);
    }
    if let Some(password) = login.fixed() {
        builder = builder.password(password.expose_secret());
    } else if login.changes() {
        builder = builder.set_credentials_provider(login.provider(&from_url));
    }
    if let Some(certificates) = certificates {
        builder = builder.certs(certificates);
    }
    builder.build().map(Box::new).map(Arrangement::Cluster)
}

fn first(infos: Vec<ConnectionInfo>) -> RedisResult<ConnectionInfo> {
    let first = infos.into_iter().next();
    first.ok_or_else(|| RedisError::from((ErrorKind::InvalidClientConfig, "there is no URL")))
}

fn certificates(redis: &RedisConfig) -> Result<Option<TlsCertificates>, ConfigError> {
    let Some(path) = &redis.tls_ca_file else {
        return Ok(None);
    };
    let problem = |problem: String| ConfigError::new("REDIS_TLS_CA_FILE", problem);
    let pem = std::fs::read(path).map_err(|error| problem(format!("cannot be read: {error}")))?;
    if !pem
        .windows(BEGIN_CERTIFICATE.len())
        .any(|window| window == BEGIN_CERTIFICATE)
    {
        return Err(problem("holds no certificate in PEM form".to_owned()));
    }
    Ok(Some(TlsCertificates {
        client_tls: None,
        root_cert: Some(pem),
    }))
}

const BEGIN_CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Returns the error for an invalid URL. It holds the client's category and not the URL, which may contain a
/// password.
fn bad_url(error: &RedisError) -> ConfigError {
    ConfigError::new(
        "REDIS_URL",
        format!("cannot be used ({})", error.category()),
    )
}

fn tcp_settings() -> TcpSettings {
    let settings = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(TcpKeepalive::new().with_time(TCP_KEEPALIVE));
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(TCP_USER_TIMEOUT);
    settings
}

/// Returns a configuration without time limits: every operation sets its own, and the client's limits would
/// interfere.
fn no_time_limits() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
}
