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
    keys: Mutex<Vec<Value>>,
    fetches: AtomicUsize,
    failing: AtomicBool,
}

impl JwksServer {
    /// Starts a server that publishes `keys`.
    pub async fn start(keys: Vec<Value>) -> Self {
        let state = Arc::new(State {
            keys: Mutex::new(keys),
            fetches: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
        });
        let serving = Arc::clone(&state);
        let server = HttpServer::start(move |_| {
            serving.fetches.fetch_add(1, Ordering::SeqCst);
            let keys = serving.keys.lock().unwrap().clone();
            let mut response =
                Response::new(Full::new(Bytes::from(json!({ "keys": keys }).to_string())));
            if serving.failing.load(Ordering::SeqCst) {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            async move { response.map(|body| body.map_err(|never| match never {}).boxed_unsync()) }
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
        *self.state.keys.lock().unwrap() = keys;
    }

    /// Answers 500 from now on (`true`), or stops doing so (`false`).
    pub fn fail(&self, failing: bool) {
        self.state.failing.store(failing, Ordering::SeqCst);
    }

    /// Returns how many times the keys were requested.
    #[must_use]
    pub fn fetches(&self) -> usize {
        self.state.fetches.load(Ordering::SeqCst)
    }
}
