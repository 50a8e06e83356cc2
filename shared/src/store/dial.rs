//! Opens connections to single servers: TCP or a Unix socket, TLS, login. Trusted authorities are read once, when the
//! process starts.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::socket2::{SockRef, TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, Pipeline, RedisConnectionInfo, RedisError, RedisResult,
    Value,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::address::Address;
use super::call::server_error;
use super::login::Login;
use crate::config::{ConfigError, RedisConfig};
use crate::outbound::{Trust, race};
use crate::secrets::{self, Value as Password};

/// Time without an acknowledgement after which the operating system closes a connection, so that no dead socket
/// lingers.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle time after which the operating system probes a connection.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
/// Time after which a second attempt to connect starts beside a silent one. A host that drops packets while it
/// restarts is then reached this soon after it is back, instead of after TCP's retransmission a second later.
const HEAD_START: Duration = Duration::from_millis(250);
/// Attempts to connect to a host that has fewer addresses than this.
const MIN_ATTEMPTS: usize = 4;

/// Why no connection could be opened.
#[derive(Debug)]
pub(super) enum ConnectError {
    /// The server could not be reached, or TLS failed.
    Io(io::Error),
    /// The server replied with an error, for example to the login.
    Server(RedisError),
    /// The password could not be fetched.
    Secret(secrets::Error),
    /// No sentinel knows the master, or no node of a cluster serves the slot.
    NobodyServes,
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl ConnectError {
    /// Returns whether the server may accept another password.
    pub(super) fn is_refused_login(&self) -> bool {
        matches!(self, Self::Server(error) if error.kind() == ErrorKind::AuthenticationFailed)
    }
}

/// An open connection to one server. Cheap to clone; clones share the socket, which closes with the last of them,
/// even if requests are still unanswered.
#[derive(Clone)]
pub(super) struct Connection {
    requests: MultiplexedConnection,
    _driver: Arc<AbortOnDropHandle<()>>,
}

impl Connection {
    /// Sends one command and returns the reply. Sets no time limit.
    pub(super) async fn command(&mut self, command: &Cmd) -> RedisResult<Value> {
        let reply = self.requests.send_packed_command(command).await?;
        server_error(&reply).map_or(Ok(reply), Err)
    }

    /// Sends commands in one packet and returns one value for each; an error reply is a [`Value::ServerError`]. Sets no
    /// time limit.
    pub(super) async fn commands(&mut self, commands: &Pipeline) -> RedisResult<Vec<Value>> {
        self.requests
            .send_packed_commands(commands, 0, commands.len())
            .await
    }
}

/// Opens connections. Cheap to share.
pub(super) struct Dialer {
    /// Used for every address with TLS. Its session cache makes reconnecting cheaper.
    tls: Option<TlsConnector>,
    login: Login,
    /// The login of the first URL.
    from_url: RedisConnectionInfo,
}

impl Dialer {
    /// Returns a dialer for these servers. Reads the CA file, if there is one, and opens no connection.
    ///
    /// # Errors
    /// The CA file cannot be used, or is set although no address uses TLS.
    pub(super) fn new(
        redis: &RedisConfig,
        addresses: &[Address],
        login: Login,
        from_url: RedisConnectionInfo,
    ) -> Result<Self, ConfigError> {
        const CA_FILE: &str = "REDIS_TLS_CA_FILE";
        let ca_file = redis.tls_ca_file.as_deref();
        let tls = if addresses.iter().any(Address::is_tls) {
            let config = Trust::from_setting(CA_FILE, ca_file)?
                .into_client_config()
                .map_err(|_| ConfigError::new("REDIS_URL", "TLS cannot be set up"))?;
            Some(TlsConnector::from(Arc::new(config)))
        } else if ca_file.is_some() {
            return Err(ConfigError::new(
                CA_FILE,
                "is set, but REDIS_URL is not rediss://",
            ));
        } else {
            None
        };
        Ok(Self {
            tls,
            login,
            from_url,
        })
    }

    /// Opens a connection to a data node and logs in. If the server rejects the password and `may_renew` is true, the
    /// password is fetched again, and a different one is tried.
    pub(super) async fn open(
        &self,
        address: &Address,
        may_renew: bool,
    ) -> Result<Connection, ConnectError> {
        let password = self.login.password().await.map_err(ConnectError::Secret)?;
        let error = match self.open_with(address, password.as_ref()).await {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        let Some(password) = password.filter(|_| may_renew && error.is_refused_login()) else {
            return Err(error);
        };
        match self.login.refused(&password).await {
            Some(other) => self.open_with(address, Some(&other)).await,
            None => Err(error),
        }
    }

    async fn open_with(
        &self,
        address: &Address,
        password: Option<&Password>,
    ) -> Result<Connection, ConnectError> {
        self.open_as(address, &self.login.over(&self.from_url, password))
            .await
    }

    /// Opens a connection with this login.
    pub(super) async fn open_as(
        &self,
        address: &Address,
        login: &RedisConnectionInfo,
    ) -> Result<Connection, ConnectError> {
        match address {
            Address::Unix(path) => ready(UnixStream::connect(path).await?, login).await,
            Address::Tcp { host, port, tls } => {
                let stream = connect(host, *port).await?;
                if !tls {
                    return ready(stream, login).await;
                }
                let name = ServerName::try_from(host.clone())
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
                // `new` sets it up if any configured address uses TLS, and only those name further ones.
                let tls = self
                    .tls
                    .as_ref()
                    .ok_or(io::ErrorKind::Unsupported)
                    .map_err(io::Error::from)?;
                ready(tls.connect(name, stream).await?, login).await
            }
        }
    }
}

/// Logs in and returns the connection.
async fn ready<S>(stream: S, login: &RedisConnectionInfo) -> Result<Connection, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // Every operation sets its own time limit, and the client's limits would interfere.
    let unlimited = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    let (requests, driver) = MultiplexedConnection::new_with_config(login, stream, unlimited)
        .await
        .map_err(ConnectError::Server)?;
    Ok(Connection {
        requests,
        // The connection owns this task and ends it when it is dropped.
        _driver: Arc::new(AbortOnDropHandle::new(tokio::spawn(driver))),
    })
}

/// Connects to the first address of a host that answers. After the last address, silent ones are tried again from the
/// first, because a lost packet is common while a host restarts.
async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    let attempts = addresses.len().max(MIN_ATTEMPTS);
    let attempts = addresses.into_iter().cycle().take(attempts);
    let (_, stream) = race(attempts, HEAD_START, TcpStream::connect).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    Ok(stream)
}
