//! Opens a TCP connection to a name: tries each of its addresses, so that a dead one costs only a part of the time
//! limit.
//!
//! Follows RFC 8305 ("Happy Eyeballs"): the next address is tried when the one before it has failed or has not answered
//! within its head start, and the first connection wins. hyper's own connector does this only between the address
//! families, and waits for a silent address of the same family until the whole time limit is used up.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::sleep;
use tower::{BoxError, Service};

use crate::clock::lock;

/// The longest head start of one address over the next, as RFC 8305 recommends.
const MAX_HEAD_START: Duration = Duration::from_millis(250);
/// The idle time after which TCP probes the peer, to find a dead one while a stream is silent.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// The time after which the operating system closes a connection whose peer does not acknowledge.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens TCP connections. Clones share what they learned about addresses.
#[derive(Clone)]
pub(super) struct Dial {
    tcp: HttpConnector,
    connect_timeout: Duration,
    starts: Arc<Mutex<HashMap<String, Start>>>,
}

/// The address of a name with which the next attempt starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// Start with this address, which worked last time.
    With(IpAddr),
    /// Start with the address after this one, which failed last time.
    After(IpAddr),
}

impl Dial {
    pub(super) fn new(connect_timeout: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(TCP_KEEPALIVE));
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
        Self {
            tcp,
            connect_timeout,
            starts: Arc::default(),
        }
    }

    /// Makes the next attempt start with another address, because the one that was connected to did not work.
    pub(super) fn blame(&self, uri: &Uri) {
        if let Some(start) = uri.host().and_then(|host| self.starts().get(host).copied())
            && let Start::With(address) = start
        {
            self.remember(uri.host().unwrap_or_default(), Start::After(address));
        }
    }

    async fn connect(self, uri: Uri) -> Result<TokioIo<TcpStream>, BoxError> {
        let host = uri.host().ok_or("the URL has no host")?;
        let is_https = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let found: Vec<SocketAddr> = lookup_host((bare, port)).await?.collect();
        let start = self.starts().get(host).copied();
        let addresses = in_order(found, start);
        // A cancelled attempt can record nothing later, so this records a failure before the attempt.
        if let Some(first) = addresses.first() {
            self.remember(host, Start::After(first.ip()));
        }
        let share = self.connect_timeout / u32::try_from(addresses.len() + 1).unwrap_or(u32::MAX);
        let connect = |address: SocketAddr| {
            let mut tcp = self.tcp.clone();
            async move {
                let uri: Uri = format!("http://{address}").parse()?;
                tcp.call(uri).await.map_err(BoxError::from)
            }
        };
        let (address, stream) = race(addresses, share.min(MAX_HEAD_START), connect).await?;
        self.remember(host, Start::With(address.ip()));
        Ok(stream)
    }

    fn remember(&self, host: &str, start: Start) {
        self.starts().insert(host.to_owned(), start);
    }

    fn starts(&self) -> MutexGuard<'_, HashMap<String, Start>> {
        lock(&self.starts)
    }
}

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// Returns the addresses with the one to start with first, and then alternating between the address families.
fn in_order(mut addresses: Vec<SocketAddr>, start: Option<Start>) -> Vec<SocketAddr> {
    let place = |wanted: IpAddr| addresses.iter().position(|address| address.ip() == wanted);
    let first = match start {
        Some(Start::With(address)) => place(address),
        Some(Start::After(address)) => place(address).map(|at| (at + 1) % addresses.len()),
        None => None,
    };
    addresses.rotate_left(first.unwrap_or(0));
    let begins_with_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (preferred, others): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == begins_with_v6);
    let (mut preferred, mut others) = (preferred.into_iter(), others.into_iter());
    let mut ordered = Vec::with_capacity(preferred.len() + others.len());
    while preferred.len() + others.len() > 0 {
        ordered.extend(preferred.next());
        ordered.extend(others.next());
    }
    ordered
}

