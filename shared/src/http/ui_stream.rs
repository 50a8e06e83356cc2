//! The AI SDK's UI message stream, version 1: the same frames of a turn, as the parts from which `useChat` builds a
//! message.
//!
//! Each part is a line `data: {…}`; the line `data: [DONE]` is the last. Older versions of the SDK refuse a part that
//! has a field which their schemas do not name, so the parts have no others. What the protocol has no word for is in
//! parts of the types `data-start`, `data-done` and `data-error`, whose `data` the SDK passes on as it is.

use std::io::Write;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderName, HeaderValue};
use serde::Serialize;

use super::turn_json::{Ended, FAILED, Failed, Start};
use crate::chat::Frame;
use crate::ids::TurnId;
use crate::llm::FinishReason;

/// The header that names the protocol.
pub(super) const HEADER: HeaderName = HeaderName::from_static("x-vercel-ai-ui-message-stream");
/// The version of the protocol.
pub(super) const VERSION: HeaderValue = HeaderValue::from_static("v1");

/// The id of the only text of a message.
const TEXT: &str = "text";
const DONE: &[u8] = b"data: [DONE]\n\n";

/// A part of the stream, of one of the types that the protocol defines.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
enum Part<'a> {
    Start {
        #[serde(rename = "messageId")]
        message_id: &'a str,
    },
    /// Transient: the SDK reports it and does not add it to the message, which therefore stays empty until there is
    /// text.
    DataStart {
        data: StartedTurn<'a>,
        transient: bool,
    },
    TextStart {
        id: &'static str,
    },
    TextDelta {
        id: &'static str,
        delta: &'a str,
    },
    TextEnd {
        id: &'static str,
    },
    DataDone {
        data: Ended<'a>,
    },
    DataError {
        data: FailedTurn<'a>,
    },
    Finish {
        #[serde(rename = "finishReason")]
        finish_reason: &'static str,
    },
    Abort,
    Error {
        #[serde(rename = "errorText")]
        error_text: &'static str,
    },
}

/// What is known when the turn has begun, with the ids that its messages have once they are stored.
#[derive(Serialize)]
struct StartedTurn<'a> {
    #[serde(flatten)]
    start: Start<'a>,
    msg_id: &'a str,
    user_msg_id: &'a str,
}

/// How a turn failed, with the id of its message: of a turn that is stored in part, the SDK shows both messages.
#[derive(Serialize)]
struct FailedTurn<'a> {
    #[serde(flatten)]
    failed: Failed<'a>,
    user_msg_id: &'a str,
}

/// Encodes the frames of one turn, from the first to the last.
pub(super) struct Encoder {
    turn: TurnId,
    /// Whether the text has begun.
    has_text: bool,
    has_ended: bool,
}

impl Encoder {
    pub(super) fn new(turn: TurnId) -> Self {
        Self {
            turn,
            has_text: false,
            has_ended: false,
        }
    }

    /// Appends the parts of `frame` to `into`.
    pub(super) fn encode(&mut self, frame: &Frame, into: &mut BytesMut) {
        match frame {
            Frame::Start {
                memory,
                history_messages,
                resumable,
            } => {
                let message_id = &self.turn.reply_id();
                part(into, &Part::Start { message_id });
                let turn_id = &self.turn.to_string();
                let data = StartedTurn {
                    start: Start::new(turn_id, *memory, *history_messages, *resumable),
                    msg_id: message_id,
                    user_msg_id: &self.turn.message_id(),
                };
                let transient = true;
                part(into, &Part::DataStart { data, transient });
            }
            Frame::Delta(delta) => {
                if !std::mem::replace(&mut self.has_text, true) {
                    part(into, &Part::TextStart { id: TEXT });
                }
                part(into, &Part::TextDelta { id: TEXT, delta });
            }
            Frame::Done { reply, unsaved } => {
                self.end_text(into);
                let turn_id = &self.turn.to_string();
                let data = Ended::new(turn_id, reply, *unsaved);
                part(into, &Part::DataDone { data });
                part(into, &last(reply.finish_reason));
                self.end(into);
            }
            Frame::Failed { code, saved } => {
                self.end_text(into);
                let turn_id = &self.turn.to_string();
                let data = FailedTurn {
                    failed: Failed::new(turn_id, *code, *saved),
                    user_msg_id: &self.turn.message_id(),
                };
                part(into, &Part::DataError { data });
                // The SDK reads nothing after it.
                part(into, &Part::Error { error_text: FAILED });
                self.end(into);
            }
        }
    }

