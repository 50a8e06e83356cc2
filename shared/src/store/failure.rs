//! Why an attempt to reach Redis failed, and what follows from it: another attempt, another connection, the breaker.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::Error;

/// Why an attempt failed.
pub(super) enum Failure {
    /// No answer in time, on a connection that was reused or not.
    Timeout { reused: bool },
    /// The connection could not be made.
    Connect(RedisError),
    /// The connection broke, or the server answered with an error. What a cluster's connection could not mend by itself is
    /// not mended by a new one, so there `reused` is false.
    Command { error: RedisError, reused: bool },
    /// It was done, but on fewer replicas than asked for.
    NotReplicated,
}

impl Failure {
    /// Whether the connection was dead before this attempt, which then cost nothing but the discovery.
    pub(super) fn was_found_dead(&self) -> bool {
        match self {
            Self::Timeout { reused } => *reused,
            Self::Command { error, reused } => *reused && error.is_unrecoverable_error(),
            Self::Connect(_) | Self::NotReplicated => false,
        }
    }

    /// Whether the server may answer differently in a moment.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Connect(error) => error.kind() != ErrorKind::AuthenticationFailed,
            Self::Command { error, .. } => is_outage(error) || is_wrong_server(error),
            Self::NotReplicated => false,
        }
    }

    /// Whether it tells of the server rather than of this request.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Connect(_) => true,
            Self::Command { error, .. } => is_outage(error),
            Self::NotReplicated => false,
        }
    }
}

/// Whether the server is in no state to serve, as opposed to refusing this request.
pub(super) fn is_outage(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Io
        | ErrorKind::Parse
        | ErrorKind::AuthenticationFailed
        | ErrorKind::ClusterConnectionNotFound
        | ErrorKind::MasterNameNotFoundBySentinel => true,
        ErrorKind::Server(kind) => matches!(
            kind,
            ServerErrorKind::BusyLoading
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::TryAgain
        ),
        _ => false,
    }
}

/// Whether another server is master now, or this one is cut off from its replicas and must not take writes. The sentinels
/// know better.
pub(super) fn is_wrong_server(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
        || error.code() == Some("NOREPLICAS")
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Timeout { .. } => Self::Timeout,
            Failure::Connect(error) | Failure::Command { error, .. } => Self::Redis(error),
            Failure::NotReplicated => Self::NotReplicated,
        }
    }
}
