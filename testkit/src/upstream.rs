//! An OpenAI-compatible server over real HTTP that follows a script, misbehaviour included.

mod front;
mod script;
mod silent;

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::unfold;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::Value;
use tokio::sync::watch;

pub use self::front::Front;
pub use self::script::{Gate, Script, Step, chunk, delta};
pub use self::silent::Silent;
use crate::server::{Body, HttpServer};

/// The time that a test waits for something that takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running upstream, stopped on drop.
///
/// # Example
/// ```no_run
/// # use testkit::upstream::{Script, Upstream};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// // Fails once, and then replies in two deltas.
/// let scripts = vec![Script::status(503, ""), Script::reply(&["在", "的"])];
/// let upstream = Upstream::start_sequence(scripts).await;
/// // … a function with the variables `upstream.env()` serves a turn …
/// assert_eq!(upstream.requests().len(), 2);
/// # }
/// ```
pub struct Upstream {
    server: HttpServer,
    state: Arc<State>,
}

struct State {
    scripts: Vec<Script>,
    /// The only API key that is accepted; any, if `None`.
    key: Mutex<Option<String>>,
    requests: Mutex<Vec<Received>>,
    /// When each piece of an answer was written to the socket, by the number of its request; recorded on demand.
    sent: Mutex<Option<Vec<(usize, Instant)>>>,
    /// Numbers of requests that have arrived, and of responses that are being sent.
    counts: watch::Sender<Counts>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    requests: usize,
    open: usize,
}

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// The HTTP method.
    pub method: Method,
    /// The path.
    pub path: String,
    /// The query, without its question mark.
    pub query: Option<String>,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; null if it was not valid JSON.
    pub body: Value,
    /// The number of the TCP connection over which it arrived, counted from 0.
    pub connection: u64,
    /// When its last byte had arrived.
    pub at: Instant,
}

impl Received {
    /// Returns the messages of the prompt as (role, content).
    ///
    /// # Panics
    /// If the body has no messages.
    #[must_use]
    pub fn messages(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let messages = self.body["messages"].as_array().expect("messages");
        messages
            .iter()
            .map(|message| (text(&message["role"]), text(&message["content"])))
            .collect()
    }
}

impl Upstream {
    /// Starts an upstream that answers every request by one script.
    pub async fn start(script: Script) -> Self {
        Self::start_sequence(vec![script]).await
    }

