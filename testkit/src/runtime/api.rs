//! The HTTP side of the stand-in Runtime API.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, watch};

use crate::answer::{Chunk, EventParser, Head};
use crate::server::Body;
use crate::unspeakable::Unspeakable;

/// A part of a function's answer. Parts arrive in order, and the channel closes after the last.
pub(super) enum Part {
    /// The head of a streamed answer.
    Head {
        head: Box<Head>,
        /// The port of the function's end of the connection.
        peer_port: u16,
    },
    /// An answer that is not streamed.
    Whole {
        json: Bytes,
        /// The port of the function's end of the connection.
        peer_port: u16,
    },
    Chunk(Chunk),
    Error(Value),
    /// The function's connection broke.
    Truncated,
}

pub(super) struct Invocation {
    pub(super) id: String,
    pub(super) event: Bytes,
    pub(super) parts: mpsc::Sender<Part>,
    pub(super) handed_over: Arc<Mutex<Option<Instant>>>,
}

pub(super) struct Api {
    deadline: Duration,
    trace_id: String,
    waiting: Mutex<std::collections::VecDeque<Invocation>>,
    /// Whether the function was killed, so that nobody answers what is handed over.
    is_lost: AtomicBool,
    arrived: Notify,
    running: Mutex<HashMap<String, mpsc::Sender<Part>>>,
    /// Polls that wait for an event, and invocations without an end.
    load: watch::Sender<Load>,
    asked: mpsc::Sender<()>,
    /// Every poll so far, also those that failed.
    polls: AtomicUsize,
    /// The status with which polls fail; 0 while they work.
    poll_status: AtomicU16,
    /// The events that the function received and the responses that it sent.
    unspeakable: Mutex<Unspeakable>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Load {
    polls: usize,
    invocations: usize,
}

/// Between the prelude and the body of a streamed answer.
const DELIMITER: [u8; 8] = [0; 8];

impl Api {
    pub(super) fn new(
        deadline: Duration,
        trace_id: String,
        asked: mpsc::Sender<()>,
        unspeakable: Unspeakable,
    ) -> Arc<Self> {
        Arc::new(Self {
            deadline,
            trace_id,
            waiting: Mutex::default(),
            is_lost: AtomicBool::new(false),
            arrived: Notify::new(),
            running: Mutex::default(),
            load: watch::Sender::new(Load::default()),
            asked,
            polls: AtomicUsize::new(0),
            poll_status: AtomicU16::new(0),
            unspeakable: Mutex::new(unspeakable),
        })
    }

    pub(super) fn polls(&self) -> usize {
        self.polls.load(Ordering::Relaxed)
    }

    pub(super) fn fail_polls(&self, status: Option<StatusCode>) {
        let status = status.map_or(0, |status| status.as_u16());
        self.poll_status.store(status, Ordering::Relaxed);
        self.arrived.notify_waiters();
    }

    /// Returns the first text that the function must not print and that its output contains.
    pub(super) fn unspeakable_in(&self, output: &str) -> Option<String> {
        let unspeakable = self.unspeakable.lock().unwrap();
        unspeakable.found_in(output).map(str::to_owned)
    }

    pub(super) fn hand_over(&self, event: &Value, invocation: Invocation) {
        self.unspeakable.lock().unwrap().event(event);
        let mut waiting = self.waiting.lock().unwrap();
        if self.is_lost.load(Ordering::Relaxed) {
            return;
        }
        self.load.send_modify(|load| load.invocations += 1);
        waiting.push_back(invocation);
        drop(waiting);
        self.arrived.notify_one();
    }

    /// Ends all invocations that have no answer yet, and those that are still to come.
    pub(super) fn lose_function(&self) {
        let mut waiting = self.waiting.lock().unwrap();
        // Set and read under the locks of the invocations, so none slips through.
        self.is_lost.store(true, Ordering::Relaxed);
        let mut ended = waiting.drain(..).count();
        drop(waiting);
        ended += self.running.lock().unwrap().drain().count();
        self.load.send_modify(|load| load.invocations -= ended);
    }

