//! Everything that is recorded about an invocation, in one place for review: nothing else is logged or measured.

use std::time::Duration;

use crate::ids::{CharacterId, TurnId};

/// The figures of one invocation. A field that is `None` or empty was not reached or does not apply.
#[derive(Debug, Default)]
pub struct Figures {
    /// Name of the function, such as `chat-stream`.
    pub function: &'static str,
    /// Request id that Lambda assigned to the invocation.
    pub request_id: String,
    /// X-Ray trace id, if Lambda sent one.
    pub trace_id: Option<String>,
    /// HTTP method of the request: a standard method, or `other`.
    pub method: &'static str,
    /// Whether this is the first invocation of its process.
    pub cold_start: bool,
    /// HTTP status of the response.
    pub status: Option<u16>,
    /// Time from the arrival of the request in the function to the end of the invocation.
    pub duration: Duration,
    /// Hash of the caller's user id.
    pub user: Option<String>,
    /// Id of the character that the request names.
    pub character: Option<CharacterId>,
    /// Operations on the memory, in the order in which they ended.
    pub operations: Vec<Done>,
    /// Number of messages that the session had stored when it was read.
    pub stored_messages: Option<u64>,
    /// Whether the circuit breaker was open after the last operation on the session.
    pub breaker_open: Option<bool>,
    /// Outcome of the commit, if there was a turn to commit.
    pub commit: Option<CommitResult>,
    /// Reason why a turn ran without history or was not stored, where Redis caused it.
    pub degradation: Option<&'static str>,
    /// Figures of the turn, if one began.
    pub turn: Option<TurnFigures>,
}

/// The figures of one turn.
#[derive(Debug)]
pub struct TurnFigures {
    /// Id of the turn.
    pub id: TurnId,
    /// Whether history was read: the value of `memory` in the HTTP API.
    pub memory: &'static str,
    /// Number of stored messages that were sent upstream.
    pub history_messages: usize,
    /// Outcome of the turn: a `finish_reason` or an error `code` of the HTTP API, or `out_of_time`.
    pub outcome: &'static str,
    /// Error `code` of the HTTP API, if the upstream failed the turn.
    pub upstream_error: Option<&'static str>,
    /// Time from the arrival of the request in the function to the first delta.
    pub first_delta: Option<Duration>,
    /// Time from the arrival of the request in the function until the commit was decided, which ends the reply.
    pub reply: Option<Duration>,
    /// Tokens of the prompt and the reply, if the upstream replied at all.
    pub tokens: Option<UpstreamTokens>,
}

/// Numbers of tokens sent to and received from the upstream.
#[derive(Debug, Clone, Copy)]
pub struct UpstreamTokens {
    /// Number of tokens in the prompt.
    pub prompt: u64,
    /// Number of tokens in the reply.
    pub completion: u64,
}

/// One operation on the memory that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// Kind of the operation.
    pub operation: Operation,
    /// Outcome of the operation.
    pub status: Status,
    /// Time from the call to its end, including retries and the wait for the circuit breaker.
    pub duration: Duration,
}

/// A kind of operation on the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Loads the history of a session.
    Load,
    /// Stores a turn.
    Commit,
    /// Clears a session.
    Clear,
    /// Reads the metadata of a session.
    Session,
    /// Changes the state of a session.
    SetState,
    /// Reads a character.
    Character,
    /// Opens the record of a turn, or records more of its reply.
    Journal,
    /// Closes the record of a turn that is not stored.
    Close,
    /// Reads the record of a turn.
    Follow,
    /// Asks a turn to stop.
    Stop,
    /// Removes the newest turns of a session.
    Rewind,
    /// Reads messages of a session for a client.
    History,
    /// Lists a user's sessions.
    Sessions,
    /// Reads what is kept of a user.
    Export,
    /// Deletes what is kept of a user.
    Erase,
    /// Counts what a user has used of a limit.
    Limit,
    /// Stores, deletes or lists characters.
    Shelf,
}

impl Operation {
    pub(super) const ALL: [Self; 17] = [
        Self::Load,
        Self::Commit,
        Self::Clear,
        Self::Session,
        Self::SetState,
        Self::Character,
        Self::Journal,
        Self::Close,
        Self::Follow,
        Self::Stop,
        Self::Rewind,
        Self::History,
        Self::Sessions,
        Self::Export,
        Self::Erase,
        Self::Limit,
        Self::Shelf,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Commit => "commit",
            Self::Clear => "clear",
            Self::Session => "session",
            Self::SetState => "set_state",
            Self::Character => "character",
            Self::Journal => "journal",
            Self::Close => "close",
            Self::Follow => "follow",
            Self::Stop => "stop",
            Self::Rewind => "rewind",
            Self::History => "history",
            Self::Sessions => "sessions",
            Self::Export => "export",
            Self::Erase => "erase",
            Self::Limit => "limit",
            Self::Shelf => "shelf",
        }
    }
}

/// The outcome of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Redis answered.
    Success,
    /// Redis returned an error, could not be reached, or is known to be down.
    Failure,
    /// Redis did not answer within the operation's time budget.
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

/// The outcome of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitResult {
    /// The turn was stored.
    Saved,
    /// The turn had been stored by an earlier attempt whose response was lost.
    Duplicate,
    /// The turn was not stored, because the session was cleared after it began.
    Fenced,
    /// The turn was not stored, because another turn has its key or its place.
    Conflict,
    /// The turn was not stored, because its process was taken for dead.
    Lost,
    /// The turn was not stored, or that is unknown, because the memory is unavailable.
    Failed,
}

impl CommitResult {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Saved => "saved",
            Self::Duplicate => "duplicate",
            Self::Fenced => "fenced",
            Self::Conflict => "conflict",
            Self::Lost => "lost",
            Self::Failed => "failed",
        }
    }

    /// Returns whether the turn is in the memory.
    pub(super) fn is_saved(self) -> bool {
        match self {
            Self::Saved | Self::Duplicate => true,
            Self::Fenced | Self::Conflict | Self::Lost | Self::Failed => false,
        }
    }
}
