//! Parts in front of an upstream: TLS with a private authority, another address, or an HTTP proxy.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::tls::{Pki, acceptor};

/// A server that carries bytes to a port on loopback, ended on drop.
pub struct Front {
    address: SocketAddr,
    directory: TempDir,
    heads: Arc<Mutex<Vec<String>>>,
    accept: JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Tls,
    Proxy,
}

impl Front {
    /// Listens on another address, as `[::1]`.
    pub async fn on(host: &str, target: u16) -> Self {
        Self::start(&format!("{host}:0"), target, Kind::Plain).await
    }

    /// Speaks TLS, with a certificate for `localhost` and `127.0.0.1`.
    pub async fn tls(target: u16) -> Self {
        Self::start("127.0.0.1:0", target, Kind::Tls).await
    }

    /// An HTTP proxy. Whatever host it is asked for, it goes to the target.
    pub async fn proxy(target: u16) -> Self {
        Self::start("127.0.0.1:0", target, Kind::Proxy).await
    }

    async fn start(address: &str, target: u16, kind: Kind) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let pki = Pki::new(directory.path());
        let acceptor = acceptor(&pki);
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let heads = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&heads);
        let accept = tokio::spawn(async move {
            let mut carrying = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                // As servers do. Otherwise an answer waits for the acknowledgement of what came before it.
                client.set_nodelay(true).expect("a TCP socket");
                while carrying.try_join_next().is_some() {}
                let (acceptor, heads) = (acceptor.clone(), Arc::clone(&noted));
                carrying.spawn(async move {
                    match kind {
                        Kind::Plain => carry(client, target, &[]).await,
                        // A client that does not trust the certificate leaves.
                        Kind::Tls => match acceptor.accept(client).await {
                            Ok(client) => carry(client, target, &[]).await,
                            Err(_) => None,
                        },
                        Kind::Proxy => as_proxy(client, target, &heads).await,
                    }
                });
            }
        });
        Self {
            address,
            directory,
            heads,
            accept,
        }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The authority of its certificate.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// The heads of the requests by which a proxy was asked for the way.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn as_proxy(mut client: TcpStream, target: u16, heads: &Mutex<Vec<String>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    let text = String::from_utf8(head.clone()).expect("a head");
    let is_tunnel = text.starts_with("CONNECT ");
    heads.lock().unwrap().push(text);
    if is_tunnel {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
        return carry(client, target, &[]).await;
    }
    carry(client, target, &head).await
}

async fn carry(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    target: u16,
    first: &[u8],
) -> Option<()> {
    let mut upstream = TcpStream::connect(("127.0.0.1", target)).await.ok()?;
    upstream.set_nodelay(true).ok()?;
    upstream.write_all(first).await.ok()?;
    copy_bidirectional(&mut client, &mut upstream).await.ok()?;
    Some(())
}