    pub(super) async fn wait_idle(&self) {
        let mut load = self.load.subscribe();
        let _ = load
            .wait_for(|load| load.polls > 0 && load.invocations == 0)
            .await;
    }

    pub(super) async fn wait_for_polls(&self, polls: usize) {
        let mut load = self.load.subscribe();
        let _ = load.wait_for(|load| load.polls >= polls).await;
    }

    pub(super) async fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer_port: u16,
    ) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let rest = path
            .strip_prefix("/2018-06-01/runtime/")
            .unwrap_or_default();
        let parts: Vec<&str> = rest.split('/').collect();
        match (request.method(), parts.as_slice()) {
            (&Method::GET, ["invocation", "next"]) => self.next().await,
            (&Method::POST, ["invocation", id, "response"]) => {
                self.response(id, request, peer_port).await
            }
            (&Method::POST, ["invocation", id, "error"]) => self.error(id, request).await,
            (&Method::POST, ["init", "error"]) => answer(StatusCode::ACCEPTED),
            _ => answer(StatusCode::NOT_FOUND),
        }
    }

    async fn next(&self) -> Response<Body> {
        // An error means that nobody waits for the first poll any longer.
        let _ = self.asked.try_send(());
        self.polls.fetch_add(1, Ordering::Relaxed);
        let polling = Polling::new(&self.load);
        let invocation = loop {
            let arrived = self.arrived.notified();
            if let Ok(status) = StatusCode::from_u16(self.poll_status.load(Ordering::Relaxed)) {
                return answer(status);
            }
            let next = self.waiting.lock().unwrap().pop_front();
            match next {
                Some(invocation) => break invocation,
                None => arrived.await,
            }
        };
        drop(polling);
        if !self.waiting.lock().unwrap().is_empty() {
            self.arrived.notify_one();
        }
        let deadline = SystemTime::now() + self.deadline;
        let deadline = deadline
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_millis();
        let response = Response::builder()
            .header("lambda-runtime-aws-request-id", &invocation.id)
            .header("lambda-runtime-deadline-ms", deadline.to_string())
            .header(
                "lambda-runtime-invoked-function-arn",
                "arn:aws:lambda:us-east-1:123456789012:function:test",
            )
            .header("lambda-runtime-trace-id", &self.trace_id)
            .header("content-type", "application/json")
            .body(
                Full::new(invocation.event)
                    .map_err(|never| match never {})
                    .boxed_unsync(),
            )
            .expect("a response");
        *invocation.handed_over.lock().unwrap() = Some(Instant::now());
        let mut running = self.running.lock().unwrap();
        if self.is_lost.load(Ordering::Relaxed) {
            self.load.send_modify(|load| load.invocations -= 1);
        } else {
            running.insert(invocation.id, invocation.parts);
        }
        drop(running);
        response
    }

    /// Receives an answer as it arrives. The connection is cut when the test no longer reads the answer.
    async fn response(
        &self,
        id: &str,
        request: Request<Incoming>,
        peer_port: u16,
    ) -> Response<Body> {
        let Some(running) = self.finish(id) else {
            return answer(StatusCode::NOT_FOUND);
        };
        let streamed = request
            .headers()
            .contains_key("lambda-runtime-function-response-mode");
        let mut body = request.into_body();
        if !streamed {
            let Ok(body) = body.collect().await else {
                return running.truncated().await;
            };
            let json = body.to_bytes();
            let _ = running.parts.send(Part::Whole { json, peer_port }).await;
            return answer(StatusCode::ACCEPTED);
        }
        let mut prelude = Some(BytesMut::new());
        let mut heard = None;
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                // Nobody follows any longer: break the connection, as the platform may.
                () = running.parts.closed() => return cut(),
            };
            let bytes = match frame {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(_)) => return running.truncated().await,
                None => return answer(StatusCode::ACCEPTED),
            };
            let at = Instant::now();
            let bytes = match &mut prelude {
                None => bytes,
                Some(collected) => {
                    collected.extend_from_slice(&bytes);
                    let Some(end) = collected.windows(8).position(|window| window == DELIMITER)
                    else {
                        continue;
                    };
                    let rest = collected.split_off(end + DELIMITER.len()).freeze();
                    let head =
                        serde_json::from_slice(&collected[..end]).expect("a prelude is JSON");
                    prelude = None;
                    heard = Heard::of(&head, &self.unspeakable);
                    let _ = running
                        .parts
                        .send(Part::Head {
                            head: Box::new(head),
                            peer_port,
                        })
                        .await;
                    rest
                }
            };
            if !bytes.is_empty() {
                let chunk = Chunk { bytes, at };
                if let Some(heard) = &mut heard {
                    heard.more(&chunk);
                }
                let _ = running.parts.send(Part::Chunk(chunk)).await;
            }
        }
    }

    async fn error(&self, id: &str, request: Request<Incoming>) -> Response<Body> {
        let Some(running) = self.finish(id) else {
            return answer(StatusCode::NOT_FOUND);
        };
        let body = request
            .into_body()
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        let _ = running
            .parts
            .send(Part::Error(
                serde_json::from_slice(&body).unwrap_or_default(),
            ))
            .await;
        answer(StatusCode::ACCEPTED)
    }

    fn finish(&self, id: &str) -> Option<Running<'_>> {
        let parts = self.running.lock().unwrap().remove(id)?;
        Some(Running {
            parts,
            load: &self.load,
        })
    }
}