    /// Returns the end of a stream that stops before its last frame, because its process can read no further, or `None`
    /// after the last. The SDK takes a stream that merely stops for a complete one.
    pub(super) fn cut(&mut self) -> Option<Bytes> {
        if std::mem::replace(&mut self.has_ended, true) {
            return None;
        }
        let mut bytes = BytesMut::new();
        part(&mut bytes, &Part::Error { error_text: FAILED });
        Some(bytes.into())
    }

    fn end_text(&self, into: &mut BytesMut) {
        if self.has_text {
            part(into, &Part::TextEnd { id: TEXT });
        }
    }

    fn end(&mut self, into: &mut BytesMut) {
        into.extend_from_slice(DONE);
        self.has_ended = true;
    }
}

/// Returns the last part of a complete reply.
fn last(finish_reason: FinishReason) -> Part<'static> {
    let finish_reason = match finish_reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::ContentFilter => "content-filter",
        FinishReason::Stopped => return Part::Abort,
    };
    Part::Finish { finish_reason }
}

/// Appends one part to `into`. Serialized JSON contains no line breaks, so one line holds it.
fn part(into: &mut BytesMut, part: &Part<'_>) {
    let mut into = into.writer();
    // Writing text and numbers to memory cannot fail.
    let _ = into.write_all(b"data: ");
    let _ = serde_json::to_writer(&mut into, part);
    let _ = into.write_all(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{FailureCode, MemoryStatus, Reply, Unsaved, Usage};

    const TURN: &str = "01234567-89ab-7cde-8f01-23456789abcd";
    const REPLY: &str = "01234567-89ab-7cde-8f01-23456789abcf";
    const MESSAGE: &str = "01234567-89ab-7cde-8f01-23456789abcc";

    fn encoder() -> Encoder {
        Encoder::new(TurnId::parse(TURN).expect("a UUID"))
    }

    fn text(frames: &[Frame]) -> String {
        let mut encoder = encoder();
        let mut bytes = BytesMut::new();
        for frame in frames {
            encoder.encode(frame, &mut bytes);
        }
        String::from_utf8(bytes.to_vec()).expect("UTF-8")
    }

    fn start() -> Frame {
        Frame::Start {
            memory: MemoryStatus::Ok,
            history_messages: 12,
            resumable: true,
        }
    }

    fn done(finish_reason: FinishReason, unsaved: Option<Unsaved>) -> Frame {
        Frame::Done {
            reply: Reply {
                msg_id: REPLY.into(),
                user_msg_id: MESSAGE.into(),
                finish_reason,
                usage: Usage {
                    prompt_tokens: 310,
                    completion_tokens: 42,
                },
            },
            unsaved,
        }
    }

    const BEGINNING: &str = "data: {\"type\":\"start\",\"messageId\":\"01234567-89ab-7cde-8f01-23456789abcf\"}\n\n\
        data: {\"type\":\"data-start\",\"data\":{\"turn_id\":\"01234567-89ab-7cde-8f01-23456789abcd\",\"memory\":\"ok\",\"history_messages\":12,\"resumable\":true,\"msg_id\":\"01234567-89ab-7cde-8f01-23456789abcf\",\"user_msg_id\":\"01234567-89ab-7cde-8f01-23456789abcc\"},\"transient\":true}\n\n";

    #[test]
    fn a_turn_is_that_of_the_contract_to_the_byte() {
        let deltas = ["你好\n", "\"🙂\""].map(|delta| Frame::Delta(delta.to_owned()));
        let [first, second] = deltas;
        assert_eq!(
            text(&[start(), first, second, done(FinishReason::Stop, None)]),
            format!(
                "{BEGINNING}\
                data: {{\"type\":\"text-start\",\"id\":\"text\"}}\n\n\
                data: {{\"type\":\"text-delta\",\"id\":\"text\",\"delta\":\"你好\\n\"}}\n\n\
                data: {{\"type\":\"text-delta\",\"id\":\"text\",\"delta\":\"\\\"🙂\\\"\"}}\n\n\
                data: {{\"type\":\"text-end\",\"id\":\"text\"}}\n\n\
                data: {{\"type\":\"data-done\",\"data\":{{\"turn_id\":\"{TURN}\",\"msg_id\":\"{REPLY}\",\"user_msg_id\":\"{MESSAGE}\",\
                \"finish_reason\":\"stop\",\"saved\":true,\"usage\":{{\"prompt_tokens\":310,\"completion_tokens\":42}}}}}}\n\n\
                data: {{\"type\":\"finish\",\"finishReason\":\"stop\"}}\n\n\
                data: [DONE]\n\n"
            )
        );
    }

    #[test]
    fn a_reply_ends_with_the_sdks_word_for_its_reason() {
        for (reason, last) in [
            (
                FinishReason::Stop,
                r#"{"type":"finish","finishReason":"stop"}"#,
            ),
            (
                FinishReason::Length,
                r#"{"type":"finish","finishReason":"length"}"#,
            ),
            (
                FinishReason::ContentFilter,
                r#"{"type":"finish","finishReason":"content-filter"}"#,
            ),
            (FinishReason::Stopped, r#"{"type":"abort"}"#),
        ] {
            let said = text(&[start(), Frame::Delta("半".into()), done(reason, None)]);
            let end = format!("\n\ndata: {last}\n\ndata: [DONE]\n\n");
            assert!(said.ends_with(&end), "{said}");
        }
    }

    #[test]
    fn a_reply_without_text_has_no_text_part() {
        let said = text(&[start(), done(FinishReason::Stop, Some(Unsaved::Empty))]);
        assert!(!said.contains("text-"), "{said}");
        assert!(
            said.contains("\"saved\":false,\"unsaved\":\"empty\""),
            "{said}"
        );
    }

    #[test]
    fn a_failure_is_told_before_the_part_at_which_the_sdk_stops_reading() {
        for (code, saved, deltas, text_end) in [
            (FailureCode::UpstreamUnavailable, false, &[][..], ""),
            (
                FailureCode::UpstreamInterrupted,
                true,
                &["半"][..],
                "data: {\"type\":\"text-start\",\"id\":\"text\"}\n\n\
                data: {\"type\":\"text-delta\",\"id\":\"text\",\"delta\":\"半\"}\n\n\
                data: {\"type\":\"text-end\",\"id\":\"text\"}\n\n",
            ),
        ] {
            let deltas = deltas.iter().map(|delta| Frame::Delta((*delta).to_owned()));
            let mut frames = vec![start()];
            frames.extend(deltas);
            frames.push(Frame::Failed { code, saved });
            let code = code.as_str();
            assert_eq!(
                text(&frames),
                format!(
                    "{BEGINNING}{text_end}\
                    data: {{\"type\":\"data-error\",\"data\":{{\"error\":\"{FAILED}\",\"code\":\"{code}\",\"turn_id\":\"{TURN}\",\"saved\":{saved},\"user_msg_id\":\"{MESSAGE}\"}}}}\n\n\
                    data: {{\"type\":\"error\",\"errorText\":\"{FAILED}\"}}\n\n\
                    data: [DONE]\n\n"
                )
            );
        }
    }

    #[test]
    fn a_stream_that_stops_early_ends_with_one_error_and_a_whole_one_with_none() {
        let (mut early, mut whole) = (encoder(), encoder());
        early.encode(&start(), &mut BytesMut::new());
        let error = format!("data: {{\"type\":\"error\",\"errorText\":\"{FAILED}\"}}\n\n");
        assert_eq!(early.cut(), Some(error.into()));
        assert_eq!(early.cut(), None);
        whole.encode(&done(FinishReason::Stop, None), &mut BytesMut::new());
        assert_eq!(whole.cut(), None);
    }
}
