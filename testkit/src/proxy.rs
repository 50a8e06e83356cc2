//! A TCP proxy on loopback that loses, delays and cuts connections on demand, as networks do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A running proxy.
pub struct Proxy {
    port: u16,
    state: Arc<State>,
    accept: JoinHandle<()>,
}

struct State {
    target: AtomicU16,
    /// Connections with a lower number stay open and carry nothing.
    swallowed_below: AtomicU64,
    /// Connections with a lower number are closed.
    cut_below: watch::Sender<u64>,
    /// Requests on connections from this number on are delayed by `delay_milliseconds`,
    delayed_from: AtomicU64,
    /// if their number is below this one.
    delayed_below: AtomicU64,
    delay_milliseconds: AtomicU64,
    accepted: AtomicU64,
    open: AtomicUsize,
    refusing: AtomicBool,
    /// One request in this many is delayed by this many milliseconds; none if 0.
    slow_one_in: AtomicU64,
    slow_milliseconds: AtomicU64,
    requests: AtomicU64,
}

impl Proxy {
    /// Starts a proxy in front of a port on loopback.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a loopback port");
        let port = listener.local_addr().expect("bound").port();
        let state = Arc::new(State {
            target: AtomicU16::new(target),
            swallowed_below: AtomicU64::new(0),
            cut_below: watch::Sender::new(0),
            delayed_from: AtomicU64::new(0),
            delayed_below: AtomicU64::new(0),
            delay_milliseconds: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            refusing: AtomicBool::new(false),
            slow_one_in: AtomicU64::new(0),
            slow_milliseconds: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        });
        let serving = Arc::clone(&state);
        let accept = tokio::spawn(async move {
            let mut carrying = tokio::task::JoinSet::new();
            loop {
                while carrying.try_join_next().is_some() {}
                let Ok((client, _)) = listener.accept().await else {
                    return;
                };
                let number = serving.accepted.fetch_add(1, Ordering::SeqCst);
                if !serving.refusing.load(Ordering::SeqCst) {
                    carrying.spawn(carry(client, number, Arc::clone(&serving)));
                }
            }
        });
        Self {
            port,
            state,
            accept,
        }
    }

    /// Returns the port on which the proxy listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Leads new connections to another port: for a server that has to know the proxy's port when it starts.
    pub fn lead_to(&self, target: u16) {
        self.state.target.store(target, Ordering::SeqCst);
    }

    /// Returns a Redis URL that leads through the proxy.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Drops, from now on, all bytes on the present connections, in both directions, and keeps them open. New
    /// connections work.
    pub fn swallow_existing(&self) {
        self.state
            .swallowed_below
            .store(self.accepted(), Ordering::SeqCst);
    }

    /// Delays, from now on, every request on the present connections, even if their callers go away meanwhile. New
    /// connections work.
    ///
    /// # Panics
    /// If the delay in milliseconds does not fit into 64 bits.
    pub fn delay_existing(&self, delay: Duration) {
        self.delay_from(0, self.accepted(), delay);
    }

    /// Delays, from now on, every request on one connection: the `back`-th before the newest. A delay of 0 ends it.
    ///
    /// # Panics
    /// As [`Proxy::delay_existing`].
    pub fn delay_one(&self, back: u64, delay: Duration) {
        let number = self.accepted().saturating_sub(back + 1);
        self.delay_from(number, number + 1, delay);
    }

    fn delay_from(&self, from: u64, below: u64, delay: Duration) {
        let milliseconds = u64::try_from(delay.as_millis()).expect("a short delay");
        let state = &self.state;
        state
            .delay_milliseconds
            .store(milliseconds, Ordering::SeqCst);
        state.delayed_from.store(from, Ordering::SeqCst);
        state.delayed_below.store(below, Ordering::SeqCst);
    }

    /// Lets new connections work again. Connections whose bytes were dropped stay dead.
    pub fn pass(&self) {
        self.state
            .swallowed_below
            .store(self.accepted(), Ordering::SeqCst);
        self.state.refusing.store(false, Ordering::SeqCst);
        self.state.slow_one_in.store(0, Ordering::SeqCst);
    }

    /// Closes the present connections.
    pub fn cut(&self) {
        self.state.cut_below.send_replace(self.accepted());
    }

    /// Closes, from now on, every new connection at once.
    pub fn refuse(&self) {
        self.state.refusing.store(true, Ordering::SeqCst);
    }

    /// Delays one request in `one_in` by `delay`.
    ///
    /// # Panics
    /// If the delay in milliseconds does not fit into 64 bits.
    pub fn slow(&self, one_in: u64, delay: Duration) {
        let milliseconds = u64::try_from(delay.as_millis()).expect("a short delay");
        self.state
            .slow_milliseconds
            .store(milliseconds, Ordering::SeqCst);
        self.state.slow_one_in.store(one_in, Ordering::SeqCst);
    }

    /// Returns the number of connections that were ever accepted.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Returns the number of connections that callers have open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

struct Open(Arc<State>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn carry(client: TcpStream, number: u64, state: Arc<State>) {
    state.open.fetch_add(1, Ordering::SeqCst);
    let _open = Open(Arc::clone(&state));
    let target = state.target.load(Ordering::SeqCst);
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else {
        return;
    };
    client.set_nodelay(true).expect("a TCP socket");
    server.set_nodelay(true).expect("a TCP socket");
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut cut = state.cut_below.subscribe();
    tokio::select! {
        () = pump(from_client, to_server, number, &state, true) => {}
        () = pump(from_server, to_client, number, &state, false) => {}
        _ = cut.wait_for(|below| number < *below) => {}
    }
}

/// Copies bytes in both directions until either side closes.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: u64,
    state: &State,
    requests: bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if requests {
            let one_in = state.slow_one_in.load(Ordering::SeqCst);
            let count = state.requests.fetch_add(1, Ordering::SeqCst);
            if one_in > 0 && count.is_multiple_of(one_in) {
                tokio::time::sleep(Duration::from_millis(
                    state.slow_milliseconds.load(Ordering::SeqCst),
                ))
                .await;
            }
        }
        let delayed =
            state.delayed_from.load(Ordering::SeqCst)..state.delayed_below.load(Ordering::SeqCst);
        if requests && delayed.contains(&number) {
            let milliseconds = state.delay_milliseconds.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        }
        if number < state.swallowed_below.load(Ordering::SeqCst) {
            continue;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
