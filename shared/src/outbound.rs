//! The one HTTP client for calls that leave this process: to the upstream, and for published keys.
//!
//! It is built once, touches no network until it is used, and keeps its connections for later invocations.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
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

/// Idle connections are closed here before a gateway on the way drops them in silence (350 s is usual).
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Finds a dead peer while a stream is silent.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

type Connector = BoxCloneSyncService<Uri, MaybeHttpsStream<TokioIo<TcpStream>>, BoxError>;

/// The client. Cheap to clone; clones share connections.
pub(crate) type HttpClient = Client<Connector, Full<Bytes>>;

/// TLS could not be set up. It depends on nothing but the compiled-in algorithms.
#[derive(Debug, thiserror::Error)]
#[error("TLS could not be set up")]
pub struct TlsSetupError(#[from] rustls::Error);

/// Builds the client. Connecting takes at most `connect_timeout`, from the look-up of the name to the end of the TLS
/// handshake.
pub(crate) fn http_client(connect_timeout: Duration) -> Result<HttpClient, TlsSetupError> {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(TCP_KEEPALIVE));
    tcp.enforce_http(false);
    let roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new())
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_timer(TokioTimer::new())
        .build(BoxCloneSyncService::new(Timeout::new(
            https,
            connect_timeout,
        ))))
}
