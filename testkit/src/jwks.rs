//! A server that publishes signing keys as a JWK set.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use crate::server::HttpServer;

/// A running server with one key set.
pub struct JwksServer {
    server: HttpServer,
    state: Arc<State>,
}

struct State {
    document: Mutex<Bytes>,
    fetches: AtomicUsize,
    failing: AtomicBool,
    silent: AtomicBool,
}

impl JwksServer {
    /// Starts a server that publishes `keys`.
    pub async fn start(keys: Vec<Value>) -> Self {
        Self::start_with(document_of(&keys)).await
    }

    /// Starts a server that publishes a document as it is given, which need not be a key set.
    pub async fn start_with(document: impl Into<Bytes>) -> Self {
        let state = Arc::new(State {
            document: Mutex::new(document.into()),
            fetches: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
            silent: AtomicBool::new(false),
        });
        let serving = Arc::clone(&state);
        let server = HttpServer::start(move |_| {
            serving.fetches.fetch_add(1, Ordering::SeqCst);
            let document = serving.document.lock().unwrap().clone();
            let mut response = Response::new(Full::new(document));
            if serving.failing.load(Ordering::SeqCst) {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            let is_silent = serving.silent.load(Ordering::SeqCst);
            async move {
                if is_silent {
                    std::future::pending::<()>().await;
                }
                response.map(|body| body.map_err(|never| match never {}).boxed_unsync())
            }
        })
        .await;
        Self { server, state }
    }

    /// Returns the URL of the key set.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/.well-known/jwks.json", self.server.address)
    }

    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.address.port()
    }

    /// Publishes other keys from now on.
    ///
    /// # Panics
    /// Only after another panic in the stand-in.
    pub fn set_keys(&self, keys: Vec<Value>) {
        *self.state.document.lock().unwrap() = document_of(&keys);
    }

    /// Answers 500 from now on (`true`), or stops doing so (`false`).
    pub fn fail(&self, failing: bool) {
        self.state.failing.store(failing, Ordering::SeqCst);
    }

    /// Makes the server take requests and answer none from now on, or answer again. A request that it took while it was
    /// silent stays without an answer.
    pub fn fall_silent(&self, silent: bool) {
        self.state.silent.store(silent, Ordering::SeqCst);
    }

    /// Returns how many times the keys were requested.
    #[must_use]
    pub fn fetches(&self) -> usize {
        self.state.fetches.load(Ordering::SeqCst)
    }
}

fn document_of(keys: &[Value]) -> Bytes {
    Bytes::from(json!({ "keys": keys }).to_string())
}
