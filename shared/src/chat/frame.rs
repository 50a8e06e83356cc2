//! The frames of a turn, which its clients see as events.

use crate::llm::FinishReason;

/// One frame of a turn, as sent to the client: one `Start`, then any number of `Delta`s, then `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The turn has started.
    Start {
        /// Whether the history could be read.
        memory: MemoryStatus,
        /// Number of stored messages that are sent upstream.
        history_messages: usize,
        /// Whether the turn is recorded, so that a client can come back to it.
        resumable: bool,
    },
    /// The next piece of the reply's text.
    Delta(String),
    /// The reply is complete and the commit is decided.
    Done {
        /// The complete reply, but for its text.
        reply: Reply,
        /// The reason why the turn is not stored; `None` if it is.
        unsaved: Option<Unsaved>,
    },
    /// The turn failed and the commit is decided.
    Failed {
        /// Reason why the turn failed.
        code: FailureCode,
        /// Whether the part of the reply that the client received is stored.
        saved: bool,
    },
}

/// A complete reply, but for its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Id of the reply's message.
    pub msg_id: String,
    /// Id of the user's message.
    pub user_msg_id: String,
    /// Reason why the reply ended.
    pub finish_reason: FinishReason,
    /// Numbers of tokens that the turn used.
    pub usage: Usage,
}

/// Whether the history could be read when the turn began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryStatus {
    /// The history was read and holds messages.
    Ok,
    /// The history was read and is empty.
    Empty,
    /// The history could not be read. The turn runs without it.
    Unavailable,
}

impl MemoryStatus {
    pub(super) const ALL: [Self; 3] = [Self::Ok, Self::Empty, Self::Unavailable];

    pub(super) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Returns the value of `memory` in the HTTP API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Empty => "empty",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Numbers of tokens that a turn used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Number of tokens in the prompt, including the system prompt and the history.
    pub prompt_tokens: u64,
    /// Number of tokens in the reply.
    pub completion_tokens: u64,
}

/// The reason why a turn failed, as reported to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureCode {
    /// The upstream could not be reached, or cannot serve requests at present.
    UpstreamUnavailable,
    /// The upstream was silent for too long, or the invocation ran out of time.
    UpstreamTimeout,
    /// The upstream rejected the request.
    UpstreamRejected,
    /// The upstream failed mid-reply.
    UpstreamInterrupted,
    /// The process that ran the turn died.
    TurnLost,
    /// This service has a defect.
    Internal,
}

impl FailureCode {
    pub(super) const ALL: [Self; 6] = [
        Self::UpstreamUnavailable,
        Self::UpstreamTimeout,
        Self::UpstreamRejected,
        Self::UpstreamInterrupted,
        Self::TurnLost,
        Self::Internal,
    ];

    pub(super) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == word)
    }

    /// Returns the value of `code` in the HTTP API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UpstreamUnavailable => "upstream_unavailable",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamRejected => "upstream_rejected",
            Self::UpstreamInterrupted => "upstream_interrupted",
            Self::TurnLost => "turn_lost",
            Self::Internal => "internal",
        }
    }
}

/// The reason why a complete reply is not stored: the value of `unsaved` in the HTTP API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsaved {
    /// The session was cleared while the turn ran.
    Cleared,
    /// Another turn with the same idempotency key is stored.
    Conflict,
    /// Memory could not be written.
    Memory,
    /// There is no reply, or one that shows nothing.
    Empty,
}

impl Unsaved {
    /// Returns the value of `unsaved` in the HTTP API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cleared => "cleared",
            Self::Conflict => "conflict",
            Self::Memory => "memory",
            Self::Empty => "empty",
        }
    }
}
