//! A TLS proxy in front of a real redis-server that records the user name and password of every `AUTH` command.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::redis::Server;
use crate::tls::{Pki, acceptor};

/// A redis-server and the TLS proxy in front of it.
pub struct Doorkeeper {
    server: Server,
    port: u16,
    state: Arc<State>,
    accept: JoinHandle<()>,
    directory: TempDir,
}

#[derive(Default)]
struct State {
    logins: Mutex<Vec<(String, String)>>,
    /// Connections of an earlier generation are closed.
    generation: watch::Sender<u64>,
}

impl Doorkeeper {
    /// Starts a server and its proxy. With `cluster`, the server is a cluster of one node. The server accepts any
    /// password of
    /// `user`.
    ///
    /// # Panics
    /// If no certificate can be made or the server does not start.
    pub async fn start(user: &str, cluster: bool) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let pki = Pki::new(directory.path());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let announced = port.to_string();
        let bus = crate::redis::free_port().to_string();
        let mut arguments = Vec::new();
        if cluster {
            arguments.extend(["--cluster-enabled", "yes", "--cluster-port", &bus]);
            arguments.extend(["--cluster-announce-ip", "127.0.0.1"]);
            arguments.extend(["--cluster-announce-port", &announced]);
        }
        let server = Server::start_with(&arguments).await;
        if cluster {
            form(&server).await;
        }
        let rules = ["ACL", "SETUSER", user, "on", "nopass", "~*", "+@all"];
        let _: () = server.command(&rules).await;
        let state = Arc::new(State::default());
        let acceptor = acceptor(&pki);
        let accept = tokio::spawn(serve(listener, acceptor, server.port(), Arc::clone(&state)));
        Self {
            server,
            port,
            state,
            accept,
            directory,
        }
    }

    /// Returns the `rediss://` URL of the proxy.
    #[must_use]
    pub fn url(&self) -> String {
        format!("rediss://127.0.0.1:{}/0", self.port)
    }

    /// Returns the path of the certificate authority's certificate.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Returns the server behind TLS.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Returns the user names and passwords that were received, in order.
    ///
    /// # Panics
    /// Only after another panic in the proxy.
    #[must_use]
    pub fn logins(&self) -> Vec<(String, String)> {
        self.state.logins.lock().unwrap().clone()
    }

    /// Closes all open connections.
    pub fn cut(&self) {
        self.state
            .generation
            .send_modify(|generation| *generation += 1);
    }
}

impl Drop for Doorkeeper {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

/// Assigns all slots to this server and waits until it reports the cluster as complete.
async fn form(server: &Server) {
    let _: () = server
        .command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"])
        .await;
    let started = Instant::now();
    while !server
        .command::<String>(&["CLUSTER", "INFO"])
        .await
        .contains("cluster_state:ok")
    {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "the server did not become a cluster in time"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, target: u16, state: Arc<State>) {
    // Connections end with the door: the set is dropped with this task.
    let mut carrying = tokio::task::JoinSet::new();
    loop {
        while carrying.try_join_next().is_some() {}
        let Ok((client, _)) = listener.accept().await else {
            return;
        };
        let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
        carrying.spawn(async move {
            let mut generation = state.generation.subscribe();
            tokio::select! {
                // An error is a connection that ended.
                _ = carry(client, acceptor, target, &state) => {}
                _ = generation.changed() => {}
            }
        });
    }
}

async fn carry(
    client: TcpStream,
    acceptor: TlsAcceptor,
    target: u16,
    state: &State,
) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let client = acceptor.accept(client).await?;
    let server = TcpStream::connect(("127.0.0.1", target)).await?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async {
        let (mut seen, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
        loop {
            let read = from_client.read(&mut buffer).await?;
            if read == 0 {
                return Ok::<_, std::io::Error>(());
            }
            seen.extend_from_slice(&buffer[..read]);
            // Noted before it is passed on, so before anybody is answered.
            while let Some((login, rest)) = login(&seen) {
                state.logins.lock().unwrap().push(login);
                seen.drain(..rest);
            }
            to_server.write_all(&buffer[..read]).await?;
        }
    };
    let answers = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let read = from_server.read(&mut buffer).await?;
            if read == 0 {
                return Ok::<_, std::io::Error>(());
            }
            to_client.write_all(&buffer[..read]).await?;
            to_client.flush().await?;
        }
    };
    tokio::select! {
        ended = requests => ended,
        ended = answers => ended,
    }
}

/// Returns the user name and password of the first `AUTH` command in these bytes, and where the command ends.
fn login(sent: &[u8]) -> Option<((String, String), usize)> {
    const AUTH: &[u8] = b"*3\r\n$4\r\nAUTH\r\n";
    let start = sent.windows(AUTH.len()).position(|part| part == AUTH)? + AUTH.len();
    let (name, end) = bulk(sent, start)?;
    let (password, end) = bulk(sent, end)?;
    Some(((name, password), end))
}

/// Returns a RESP bulk string, and where it ends.
fn bulk(sent: &[u8], start: usize) -> Option<(String, usize)> {
    let line = sent.get(start..)?.iter().position(|byte| *byte == b'\n')?;
    let length = std::str::from_utf8(sent.get(start + 1..start + line - 1)?).ok()?;
    let from = start + line + 1;
    let to = from + length.parse::<usize>().ok()?;
    let text = std::str::from_utf8(sent.get(from..to)?).ok()?;
    Some((text.to_owned(), to + 2))
}
