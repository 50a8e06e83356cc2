//! Why an attempt to reach Redis failed, which decides whether to retry, reconnect, or count a failure in the
//! breaker.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::Error;

/// Why an attempt failed.
pub(super) enum Failure {
    /// No reply arrived in time. `reused` is true if an earlier operation opened the connection.
    Timeout { reused: bool },
    /// No connection could be opened.
    Connect(RedisError),
    /// The connection broke, or the server returned an error. `reused` is false for clusters: a failure that their
    /// connection could not repair is not repaired by a new one.
    Command { error: RedisError, reused: bool },
    /// The write took effect, but too few replicas acknowledged it.
    NotReplicated,
}

impl Failure {
    /// Returns whether the connection was dead before this attempt. A new connection is then tried at once, and this
    /// does not count as a retry.
    pub(super) fn was_found_dead(&self) -> bool {
        match self {
            Self::Timeout { reused } => *reused,
            Self::Command { error, reused } => *reused && error.is_unrecoverable_error(),
            Self::Connect(_) | Self::NotReplicated => false,
        }
    }

    /// Returns whether a retry a moment later may succeed.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Connect(error) => error.kind() != ErrorKind::AuthenticationFailed,
            Self::Command { error, .. } => is_outage(error) || is_wrong_server(error),
            Self::NotReplicated => false,
        }
    }

    /// Returns whether the failure concerns the server rather than this request.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Connect(_) => true,
            Self::Command { error, .. } => is_outage(error),
            Self::NotReplicated => false,
        }
    }
}

/// Returns whether the server cannot serve any request, as opposed to rejecting this one.
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

/// Returns whether this server must not take writes: another one is master now, or it is cut off from its replicas. A
/// new connection asks the sentinels for the current master.
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
