//! What a turn's record says about its events: a few words, from which any process makes the same events to the byte.

use std::fmt;

use super::{FailureCode, Frame, MemoryStatus, Reply, Unsaved, Usage};
use crate::llm::FinishReason;
use crate::turns::Outcome;

/// What the last event says if the owner of a turn is found dead.
pub(super) const LAST_IF_LOST: &str = "failed turn_lost";

/// Returns what the record says about the first frame; empty for any other frame.
pub(super) fn start_text(frame: &Frame) -> String {
    match frame {
        Frame::Start {
            memory,
            history_messages,
            resumable,
        } => format!("{} {history_messages} {resumable}", memory.as_str()),
        Frame::Delta(_) | Frame::Done { .. } | Frame::Failed { .. } => String::new(),
    }
}

/// Returns the first frame from what the record says about it, or `None` if it makes no sense.
pub(super) fn start_frame(text: &str) -> Option<Frame> {
    let mut words = text.split(' ');
    Some(Frame::Start {
        memory: MemoryStatus::parse(words.next()?)?,
        history_messages: words.next()?.parse().ok()?,
        resumable: words.next()?.parse().ok()?,
    })
}

/// What the last frame says, but for how the turn is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Last {
    /// The reply is complete.
    Done(Reply),
    /// The turn failed.
    Failed(FailureCode),
}

impl Last {
    /// Returns the last frame of a turn whose storage ended so.
    pub(super) fn frame(self, outcome: Outcome) -> Frame {
        let unsaved = match outcome {
            Outcome::Saved => None,
            Outcome::Cleared => Some(Unsaved::Cleared),
            Outcome::Conflict => Some(Unsaved::Conflict),
            Outcome::Memory => Some(Unsaved::Memory),
            Outcome::Empty => Some(Unsaved::Empty),
            Outcome::Lost => {
                return Frame::Failed {
                    code: FailureCode::TurnLost,
                    saved: false,
                };
            }
        };
        match self {
            Self::Done(reply) => Frame::Done { reply, unsaved },
            Self::Failed(code) => Frame::Failed {
                code,
                saved: unsaved.is_none(),
            },
        }
    }

    /// Reads what the record says, or returns `None` if it makes no sense.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        match words.next()? {
            "done" => Some(Self::Done(Reply {
                msg_id: words.next()?.to_owned(),
                user_msg_id: words.next()?.to_owned(),
                finish_reason: FinishReason::parse(words.next()?)?,
                usage: Usage {
                    prompt_tokens: words.next()?.parse().ok()?,
                    completion_tokens: words.next()?.parse().ok()?,
                },
            })),
            "failed" => Some(Self::Failed(FailureCode::parse(words.next()?)?)),
            _ => None,
        }
    }
}

/// Formats the text of the record.
impl fmt::Display for Last {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(reply) => write!(
                f,
                "done {} {} {} {} {}",
                reply.msg_id,
                reply.user_msg_id,
                reply.finish_reason.as_str(),
                reply.usage.prompt_tokens,
                reply.usage.completion_tokens
            ),
            Self::Failed(code) => write!(f, "failed {}", code.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_frame_reads_back() {
        for memory in MemoryStatus::ALL {
            for resumable in [true, false] {
                let frame = Frame::Start {
                    memory,
                    history_messages: 12,
                    resumable,
                };
                assert_eq!(start_frame(&start_text(&frame)), Some(frame));
            }
        }
        for text in ["", "ok", "ok 1", "ok x true", "other 1 true"] {
            assert_eq!(start_frame(text), None, "{text}");
        }
    }

    #[test]
    fn the_last_frame_reads_back() {
        let done = |finish_reason| {
            Last::Done(Reply {
                msg_id: "m".into(),
                user_msg_id: "u".into(),
                finish_reason,
                usage: Usage {
                    prompt_tokens: u64::MAX,
                    completion_tokens: 0,
                },
            })
        };
        let lasts = FinishReason::ALL
            .map(done)
            .into_iter()
            .chain(FailureCode::ALL.map(Last::Failed));
        for last in lasts {
            assert_eq!(Last::parse(&last.to_string()), Some(last));
        }
        assert_eq!(
            Last::parse(LAST_IF_LOST),
            Some(Last::Failed(FailureCode::TurnLost))
        );
        for text in [
            "",
            "done",
            "done m u stop 1",
            "done m u other 1 2",
            "failed other",
        ] {
            assert_eq!(Last::parse(text), None, "{text}");
        }
    }
}
