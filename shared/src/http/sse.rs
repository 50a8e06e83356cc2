//! Server-sent events: encodes a turn's frames in the form that the client asked for, and sends heartbeats.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::Write;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::unfold;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response};
use http_body::Frame as BodyFrame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use lambda_http::Body;
use serde::Serialize;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::{Instant, Sleep, sleep};

use super::turn_json::{Ended, Failed, Start};
use super::{Answer, ui_stream};
use crate::chat::{Frame, Turn};
use crate::ids::TurnId;

/// Time without a frame after which a comment is sent, because gateways close streams that seem idle.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
const PING: &[u8] = b": ping\n\n";

/// The body of a response that may stream. It cannot fail: the runtime would write an error into the body like data,
/// so errors are sent as events.
pub type StreamingBody = UnsyncBoxBody<Bytes, Infallible>;
/// A response that may stream.
pub type StreamingAnswer = Response<StreamingBody>;

/// The form in which a turn is streamed: the `protocol` of the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// The events of this service; the form without a `protocol`.
    Events,
    /// `ui-message-stream`: the UI message stream of the AI SDK, version 1.
    UiMessageStream,
}

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Capacity of the buffer that chunks are cut from, in bytes; fits several typical delta events.
const BUFFER_BYTES: usize = 512;
/// Size, in bytes, at which a chunk of merged frames is sent.
const MAX_CHUNK_BYTES: usize = 8 * 1024;
/// Frames closer together than this form a burst.
const BURST_GAP: Duration = Duration::from_micros(500);
/// Number of times that other tasks may run before a burst counts as over. A delta passes through two tasks on its
/// way here: the upstream's connection and the turn.
const COALESCE_ROUNDS: usize = 2;

/// Returns the response that streams a turn.
#[must_use]
pub fn stream(turn: Turn, protocol: Protocol) -> StreamingAnswer {
    let encoder = match protocol {
        Protocol::Events => Encoder::Events {
            turn: turn.id(),
            text_bytes: turn.seen(),
        },
        Protocol::UiMessageStream => Encoder::Ui(ui_stream::Encoder::new(turn.id())),
    };
    // Boxed, because `unfold` moves it with each chunk.
    let following = Box::new(Following {
        turn,
        encoder,
        buffer: BytesMut::with_capacity(BUFFER_BYTES),
        silence: Box::pin(sleep(HEARTBEAT_INTERVAL)),
        sent: None,
        alone: Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread,
    });
    let frames = unfold(following, |mut following| async {
        let bytes = following.next_chunk().await?;
        Some((Ok(BodyFrame::data(bytes)), following))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    // Proxies between here and the client must neither compress nor collect the stream.
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-transform"),
    );
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    if protocol == Protocol::UiMessageStream {
        headers.insert(ui_stream::HEADER, ui_stream::VERSION);
    }
    response
}

/// The state of a response body that streams a turn.
struct Following {
    turn: Turn,
    encoder: Encoder,
    /// Empty between chunks. They share its memory, so most need none of their own.
    buffer: BytesMut,
    /// Elapses when a heartbeat is due. One timer for the whole stream: to postpone it costs less than to make one for each
    /// chunk.
    silence: Pin<Box<Sleep>>,
    /// When the last chunk was sent; `None` before the first delta.
    sent: Option<Instant>,
    /// Whether this thread serves a single response. With several, yielding may take arbitrarily long.
    alone: bool,
}

impl Following {
    /// Returns the next chunk of the body, or `None` at its end. In a burst, frames that are ready are merged,
    /// because each chunk costs the runtime a wake-up and a system call. The first delta is never merged, and merging
    /// never waits for I/O.
    async fn next_chunk(&mut self) -> Option<Bytes> {
        let heartbeat_at = Instant::now() + HEARTBEAT_INTERVAL;
        self.silence.as_mut().reset(heartbeat_at);
        let frame = tokio::select! {
            biased;
            frame = self.turn.next() => frame,
            () = &mut self.silence => return Some(Bytes::from_static(PING)),
        };
        let Some(frame) = frame else {
            return self.encoder.cut();
        };
        self.encoder.encode(&frame, &mut self.buffer);
        let in_burst = self.sent.is_some_and(|sent| sent.elapsed() < BURST_GAP);
        if in_burst && self.alone {
            let mut rounds = 0;
            while rounds < COALESCE_ROUNDS
                && self.buffer.len() < MAX_CHUNK_BYTES
                && !self.turn.has_ended()
            {
                run_ready_tasks().await;
                rounds += 1;
                if let Some(frame) = self.turn.try_next() {
                    self.encoder.encode(&frame, &mut self.buffer);
                    rounds = 0;
                }
            }
        }
        if self.sent.is_some() || matches!(frame, Frame::Delta(_)) {
            self.sent = Some(Instant::now());
        }
        Some(self.buffer.split().freeze())
    }
}

/// Encodes the frames of one turn, in order.
enum Encoder {
    /// Into the events of this service.
    Events {
        turn: TurnId,
        /// Bytes of the reply's text up to the last frame that was encoded.
        text_bytes: usize,
    },
    /// Into the AI SDK's parts.
    Ui(ui_stream::Encoder),
}

impl Encoder {
    /// Appends the encoded `frame` to `into`.
    fn encode(&mut self, frame: &Frame, into: &mut BytesMut) {
        match self {
            Self::Events { turn, text_bytes } => {
                if let Frame::Delta(content) = frame {
                    *text_bytes += content.len();
                }
                encode(*turn, frame, *text_bytes, into);
            }
            Self::Ui(encoder) => encoder.encode(frame, into),
        }
    }

    /// Returns what a stream ends with that has no further frames, if anything.
    fn cut(&mut self) -> Option<Bytes> {
        match self {
            Self::Events { .. } => None,
            Self::Ui(encoder) => encoder.cut(),
        }
    }
}

/// Lets every ready task run once. Tokio's `yield_now` would also poll the system for I/O events, which costs more
/// than a frame.
async fn run_ready_tasks() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Returns a buffered response as a streaming one.
#[must_use]
pub fn whole(answer: Answer) -> StreamingAnswer {
    answer.map(|body| {
        let bytes = match body {
            Body::Text(text) => text.into(),
            Body::Binary(bytes) => bytes.into(),
            _ => Bytes::new(),
        };
        Full::new(bytes).boxed_unsync()
    })
}

#[derive(Serialize)]
struct Delta<'a> {
    content: &'a str,
    done: bool,
}

