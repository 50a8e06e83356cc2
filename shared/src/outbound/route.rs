//! The route to a host: direct or through a proxy, with TLS on top.

use std::env;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Uri};
use hyper::rt::{Read, Write};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tower::{BoxError, Service};

use super::dial::Dial;

/// Networks that are never reached through a proxy: a function's credentials are served there.
const LINK_LOCAL: &str = "169.254.0.0/16,fe80::/10,fd00:ec2::/32";

/// Connects to a host within a time limit that covers the name look-up, the proxy and the TLS handshake.
#[derive(Clone)]
pub(super) struct Route {
    dial: Dial,
    tls: Arc<ClientConfig>,
    proxies: Arc<Matcher>,
    connect_timeout: Duration,
}

impl Route {
    pub(super) fn new(connect_timeout: Duration, tls: ClientConfig) -> Self {
        Self {
            dial: Dial::new(connect_timeout),
            tls: Arc::new(tls),
            proxies: Arc::new(proxies()),
            connect_timeout,
        }
    }

    /// Returns the `Proxy-Authorization` for a request that a proxy reads. A proxy that only forwards a TLS tunnel does
    /// not see it.
    pub(super) fn proxy_authorization(&self, uri: &Uri) -> Option<HeaderValue> {
        if uri.scheme_str() != Some("http") {
            return None;
        }
        self.proxies.intercept(uri)?.basic_auth().cloned()
    }

    /// Makes the next attempt begin with another address of the host that was dialled for `uri`.
    pub(super) fn blame(&self, uri: &Uri) {
        match self.proxies.intercept(uri) {
            Some(proxy) => self.dial.blame(proxy.uri()),
            None => self.dial.blame(uri),
        }
    }

    async fn connect(self, uri: Uri) -> Result<Stream, BoxError> {
        let mut direct = HttpsConnector::from((self.dial.clone(), Arc::clone(&self.tls)));
        let Some(proxy) = self.proxies.intercept(&uri) else {
            return direct.call(uri).await.map(|io| Watched::stream(io, false));
        };
        if uri.scheme_str() == Some("http") {
            let to_proxy = direct.call(proxy.uri().clone());
            return to_proxy.await.map(|io| Watched::stream(io, true));
        }
        let mut tunnel = Tunnel::new(proxy.uri().clone(), direct);
        if let Some(authorization) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        let through = HttpsConnector::from((tunnel, self.tls)).call(uri);
        through.await.map(|io| Watched::stream(io, false))
    }
}

impl Service<Uri> for Route {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let route = self.clone();
        Box::pin(async move {
            let limit = route.connect_timeout;
            let connected = timeout(limit, route.clone().connect(uri.clone())).await;
            let connected = connected.unwrap_or_else(|late| Err(late.into()));
            if connected.is_err() {
                route.blame(&uri);
            }
            connected
        })
    }
}

/// Returns the proxies of the usual environment variables, read as curl reads them.
fn proxies() -> Matcher {
    let first = |names: [&str; 2]| {
        let mut values = names.iter().filter_map(|name| env::var(name).ok());
        values.find(|value| !value.is_empty()).unwrap_or_default()
    };
    let direct = [first(["NO_PROXY", "no_proxy"]), LINK_LOCAL.to_owned()];
    Matcher::builder()
        .all(first(["ALL_PROXY", "all_proxy"]))
        .http(first(["HTTP_PROXY", "http_proxy"]))
        .https(first(["HTTPS_PROXY", "https_proxy"]))
        .no(direct.join(","))
        .build()
}

/// The use of a connection so far.
#[derive(Debug, Default)]
pub(super) struct Use {
    /// Whether the connection has answered a request.
    pub(super) answered: AtomicBool,
    /// Whether nothing has arrived since something was last sent.
    pub(super) silent: AtomicBool,
}

trait Io: Read + Write + Unpin + Send {}

impl<T: Read + Write + Unpin + Send> Io for T {}

/// The type of connection that the pool keeps.
pub(super) type Stream = TokioIo<Watched>;

/// A connection of any kind that records its use.
pub(super) struct Watched {
    io: TokioIo<Box<dyn Io>>,
    /// Whether the connection ends at a proxy that reads the requests and needs their whole URLs.
    is_proxied: bool,
    usage: Arc<Use>,
}

impl Watched {
    fn stream(io: impl Io + 'static, is_proxied: bool) -> Stream {
        TokioIo::new(Self {
            io: TokioIo::new(Box::new(io)),
            is_proxied,
            usage: Arc::default(),
        })
    }

    fn noting_sent(&self, sent: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(sent, Poll::Ready(Ok(1..))) {
            self.usage.silent.store(true, Ordering::Relaxed);
        }
        sent
    }
}

impl Connection for Watched {
    fn connected(&self) -> Connected {
        Connected::new()
            .proxy(self.is_proxied)
            .extra(Arc::clone(&self.usage))
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.usage.silent.store(false, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.io).poll_write(context, bytes);
        self.noting_sent(sent)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.io).poll_write_vectored(context, buffers);
        self.noting_sent(sent)
    }
}
