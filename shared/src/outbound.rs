//! The one HTTP client for calls that leave this process: to the upstream, for published keys, and to AWS.
//!
//! It is built once, touches no network until it is used, and keeps its connections for later invocations.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use tokio::net::TcpStream;
use tower::BoxError;
use tower::timeout::Timeout;
use tower::util::BoxCloneSyncService;

/// After so long without a request, by the wall clock, connections are not trusted: gateways drop idle ones in silence, and
/// the pool's own limit goes by a clock that may stand still while the process is frozen.
const IDLE_SUSPECT: Duration = Duration::from_secs(60);
/// The pool's limit, for a process that is not frozen.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Finds a dead peer while a stream is silent.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// The operating system gives a peer up that has not acknowledged for so long.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

type Connector = BoxCloneSyncService<Uri, MaybeHttpsStream<TokioIo<TcpStream>>, BoxError>;
type Pool = Client<Connector, Full<Bytes>>;

/// TLS could not be set up. It depends on nothing but the compiled-in algorithms.
#[derive(Debug, thiserror::Error)]
#[error("TLS could not be set up")]
pub struct TlsSetupError(#[from] rustls::Error);

/// The client. Cheap to clone; clones share connections.
#[derive(Clone)]
pub(crate) struct HttpClient {
    connector: Connector,
    /// Held for a few instructions and never across an await.
    pool: Arc<Mutex<(Pool, SystemTime)>>,
}

impl HttpClient {
    /// Builds it. Connecting takes at most `connect_timeout`, from the look-up of the name to the end of the TLS handshake.
    pub(crate) fn new(connect_timeout: Duration) -> Result<Self, TlsSetupError> {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(TCP_KEEPALIVE));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
        tcp.enforce_http(false);
        let roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        let tls =
            rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots)
                .with_no_client_auth();
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let connector = BoxCloneSyncService::new(Timeout::new(https, connect_timeout));
        let pool = Arc::new(Mutex::new((pool(&connector), SystemTime::now())));
        Ok(Self { connector, pool })
    }

    /// Sends a request over a connection that was used lately, or over a new one.
    pub(crate) async fn request(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, hyper_util::client::legacy::Error> {
        let pool = self.pool(SystemTime::now());
        pool.request(request).await
    }

    fn pool(&self, now: SystemTime) -> Pool {
        let mut current = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let (in_use, used_at) = &mut *current;
        if now
            .duration_since(*used_at)
            .is_ok_and(|idle| idle > IDLE_SUSPECT)
        {
            *in_use = pool(&self.connector);
        }
        *used_at = now;
        in_use.clone()
    }
}

fn pool(connector: &Connector) -> Pool {
    Client::builder(TokioExecutor::new())
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_timer(TokioTimer::new())
        .build(connector.clone())
}