#[derive(Serialize)]
struct Done<'a> {
    content: &'static str,
    done: bool,
    #[serde(flatten)]
    ended: Ended<'a>,
}

/// Appends the event of `frame` to `into`. `text_bytes` is the length of the reply's text up to this frame.
fn encode(turn: TurnId, frame: &Frame, text_bytes: usize, into: &mut BytesMut) {
    let id = Id(Some(text_bytes));
    match frame {
        Frame::Start {
            memory,
            history_messages,
            resumable,
        } => event(
            into,
            "start",
            id,
            &Start::new(&turn.to_string(), *memory, *history_messages, *resumable),
        ),
        Frame::Delta(content) => event(
            into,
            "message",
            id,
            &Delta {
                content,
                done: false,
            },
        ),
        Frame::Done { reply, unsaved } => event(
            into,
            "message",
            Id(None),
            &Done {
                content: "",
                done: true,
                ended: Ended::new(&turn.to_string(), reply, *unsaved),
            },
        ),
        Frame::Failed { code, saved } => event(
            into,
            "error",
            Id(None),
            &Failed::new(&turn.to_string(), *code, *saved),
        ),
    }
}

/// The id of an event: the number of bytes of reply text so far, or `done` for the last event.
#[derive(Clone, Copy)]
struct Id(Option<usize>);

/// Appends one event to `into`. Serialized JSON contains no line breaks, so one `data` line holds it.
fn event(into: &mut BytesMut, name: &str, id: Id, data: &impl Serialize) {
    let mut into = into.writer();
    // Writing text and numbers to memory cannot fail.
    let _ = match id {
        Id(Some(bytes)) => write!(into, "id: {bytes}\nevent: {name}\ndata: "),
        Id(None) => write!(into, "id: done\nevent: {name}\ndata: "),
    };
    let _ = serde_json::to_writer(&mut into, data);
    let _ = into.write_all(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{self, FailureCode, MemoryStatus, Unsaved};
    use crate::llm::FinishReason;

    fn text(frame: &Frame) -> String {
        let turn = TurnId::parse("01234567-89ab-7cde-8f01-23456789abcd").expect("a UUID");
        let mut bytes = BytesMut::new();
        encode(turn, frame, 7, &mut bytes);
        String::from_utf8(bytes.to_vec()).expect("UTF-8")
    }

    #[test]
    fn frames_are_those_of_the_contract_to_the_byte() {
        assert_eq!(
            text(&Frame::Start {
                memory: MemoryStatus::Ok,
                history_messages: 12,
                resumable: true
            }),
            "id: 7\nevent: start\ndata: {\"turn_id\":\"01234567-89ab-7cde-8f01-23456789abcd\",\"memory\":\"ok\",\"history_messages\":12,\"resumable\":true}\n\n"
        );
        assert_eq!(
            text(&Frame::Delta("你好\n\"🙂\"".into())),
            "id: 7\nevent: message\ndata: {\"content\":\"你好\\n\\\"🙂\\\"\",\"done\":false}\n\n"
        );
        for (unsaved, said) in [
            (None, "\"saved\":true"),
            (
                Some(Unsaved::Cleared),
                "\"saved\":false,\"unsaved\":\"cleared\"",
            ),
            (
                Some(Unsaved::Conflict),
                "\"saved\":false,\"unsaved\":\"conflict\"",
            ),
            (
                Some(Unsaved::Memory),
                "\"saved\":false,\"unsaved\":\"memory\"",
            ),
            (
                Some(Unsaved::Empty),
                "\"saved\":false,\"unsaved\":\"empty\"",
            ),
        ] {
            assert_eq!(
                text(&Frame::Done {
                    reply: chat::Reply {
                        msg_id: "m".into(),
                        user_msg_id: "u".into(),
                        finish_reason: FinishReason::ContentFilter,
                        usage: chat::Usage {
                            prompt_tokens: 310,
                            completion_tokens: 42
                        },
                    },
                    unsaved,
                }),
                format!(
                    "id: done\nevent: message\ndata: {{\"content\":\"\",\"done\":true,\"turn_id\":\"01234567-89ab-7cde-8f01-23456789abcd\",\
                     \"msg_id\":\"m\",\"user_msg_id\":\"u\",\"finish_reason\":\"content_filter\",{said},\
                     \"usage\":{{\"prompt_tokens\":310,\"completion_tokens\":42}}}}\n\n"
                )
            );
        }
        assert_eq!(
            text(&Frame::Failed {
                code: FailureCode::UpstreamTimeout,
                saved: false
            }),
            "id: done\nevent: error\ndata: {\"error\":\"服务暂时不可用，请稍后重试\",\"code\":\"upstream_timeout\",\
             \"turn_id\":\"01234567-89ab-7cde-8f01-23456789abcd\",\"saved\":false}\n\n"
        );
    }
}