/// Returns the first connection that is made, and its address. Each attempt has a head start over the next, which its
/// failure cuts short. An address may appear more than once, to be tried again beside an attempt that is silent; it is
/// not tried again once it has failed.
///
/// # Errors
/// Every attempt has failed: the error of the last one. Without an address: [`io::ErrorKind::NotFound`].
pub(crate) async fn race<T, E, F>(
    addresses: impl IntoIterator<Item = SocketAddr>,
    head_start: Duration,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<(SocketAddr, T), E>
where
    E: From<io::Error>,
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = addresses.into_iter().peekable();
    let mut running = FuturesUnordered::new();
    let mut failed = Vec::new();
    let no_address = "failed to lookup address: the name has none";
    let mut error = io::Error::new(io::ErrorKind::NotFound, no_address).into();
    loop {
        if let Some(address) = waiting.find(|address| !failed.contains(address)) {
            let attempt = connect(address);
            running.push(async move { (address, attempt.await) });
        }
        tokio::select! {
            attempt = running.next() => match attempt {
                Some((address, Ok(connection))) => return Ok((address, connection)),
                Some((address, Err(failure))) => {
                    failed.push(address);
                    error = failure;
                }
                None => return Err(error),
            },
            () = sleep(head_start), if waiting.peek().is_some() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    const HEAD_START: Duration = Duration::from_millis(250);

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        let parse = |text: &&str| SocketAddr::new(text.parse().expect("an address"), 443);
        texts.iter().map(parse).collect()
    }

    /// Addresses that end in 1 drop packets, those that end in 2 refuse, and others accept.
    async fn dial(address: SocketAddr) -> Result<(), BoxError> {
        let text = address.ip().to_string();
        match text.chars().last() {
            Some('1') => pending().await,
            Some('2') => Err("refused".into()),
            _ => Ok(()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_healthy_address_behind_silent_ones_is_reached() {
        let began = Instant::now();
        let all = addresses(&["192.0.2.1", "192.0.2.11", "192.0.2.3"]);
        let (address, ()) = race(all, HEAD_START, dial).await.expect("connected");
        assert_eq!(address.ip().to_string(), "192.0.2.3");
        assert_eq!(began.elapsed(), 2 * HEAD_START);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_refuses_costs_nothing() {
        let began = Instant::now();
        let all = addresses(&["192.0.2.2", "192.0.2.12", "192.0.2.3"]);
        race(all, HEAD_START, dial).await.expect("connected");
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_refuse_the_attempt_fails_at_once() {
        for all in [&["192.0.2.2", "192.0.2.12"][..], &[]] {
            let began = Instant::now();
            race(addresses(all), HEAD_START, dial)
                .await
                .expect_err("refused");
            assert_eq!(began.elapsed(), Duration::ZERO);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_tried_again_beside_its_silent_attempt() {
        let attempts = Cell::new(0);
        let began = Instant::now();
        let twice = addresses(&["192.0.2.1", "192.0.2.1"]);
        let (_, number) = race(twice, HEAD_START, async |_| {
            attempts.set(attempts.get() + 1);
            match attempts.get() {
                1 => pending().await,
                number => Ok::<_, BoxError>(number),
            }
        })
        .await
        .expect("connected");
        assert_eq!((number, began.elapsed()), (2, HEAD_START));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_refused_is_not_tried_again() {
        let attempts = Cell::new(0);
        let repeated = addresses(&["192.0.2.2", "192.0.2.12"])
            .into_iter()
            .cycle()
            .take(4);
        race(repeated, HEAD_START, async |address| {
            attempts.set(attempts.get() + 1);
            dial(address).await
        })
        .await
        .expect_err("refused");
        assert_eq!(attempts.get(), 2);
    }

    #[test]
    fn the_next_attempt_begins_with_the_address_that_worked_or_after_the_one_that_failed() {
        let all = ["192.0.2.5", "192.0.2.6", "192.0.2.7"];
        let first = |start| in_order(addresses(&all), start)[0].ip().to_string();
        let ip = |text: &str| text.parse().expect("an address");
        assert_eq!(first(None), "192.0.2.5");
        assert_eq!(first(Some(Start::With(ip("192.0.2.7")))), "192.0.2.7");
        assert_eq!(first(Some(Start::After(ip("192.0.2.5")))), "192.0.2.6");
        assert_eq!(first(Some(Start::After(ip("192.0.2.7")))), "192.0.2.5");
        // The name no longer has this address.
        assert_eq!(first(Some(Start::After(ip("192.0.2.99")))), "192.0.2.5");
    }

    #[test]
    fn the_families_alternate() {
        let mixed = addresses(&["2001:db8::1", "2001:db8::2", "192.0.2.5", "192.0.2.6"]);
        let expected = addresses(&["2001:db8::1", "192.0.2.5", "2001:db8::2", "192.0.2.6"]);
        assert_eq!(in_order(mixed, None), expected);
        assert_eq!(
            in_order(Vec::new(), Some(Start::After([0, 0, 0, 0].into()))),
            []
        );
    }
}
