//! A request to Redis, sent in one round trip.

use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value};

use super::dial::Connection;

/// A Lua script with its SHA-1 digest, which EVALSHA sends in place of the source.
pub(crate) struct Script {
    code: &'static str,
    digest: redis::Script,
}

impl Script {
    pub(crate) fn new(code: &'static str) -> Self {
        Self {
            code,
            digest: redis::Script::new(code),
        }
    }

    /// Returns a script that tests can break. With the feature `test-hooks`, the environment variable `broken` names a
    /// file that replaces the source, so that tests can show that they detect a broken script.
    pub(crate) fn breakable(code: &'static str, broken: &str) -> Self {
        #[cfg(feature = "test-hooks")]
        if let Some(path) = std::env::var_os(broken)
            && let Ok(source) = std::fs::read_to_string(path)
        {
            return Self::new(source.leak());
        }
        #[cfg(not(feature = "test-hooks"))]
        let _ = broken;
        Self::new(code)
    }
}

/// A request for one key, or for several keys in the same cluster slot.
pub(crate) struct Call {
    /// The key that selects the server in a cluster.
    key: String,
    kind: Kind,
}

enum Kind {
    Command(Cmd),
    /// Commands that are sent in one packet. They are not atomic.
    Commands(Pipeline),
    Script {
        script: &'static Script,
        keys: Vec<String>,
        arguments: Vec<Vec<u8>>,
    },
}

impl Call {
    /// Returns a call of one command with `key` as its first argument.
    pub(crate) fn command(name: &str, key: String) -> Self {
        let mut command = redis::cmd(name);
        command.arg(&key);
        Self {
            key,
            kind: Kind::Command(command),
        }
    }

    /// Returns a call that sends TIME and the commands that [`Call::and`] adds in one packet. The reply is the list of
    /// their replies. `key` selects the server in a cluster.
    ///
    /// They are not a transaction: a server without free memory rejects every transaction, and reads must still
    /// succeed.
    pub(crate) fn reads(key: &str) -> Self {
        let mut pipeline = Pipeline::with_capacity(6);
        pipeline.cmd("TIME");
        Self {
            key: key.to_owned(),
            kind: Kind::Commands(pipeline),
        }
    }

    /// Appends a command to [`Call::reads`].
    pub(crate) fn and<A: redis::ToRedisArgs>(
        mut self,
        name: &str,
        key: &str,
        arguments: &[A],
    ) -> Self {
        if let Kind::Commands(pipeline) = &mut self.kind {
            pipeline.cmd(name).arg(key).arg(arguments);
        }
        self
    }

    /// Returns a call of `script`. The first key selects the server in a cluster.
    pub(crate) fn script<const KEYS: usize>(script: &'static Script, keys: [&str; KEYS]) -> Self {
        let keys: Vec<String> = keys.into_iter().map(str::to_owned).collect();
        Self {
            key: keys.first().cloned().unwrap_or_default(),
            kind: Kind::Script {
                script,
                keys,
                arguments: Vec::new(),
            },
        }
    }

    /// Returns a request that succeeds only if the server can serve `key`. Every user of this service may run scripts,
    /// so no right is missing, and a server that loads its data or belongs to a broken cluster refuses it.
    pub(super) fn probe(key: String) -> Self {
        let mut command = redis::cmd("EVAL");
        command.arg("return 1").arg(1).arg(&key);
        Self {
            key,
            kind: Kind::Command(command),
        }
    }

    /// Returns a request for the server's time.
    pub(super) fn time() -> Self {
        Self {
            key: String::new(),
            kind: Kind::Command(redis::cmd("TIME")),
        }
    }

    /// Returns the key that selects the server in a cluster.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Returns whether the first part of the reply is the server's time.
    pub(super) fn tells_time(&self) -> bool {
        matches!(self.kind, Kind::Commands(_))
    }