/// A reply that is arriving. The function must not print it, neither whole nor in parts, even if it is cut off.
struct Heard<'a> {
    parser: EventParser,
    reply: String,
    unspeakable: &'a Mutex<Unspeakable>,
}

impl<'a> Heard<'a> {
    fn of(head: &Head, unspeakable: &'a Mutex<Unspeakable>) -> Option<Self> {
        head.is_event_stream().then(|| Self {
            parser: EventParser::default(),
            reply: String::new(),
            unspeakable,
        })
    }

    fn more(&mut self, chunk: &Chunk) {
        for event in self.parser.push(chunk) {
            let content = event.data["content"].as_str().unwrap_or_default();
            self.reply.push_str(content);
            self.unspeakable.lock().unwrap().reply(content);
        }
    }
}

impl Drop for Heard<'_> {
    fn drop(&mut self) {
        if let Ok(mut unspeakable) = self.unspeakable.lock() {
            unspeakable.reply(&self.reply);
        }
    }
}

/// An invocation whose answer is arriving. Dropping this ends the invocation.
struct Running<'a> {
    parts: mpsc::Sender<Part>,
    load: &'a watch::Sender<Load>,
}

impl Running<'_> {
    async fn truncated(&self) -> Response<Body> {
        let _ = self.parts.send(Part::Truncated).await;
        cut()
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.load.send_modify(|load| load.invocations -= 1);
    }
}

/// A poll that is waiting for an event.
struct Polling<'a>(&'a watch::Sender<Load>);

impl<'a> Polling<'a> {
    fn new(load: &'a watch::Sender<Load>) -> Self {
        load.send_modify(|load| load.polls += 1);
        Self(load)
    }
}

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|load| load.polls -= 1);
    }
}

fn answer(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(
        Full::new(Bytes::new())
            .map_err(|never| match never {})
            .boxed_unsync(),
    );
    *response.status_mut() = status;
    response
}

/// An answer that breaks the connection.
fn cut() -> Response<Body> {
    let broken =
        futures_util::stream::once(async { Err(std::io::Error::other("the platform is gone")) });
    Response::new(http_body_util::StreamBody::new(broken).boxed_unsync())
}
