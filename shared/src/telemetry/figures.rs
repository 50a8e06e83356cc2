//! All that one invocation can tell of itself, in one place to be reviewed: what is not here is neither logged nor measured.

use std::time::Duration;

use crate::ids::{CharacterId, TurnId};

/// The figures of one invocation. What nobody noted did not happen.
#[derive(Debug, Default)]
pub struct Figures {
    /// The function's name.
    pub function: &'static str,
    /// The platform's id of the invocation.
    pub request_id: String,
    /// The X-Ray trace, if the platform named one.
    pub trace_id: Option<String>,
    /// The HTTP method; a word of the standard or `other`.
    pub method: &'static str,
    /// Whether it is the first invocation of its process.
    pub cold_start: bool,
    /// The HTTP status of the answer.
    pub status: Option<u16>,
    /// From the function's first sight of the event to the end.
    pub duration: Duration,
    /// A hash of the caller's id.
    pub user: Option<String>,
    /// The character that the request names.
    pub character: Option<CharacterId>,
    /// What memory was asked for, in the order of the answers.
    pub operations: Vec<Done>,
    /// Messages that the session had stored when it was read.
    pub stored_messages: Option<u64>,
    /// Whether the circuit breaker was open after the last operation on the session.
    pub breaker_open: Option<bool>,
    /// What became of the commit, if there was anything to commit.
    pub commit: Option<CommitResult>,
    /// Why Redis kept a turn from being remembered: it went on without history, or was not stored.
    pub degradation: Option<&'static str>,
    /// The turn, if one began.
    pub turn: Option<TurnFigures>,
}

/// The figures of one turn.
#[derive(Debug)]
pub struct TurnFigures {
    /// Its id.
    pub id: TurnId,
    /// What memory was like when it began, in the word of the HTTP contract.
    pub memory: &'static str,
    /// Remembered messages that were sent upstream.
    pub history_messages: usize,
    /// How it ended: a `finish_reason` or a code of the HTTP contract, or `out_of_time`.
    pub outcome: &'static str,
    /// Why the upstream failed it, in the code of the HTTP contract.
    pub upstream_error: Option<&'static str>,
    /// From the function's first sight of the event to the first delta.
    pub first_delta: Option<Duration>,
    /// From the function's first sight of the event to the decision on the commit, which is the end of the reply.
    pub reply: Option<Duration>,
    /// The tokens it took, if the upstream replied at all.
    pub tokens: Option<UpstreamTokens>,
}

/// Tokens in and out.
#[derive(Debug, Clone, Copy)]
pub struct UpstreamTokens {
    /// Of the prompt.
    pub prompt: u64,
    /// Of the reply.
    pub completion: u64,
}

/// One operation of memory.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// Which.
    pub operation: Operation,
    /// How it ended.
    pub status: Status,
    /// From the call to its end, retries and the breaker's wait included.
    pub duration: Duration,
}

/// What memory can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The history.
    Load,
    /// Storing a turn.
    Commit,
    /// Forgetting a session.
    Clear,
    /// A session's figures.
    Session,
    /// A session's new state.
    SetState,
    /// A character.
    Character,
}

impl Operation {
    pub(super) const ALL: [Self; 6] = [
        Self::Load,
        Self::Commit,
        Self::Clear,
        Self::Session,
        Self::SetState,
        Self::Character,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Commit => "commit",
            Self::Clear => "clear",
            Self::Session => "session",
            Self::SetState => "set_state",
            Self::Character => "character",
        }
    }
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Redis answered.
    Success,
    /// Redis refused, could not be reached, or is known to be down.
    Failure,
    /// Nothing came back within the operation's budget.
    Timeout,
}

impl Status {
    pub(super) const ALL: [Self; 3] = [Self::Success, Self::Failure, Self::Timeout];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Timeout => "timeout",
        }
    }
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitResult {
    /// Stored.
    Saved,
    /// Stored by an earlier attempt whose answer was lost.
    Duplicate,
    /// Not stored: the session was cleared meanwhile.
    Fenced,
    /// Not stored, or nobody knows: memory is unavailable.
    Failed,
}

impl CommitResult {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Saved => "saved",
            Self::Duplicate => "duplicate",
            Self::Fenced => "fenced",
            Self::Failed => "failed",
        }
    }

    /// Whether the turn is in memory.
    pub(super) fn is_saved(self) -> bool {
        match self {
            Self::Saved | Self::Duplicate => true,
            Self::Fenced | Self::Failed => false,
        }
    }
}
