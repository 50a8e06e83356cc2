//! A response that is arriving from a function.

use std::collections::VecDeque;
use std::time::Instant;

use http::HeaderMap;
use tokio::sync::mpsc;

use super::ANSWER_WITHIN;
use super::api::Part;
use crate::answer::{Answer, Chunk, EventParser, Head, SseEvent};

/// An answer that is arriving. Dropping it breaks the function's connection to the platform.
pub struct Streaming {
    answer: Answer,
    received: mpsc::Receiver<Part>,
    parser: EventParser,
    events: VecDeque<SseEvent>,
    ended: bool,
    peer_port: u16,
}

impl Streaming {
    pub(super) fn new(request_id: String, received: mpsc::Receiver<Part>) -> Self {
        Self {
            answer: Answer {
                request_id,
                status: 0,
                headers: HeaderMap::new(),
                chunks: Vec::new(),
                error: None,
                truncated: false,
                streamed: false,
                handed_over: Instant::now(),
                ended: Instant::now(),
            },
            received,
            parser: EventParser::default(),
            events: VecDeque::new(),
            ended: false,
            peer_port: 0,
        }
    }

    /// Waits for the status and headers, or for the end if there are none.
    pub(super) async fn begin(&mut self) {
        while self.answer.status == 0 && !self.ended {
            self.receive().await;
        }
    }

    pub(super) fn handed_over_at(&mut self, at: Instant) {
        self.answer.handed_over = at;
    }

    /// Returns the function's own port of the connection that carries the answer.
    #[must_use]
    pub fn carried_by(&self) -> u16 {
        self.peer_port
    }

    /// Returns the HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.answer.status
    }

    /// Returns the response headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.answer.headers
    }

    /// Breaks the function's connection to the platform, as dropping this does.
    pub fn drop_connection(self) {}

    /// Returns the next event, or `None` at the end.
    ///
    /// # Panics
    /// If neither arrives within two minutes.
    pub async fn next_event(&mut self) -> Option<SseEvent> {
        while self.events.is_empty() && !self.ended {
            let received = tokio::time::timeout(ANSWER_WITHIN, self.receive()).await;
            assert!(received.is_ok(), "neither an event nor the end in time");
        }
        self.events.pop_front()
    }

    /// Waits for the rest and returns the whole answer.
    ///
    /// # Panics
    /// If the answer does not end within two minutes.
    pub async fn finish(mut self) -> Answer {
        let ended = tokio::time::timeout(ANSWER_WITHIN, async {
            while !self.ended {
                self.receive().await;
            }
        });
        assert!(ended.await.is_ok(), "the answer did not end in time");
        self.answer
    }

    async fn receive(&mut self) {
        match self.received.recv().await {
            Some(Part::Head { head, peer_port }) => {
                self.answer.streamed = true;
                self.head(&head, peer_port);
            }
            Some(Part::Whole { json, peer_port }) => {
                let head: Head = serde_json::from_slice(&json).expect("the answer to a request");
                self.head(&head, peer_port);
                self.answer.chunks.push(Chunk {
                    bytes: head.body(),
                    at: Instant::now(),
                });
            }
            Some(Part::Chunk(chunk)) => {
                let is_stream = self
                    .answer
                    .headers
                    .get("content-type")
                    .is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
                if is_stream {
                    self.events.extend(self.parser.push(&chunk));
                }
                self.answer.chunks.push(chunk);
            }
            Some(Part::Error(error)) => self.answer.error = Some(error),
            Some(Part::Truncated) => self.answer.truncated = true,
            None => {
                self.answer.ended = Instant::now();
                self.ended = true;
            }
        }
    }
    fn head(&mut self, head: &Head, peer_port: u16) {
        self.peer_port = peer_port;
        self.answer.status = head.status_code;
        self.answer.headers = head.headers();
    }
}
