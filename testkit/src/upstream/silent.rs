//! An address of a server that drops packets.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// Connections that wait to be accepted: more than the queue of the listener holds.
const WAITING: usize = 8;

/// An address that drops what is sent to it: nobody accepts, and the queue of those who wait is full.
pub struct Silent {
    _listener: TcpListener,
    _waiting: JoinSet<()>,
}

impl Silent {
    /// Occupies this port of `127.0.0.1`.
    ///
    /// # Panics
    /// If the port is in use.
    #[must_use]
    pub fn on(port: u16) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        socket.bind(address).expect("a free port");
        let listener = socket.listen(0).expect("a listener");
        let mut waiting = JoinSet::new();
        for _ in 0..WAITING {
            waiting.spawn(async move {
                let _kept = TcpStream::connect(address).await;
                std::future::pending().await
            });
        }
        Self {
            _listener: listener,
            _waiting: waiting,
        }
    }
}
