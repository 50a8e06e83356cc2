//! Why an attempt to reach Redis failed: what that means for the attempt, and the words for it in logs and metrics.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::Error;
use super::dial::ConnectError;
use crate::outbound;

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// No reply arrived in time. `reused` is true if an earlier attempt opened the connection.
    Timeout { reused: bool },
    /// No connection could be opened.
    Connect(ConnectError),
    /// The connection broke, or the server returned an error. `reused` is true if an earlier attempt opened the
    /// connection.
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
            Self::Command { error, reused } => *reused && is_broken(error),
            Self::Connect(_) | Self::NotReplicated => false,
        }
    }

    /// Returns whether a retry a moment later may succeed.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Connect(error) => !error.is_refused_login(),
            Self::Command { error, .. } => {
                is_outage(error) || is_wrong_server(error) || is_moving(error)
            }
            Self::NotReplicated => false,
        }
    }

    /// Returns whether the keys are on their way to another server of a cluster, which ends by itself.
    pub(super) fn is_moving(&self) -> bool {
        matches!(self, Self::Command { error, .. } if is_moving(error))
    }

    /// Returns whether the failure concerns the server rather than this request.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Timeout { .. } | Self::Connect(_) => true,
            Self::Command { error, .. } => is_outage(error),
            Self::NotReplicated => false,
        }
    }

    /// Returns whether another server of a cluster may have taken over.
    pub(super) fn is_of_wrong_server(&self) -> bool {
        self.is_outage() || matches!(self, Self::Command { error, .. } if is_wrong_server(error))
    }
}

/// Returns whether a connection is of no use after this error.
pub(super) fn breaks_connection(error: &RedisError) -> bool {
    is_broken(error) || is_wrong_server(error) || error.code() == Some("NOAUTH")
}

/// Returns whether no reply arrived, or one that cannot be read.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.is_unrecoverable_error()
}

/// Returns whether the server cannot serve any request, as opposed to rejecting this one.
pub(super) fn is_outage(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Io | ErrorKind::Parse | ErrorKind::AuthenticationFailed => true,
        ErrorKind::Server(kind) => {
            matches!(
                kind,
                ServerErrorKind::BusyLoading
                    | ServerErrorKind::ReadOnly
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::ClusterDown
            ) || is_full(error)
        }
        _ => matches!(error.code(), Some("NOAUTH" | "BUSY")),
    }
}

/// Returns whether the server has no free connection. It says so in place of the first reply, without a code.
fn is_full(error: &RedisError) -> bool {
    error
        .detail()
        .is_some_and(|detail| detail.starts_with("max number of clients"))
}

/// Returns whether this server must not take writes: another one is master now, or it is cut off from its replicas. A
/// new connection asks the sentinels for the current master.
fn is_wrong_server(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
        || error.code() == Some("NOREPLICAS")
}

/// Returns whether the user lacks the right to a command of a script. Redis 7 says so in a text without a code or the
/// command's name.
fn lacks_right_in_script(error: &RedisError) -> bool {
    error
        .detail()
        .is_some_and(|detail| detail.contains("can't run this command or subcommand"))
}

fn is_moving(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::TryAgain | ServerErrorKind::Moved | ServerErrorKind::Ask
        )
    )
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Timeout { .. } => Self::Timeout,
            Failure::Connect(ConnectError::Io(error)) => {
                let outbound::Failure { kind, detail } = outbound::Failure::of(&error);
                Self::Unreachable { kind, detail }
            }
            Failure::Connect(ConnectError::Secret(error)) => Self::Unreachable {
                kind: "secret",
                detail: error.reason().to_owned(),
            },
            Failure::Connect(ConnectError::NobodyServes) => Self::Unreachable {
                kind: "no_master",
                detail: "no server serves the key".to_owned(),
            },
            Failure::Connect(ConnectError::Server(error)) | Failure::Command { error, .. } => {
                Self::Redis(error)
            }
            Failure::NotReplicated => Self::NotReplicated,
        }
    }
}

/// Returns the kind of an error that a server returned, as a fixed word.
pub(super) fn kind(error: &RedisError) -> &'static str {
    match error.code() {
        Some("NOAUTH" | "WRONGPASS") => "authentication",
        Some("NOPERM") => "no_permission",
        Some("LOADING") => "loading",
        Some("BUSY") => "busy",
        Some("OOM") => "out_of_memory",
        Some("READONLY") => "read_only",
        Some("MASTERDOWN") => "master_down",
        Some("NOREPLICAS") => "no_replicas",
        Some("MISCONF") => "not_persistent",
        Some("CLUSTERDOWN") => "cluster_down",
        Some("MOVED" | "ASK" | "TRYAGAIN") => "slot_moving",
        Some("WRONGTYPE") => "wrong_type",
        _ if is_full(error) => "too_many_connections",
        _ if lacks_right_in_script(error) => "no_permission",
        _ if error.kind() == ErrorKind::AuthenticationFailed => "authentication",
        _ if is_broken(error) => "connection",
        _ => "rejected",
    }
}

/// Returns what a log may say about an error of a server beyond its kind. A server's text may repeat keys and
/// arguments, so nothing of it is used but its code and the name of a command.
pub(super) fn detail(error: &RedisError) -> String {
    let code = error.code().unwrap_or_default();
    match (code, error.detail().and_then(refused_command)) {
        ("NOPERM", Some(command)) => format!("NOPERM {command}"),
        ("", _) => error.category().to_owned(),
        _ if lacks_right_in_script(error) => "NOPERM in a script".to_owned(),
        _ => code.to_owned(),
    }
}

/// Returns the command that a user may not run, from the text of a NOPERM error, or `key` if the user lacks a key.
fn refused_command(text: &str) -> Option<&str> {
    if text.contains("access a key") || text.contains("access one of the keys") {
        return Some("key");
    }
    let command = text.split('\'').nth(1)?;
    let is_name = |byte: u8| byte.is_ascii_lowercase() || matches!(byte, b'|' | b'-' | b'_' | b'.');
    (command.len() <= 40 && command.bytes().all(is_name)).then_some(command)
}

#[cfg(test)]
mod tests {
    use redis::make_extension_error;

    use super::*;

    fn error(code: &str, text: &str) -> RedisError {
        make_extension_error(code.into(), Some(text.into()))
    }

    #[test]
    fn a_missing_right_is_named_and_nothing_else_of_the_servers_text() {
        for (text, expected) in [
            (
                "User alice has no permissions to run the 'get' command",
                "NOPERM get",
            ),
            (
                "this user has no permissions to run the 'cluster|slots' command",
                "NOPERM cluster|slots",
            ),
            ("No permissions to access a key", "NOPERM key"),
            (
                "User a'SECRET'b has no permissions to run a command",
                "NOPERM",
            ),
        ] {
            assert_eq!(detail(&error("NOPERM", text)), expected);
        }
        assert_eq!(
            detail(&error("ERR", "unknown command 'x', with args 'SECRET'")),
            "ERR"
        );
        assert_eq!(kind(&error("OOM", "command not allowed")), "out_of_memory");
    }

    #[test]
    fn what_concerns_the_server_is_an_outage() {
        for code in ["NOAUTH", "BUSY"] {
            assert!(is_outage(&error(code, "")), "{code}");
        }
        for code in ["NOPERM", "OOM", "WRONGTYPE", "MISCONF"] {
            assert!(!is_outage(&error(code, "")), "{code}");
        }
    }
}