    /// Returns one call for each command, if this one consists of several.
    pub(super) fn parts(&self) -> Option<Vec<Self>> {
        let Kind::Commands(pipeline) = &self.kind else {
            return None;
        };
        let part = |command: &Cmd| Self {
            key: self.key.clone(),
            kind: Kind::Command(command.clone()),
        };
        Some(pipeline.cmd_iter().map(part).collect())
    }

    /// Appends keys of a script. The first key of all selects the server in a cluster.
    pub(crate) fn keys<'a>(mut self, more: impl IntoIterator<Item = &'a str>) -> Self {
        if let Kind::Script { keys, .. } = &mut self.kind {
            keys.extend(more.into_iter().map(str::to_owned));
            if self.key.is_empty() {
                self.key = keys.first().cloned().unwrap_or_default();
            }
        }
        self
    }

    /// Appends an argument of a script.
    pub(crate) fn arg(mut self, argument: impl redis::ToRedisArgs) -> Self {
        if let Kind::Script { arguments, .. } = &mut self.kind {
            arguments.extend(argument.to_redis_args());
        }
        self
    }

    /// Sends the call and returns the server's reply. With `asking`, a server that is about to take over the slot
    /// accepts it. Sets no time limit.
    pub(super) async fn send(
        &self,
        connection: &mut Connection,
        asking: bool,
    ) -> RedisResult<Value> {
        match &self.kind {
            Kind::Command(command) => send(command, connection, asking).await,
            Kind::Commands(commands) => {
                let replies = connection.commands(commands).await?;
                match replies.iter().find_map(server_error) {
                    Some(error) => Err(error),
                    None => Ok(Value::Array(replies)),
                }
            }
            Kind::Script {
                script,
                keys,
                arguments,
            } => {
                let by_digest = invocation("EVALSHA", script.digest.get_hash(), keys, arguments);
                match send(&by_digest, connection, asking).await {
                    // The server has restarted, or its script cache was flushed. EVAL also caches the script.
                    Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                        send(
                            &invocation("EVAL", script.code, keys, arguments),
                            connection,
                            asking,
                        )
                        .await
                    }
                    outcome => outcome,
                }
            }
        }
    }
}

async fn send(command: &Cmd, connection: &mut Connection, asking: bool) -> RedisResult<Value> {
    if !asking {
        return connection.command(command).await;
    }
    // ASKING counts for the next command of the connection, so both are sent in one packet.
    let mut pipeline = Pipeline::with_capacity(2);
    pipeline.cmd("ASKING").add_command(command.clone());
    let mut replies = connection.commands(&pipeline).await?;
    let reply = replies.pop().unwrap_or(Value::Nil);
    server_error(&reply).map_or(Ok(reply), Err)
}

/// Returns the error that a reply is. The elements of a reply are never errors: no request asks for such a reply.
pub(super) fn server_error(reply: &Value) -> Option<RedisError> {
    match reply {
        Value::ServerError(error) => Some(error.clone().into()),
        _ => None,
    }
}

fn invocation(name: &str, script: &str, keys: &[String], arguments: &[Vec<u8>]) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(script).arg(keys.len()).arg(keys).arg(arguments);
    command
}

/// Returns the time of a TIME reply, or of one at the head of a list, in Unix microseconds.
pub(super) fn redis_time(reply: &Value) -> Option<u64> {
    let Value::Array(parts) = reply else {
        return None;
    };
    match parts.as_slice() {
        [Value::BulkString(seconds), Value::BulkString(micros)] => {
            let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse::<u64>().ok();
            Some(
                number(seconds)?
                    .saturating_mul(1_000_000)
                    .saturating_add(number(micros)?),
            )
        }
        [first @ Value::Array(_), ..] => redis_time(first),
        _ => None,
    }
}

/// Returns the slot and the address of a redirection of a cluster.
pub(super) fn redirection(error: &RedisError) -> Option<(u16, &str, u16)> {
    let (address, slot) = error.redirect_node()?;
    let (host, port) = address.rsplit_once(':')?;
    Some((slot, host, port.parse().ok()?))
}
