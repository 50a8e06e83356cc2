//! An HTTP/1 server on a free loopback port, stopped on drop. Its sockets send and read without delay, so that a test
//! measures only the other side.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A body whose error aborts the connection.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A request and the connection over which it arrived.
pub(crate) struct Received {
    pub(crate) request: Request<Incoming>,
    pub(crate) connection: u64,
    /// The port at the other end.
    pub(crate) peer_port: u16,
}

pub(crate) struct HttpServer {
    pub(crate) address: SocketAddr,
    accept: JoinHandle<()>,
}

impl HttpServer {
    /// Starts a server that answers every request with `handler`.
    pub(crate) async fn start<H, F>(handler: H) -> Self
    where
        H: Fn(Received) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a loopback port");
        let address = listener.local_addr().expect("bound");
        let handler = Arc::new(handler);
        let connections = AtomicU64::new(0);
        let accept = tokio::spawn(async move {
            // Connections end with the server: the set is dropped with this task.
            let mut serving = tokio::task::JoinSet::new();
            loop {
                while serving.try_join_next().is_some() {}
                let Ok((stream, peer)) = listener.accept().await else {
                    return;
                };
                stream.set_nodelay(true).expect("a TCP socket");
                let connection = connections.fetch_add(1, Ordering::Relaxed);
                let handler = Arc::clone(&handler);
                serving.spawn(async move {
                    let service = service_fn(move |request| {
                        let answer = handler(Received {
                            request,
                            connection,
                            peer_port: peer.port(),
                        });
                        async move { Ok::<_, std::convert::Infallible>(answer.await) }
                    });
                    // An error is a client that left, or a script that cuts the connection.
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, accept }
    }

    /// Stops the server and closes its connections, as dropping it does.
    pub(crate) fn stop(&self) {
        self.accept.abort();
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop();
    }
}
