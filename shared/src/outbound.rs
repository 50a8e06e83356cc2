//! The HTTP client for all requests that leave this process: to the upstream, to the publisher of keys, and to AWS.
//!
//! It is built once, touches no network until it is used, and keeps its connections for later invocations.

mod dial;
mod failure;
mod route;
mod trust;

use std::error::Error as StdError;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::PROXY_AUTHORIZATION;
use http::{Extensions, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};

pub(crate) use self::dial::race;
pub(crate) use self::failure::Failure;
use self::route::{Route, Use};
pub(crate) use self::trust::Trust;
use crate::clock::lock;
use crate::config::ConfigError;

/// The error of a request that could not be sent or answered.
pub(crate) type Error = hyper_util::client::legacy::Error;

/// The time without a request, on the wall clock, after which connections are no longer used. Gateways drop idle
/// connections in silence, and the pool's own limit uses a clock that may stand still while the process is frozen.
const IDLE_SUSPECT: Duration = Duration::from_secs(60);
/// The pool's own limit for idle connections, for a process that is not frozen.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(90);

type Pool = Client<Route, Full<Bytes>>;

/// The error of a client whose TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// TLS could not be set up. This depends only on the compiled-in algorithms.
    #[error("TLS could not be set up")]
    Tls(#[from] rustls::Error),
    /// The file of a private certificate authority cannot be used.
    #[error(transparent)]
    CaFile(#[from] ConfigError),
}

/// An HTTP client. Cheap to clone; clones share connections.
#[derive(Clone)]
pub(crate) struct HttpClient {
    route: Route,
    /// Pool of connections, and the time of the last request. Locked for a few instructions and never across an await.
    pool: Arc<Mutex<(Pool, SystemTime)>>,
}

impl HttpClient {
    /// Builds a client that trusts these certificate authorities. Connecting takes at most `connect_timeout`, which
    /// includes the look-up of the name and the TLS handshake.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub(crate) fn trusting(trust: Trust, connect_timeout: Duration) -> Result<Self, TlsSetupError> {
        let route = Route::new(connect_timeout, trust.into_client_config()?);
        let pool = Arc::new(Mutex::new((pool(&route), SystemTime::now())));
        Ok(Self { route, pool })
    }

    /// Sends a request over a new or recently used connection, and returns the response. If a used connection breaks
    /// before the first byte of the response, the peer had closed it, and the request is sent once more over a new one.
    pub(crate) async fn request(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Error> {
        let uri = request.uri().clone();
        if let Some(authorization) = self.route.proxy_authorization(&uri) {
            request
                .headers_mut()
                .insert(PROXY_AUTHORIZATION, authorization);
        }
        let again = request.clone();
        let sent = self.send(self.pool(SystemTime::now()), request).await;
        let (error, was_stale) = match sent {
            Ok(response) => return Ok(response),
            Err(failed) => failed,
        };
        let error = if was_stale {
            match self.send(self.fresh_pool(), again).await {
                Ok(response) => return Ok(response),
                Err((error, _)) => error,
            }
        } else {
            error
        };
        // A failure to connect has already put another address first.
        if !error.is_connect() {
            self.route.blame(&uri);
        }
        Err(error)
    }

    /// Sends a request once. An error comes with whether the connection was already closed when the request was sent.
    async fn send(
        &self,
        pool: Pool,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, (Error, bool)> {
        let connection = capture_connection(&mut request);
        match pool.request(request).await {
            Ok(response) => {
                if let Some(usage) = use_of(&connection) {
                    usage.answered.store(true, Ordering::Relaxed);
                }
                Ok(response)
            }
            Err(error) => {
                let was_stale = use_of(&connection).is_some_and(|usage| {
                    usage.answered.load(Ordering::Relaxed) && usage.silent.load(Ordering::Relaxed)
                });
                Err((error, was_stale))
            }
        }
    }

    fn pool(&self, now: SystemTime) -> Pool {
        let mut current = lock(&self.pool);
        let (in_use, used_at) = &mut *current;
        if now
            .duration_since(*used_at)
            .is_ok_and(|idle| idle > IDLE_SUSPECT)
        {
            *in_use = pool(&self.route);
        }
        *used_at = now;
        in_use.clone()
    }

    /// Makes the next request use a new connection. Requests that are under way keep theirs.
    pub(crate) fn forget_connections(&self) {
        self.fresh_pool();
    }

    /// Replaces the pool by an empty one and returns that: if one connection was closed in silence, the others were
    /// too.
    fn fresh_pool(&self) -> Pool {
        let mut current = lock(&self.pool);
        current.0 = pool(&self.route);
        current.0.clone()
    }
}

fn use_of(connection: &CaptureConnection) -> Option<Arc<Use>> {
    let mut extras = Extensions::new();
    connection
        .connection_metadata()
        .as_ref()?
        .get_extras(&mut extras);
    extras.get::<Arc<Use>>().cloned()
}

fn pool(route: &Route) -> Pool {
    Client::builder(TokioExecutor::new())
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_timer(TokioTimer::new())
        .build(route.clone())
}

/// Returns whether a request failed because the peer's certificate is not trusted.
pub(crate) fn is_untrusted(error: &Error) -> bool {
    fn of(error: &(dyn StdError + 'static)) -> bool {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return matches!(tls, rustls::Error::InvalidCertificate(_));
        }
        // The error that an `io::Error` wraps is not its source.
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        inner.is_some_and(|inner| of(inner)) || error.source().is_some_and(of)
    }
    of(error)
}