    /// Starts an upstream that answers the first request by the first script, and so on; all further ones by the last.
    pub async fn start_sequence(scripts: Vec<Script>) -> Self {
        let state = Arc::new(State {
            scripts,
            key: Mutex::default(),
            requests: Mutex::default(),
            sent: Mutex::new(None),
            counts: watch::Sender::new(Counts::default()),
        });
        let serving = Arc::clone(&state);
        let server = HttpServer::start(move |received| {
            let state = Arc::clone(&serving);
            async move {
                let (parts, body) = received.request.into_parts();
                let body = body
                    .collect()
                    .await
                    .map(http_body_util::Collected::to_bytes)
                    .unwrap_or_default();
                let path = parts.uri.path().to_owned();
                if !path.ends_with("/chat/completions") {
                    return not_found();
                }
                let bearer = parts.headers.get("authorization").cloned();
                let number = {
                    let mut requests = state.requests.lock().unwrap();
                    requests.push(Received {
                        method: parts.method,
                        path,
                        query: parts.uri.query().map(str::to_owned),
                        headers: parts.headers,
                        body: serde_json::from_slice(&body).unwrap_or_default(),
                        connection: received.connection,
                        at: Instant::now(),
                    });
                    requests.len()
                };
                let script = &state.scripts[(number - 1).min(state.scripts.len() - 1)];
                let key = state.key.lock().unwrap().clone();
                let is_locked = key.is_some_and(|key| {
                    bearer.is_none_or(|bearer| bearer != format!("Bearer {key}"))
                });
                let script = if is_locked {
                    Script::status(401, r#"{"error":{"code":"invalid_api_key"}}"#)
                } else {
                    script.clone()
                };
                let response = play(script, number - 1, Arc::clone(&state));
                state.counts.send_modify(|counts| counts.requests = number);
                response
            }
        })
        .await;
        Self { server, state }
    }

    /// Returns the value for `LLM_BASE_URL`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.server.address)
    }

    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.address.port()
    }

    /// Returns the environment variables that make a function use this upstream.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        vec![
            ("LLM_BASE_URL".into(), self.base_url()),
            ("LLM_API_KEY".into(), "sk-of-a-test".into()),
            ("LLM_MODEL".into(), "model-of-a-test".into()),
        ]
    }

    /// Answers 401 to every API key but this one from now on.
    ///
    /// # Panics
    /// Only after another panic in the stand-in.
    pub fn lock(&self, key: &str) {
        *self.state.key.lock().unwrap() = Some(key.to_owned());
    }

    /// Returns all requests that have arrived.
    ///
    /// # Panics
    /// Only after another panic in the stand-in.
    #[must_use]
    pub fn requests(&self) -> Vec<Received> {
        self.state.requests.lock().unwrap().clone()
    }

    /// Waits until this many requests have arrived.
    ///
    /// # Panics
    /// If they do not arrive in time.
    pub async fn wait_for_requests(&self, count: usize) {
        self.wait("requests", |counts| counts.requests >= count)
            .await;
    }

    /// Begins to record when pieces of answers are sent, and forgets earlier records.
    ///
    /// # Panics
    /// Only after another panic in the stand-in.
    pub fn note_sent(&self) {
        *self.state.sent.lock().unwrap() = Some(Vec::new());
    }

    /// Returns when the pieces of the answer to a request were sent, in order. Requests are counted from 0, including
    /// those before `note_sent`.
    ///
    /// # Panics
    /// Only after another panic in the stand-in.
    #[must_use]
    pub fn sent_at(&self, request: usize) -> Vec<Instant> {
        let sent = self.state.sent.lock().unwrap();
        let sent = sent.iter().flatten();
        sent.filter(|(number, _)| *number == request)
            .map(|(_, at)| *at)
            .collect()
    }

    /// Returns the number of answers that are being sent to a client that is still connected.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.state.counts.borrow().open
    }

    /// Waits until no answer is being sent.
    ///
    /// # Panics
    /// If one is still being sent after 20 s.
    pub async fn wait_until_no_streams(&self) {
        self.wait("the end of all answers", |counts| counts.open == 0)
            .await;
    }

    async fn wait(&self, what: &str, reached: impl FnMut(&Counts) -> bool) {
        let mut counts = self.state.counts.subscribe();
        let waited = tokio::time::timeout(PATIENCE, counts.wait_for(reached)).await;
        assert!(waited.is_ok(), "waited in vain for {what}");
    }
}

fn not_found() -> Response<Body> {
    let body = Full::new(Bytes::from_static(
        b"{\"error\":{\"message\":\"no such path\"}}",
    ));
    let mut response = Response::new(
        body.map_err(|never: Infallible| match never {})
            .boxed_unsync(),
    );
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// Counts an answer until it is dropped.
struct Open(Arc<State>);

impl Open {
    fn new(state: Arc<State>) -> Self {
        state.counts.send_modify(|counts| counts.open += 1);
        Self(state)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.open -= 1);
    }
}

fn play(script: Script, number: usize, state: Arc<State>) -> Response<Body> {
    let open = Open::new(state);
    let steps = script.steps.into_iter();
    let frames = unfold((steps, open), move |(mut steps, open)| async move {
        loop {
            let step = steps.next()?;
            // hyper collects what is ready and flushes what it has when a body is not, which so sends all that came
            // before.
            if matches!(step, Step::Bytes(_) | Step::Cut) {
                tokio::task::yield_now().await;
            }
            match step {
                Step::Bytes(bytes) => {
                    if let Some(sent) = &mut *open.0.sent.lock().unwrap() {
                        sent.push((number, Instant::now()));
                    }
                    return Some((Ok(Frame::data(bytes)), (steps, open)));
                }
                Step::Delay(delay) => tokio::time::sleep(delay).await,
                Step::Wait(gate) => gate.wait().await,
                Step::Cut => {
                    return Some((Err(io::Error::other("cut by the script")), (steps, open)));
                }
                Step::Silence => std::future::pending().await,
            }
        }
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    *response.status_mut() = script.status;
    *response.headers_mut() = script.headers;
    response
}
