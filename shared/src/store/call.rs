//! A request to Redis, sent in one round trip.

pub(crate) use redis::Pipeline;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};

use super::topology::Connection;

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
}

/// The acknowledgements that a write waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Replicas {
    /// Number of replicas that must have the write.
    pub(super) count: u32,
    /// Longest wait for the acknowledgements, in milliseconds.
    pub(super) wait_milliseconds: u64,
}

/// A request for one key, or for several keys in the same cluster slot.
pub(crate) struct Call {
    /// The key that selects the server in a cluster.
    key: String,
    kind: Kind,
}

enum Kind {
    Command(Cmd),
    Script {
        script: &'static Script,
        keys: Vec<String>,
        arguments: Vec<Vec<u8>>,
        replicas: Option<Replicas>,
        /// Equivalent commands, used instead of the script on a connection to one server.
        plain: Option<Pipeline>,
    },
}

/// Why a call failed on a working connection.
pub(super) enum CallError {
    /// The connection broke, or the server returned an error.
    Redis(RedisError),
    /// The write took effect, but too few replicas acknowledged it.
    NotReplicated,
}

impl From<RedisError> for CallError {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
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

    /// Returns a call of `script`. The first key selects the server in a cluster.
    pub(crate) fn script<const KEYS: usize>(script: &'static Script, keys: [&str; KEYS]) -> Self {
        let keys: Vec<String> = keys.into_iter().map(str::to_owned).collect();
        Self {
            key: keys.first().cloned().unwrap_or_default(),
            kind: Kind::Script {
                script,
                keys,
                arguments: Vec::new(),
                replicas: None,
                plain: None,
            },
        }
    }

    /// Returns the cheapest request that succeeds only if the server of `key` is healthy.
    pub(super) fn probe(key: String) -> Self {
        Self::command("EXISTS", key)
    }

    /// Returns the key that selects the server in a cluster.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Appends an argument.
    pub(crate) fn arg(mut self, argument: impl redis::ToRedisArgs) -> Self {
        match &mut self.kind {
            Kind::Command(command) => {
                command.arg(argument);
            }
            Kind::Script { arguments, .. } => arguments.extend(argument.to_redis_args()),
        }
        self
    }

    /// Sets commands that replace the script where one server has all keys. They are sent in one packet and cost less
    /// than a script, but are not atomic. The list of their replies must equal the script's reply.
    pub(crate) fn or_plain(mut self, commands: Pipeline) -> Self {
        if let Kind::Script { plain, .. } = &mut self.kind {
            *plain = Some(commands);
        }
        self
    }

    /// Requires `wanted` replicas to acknowledge the write. Has no effect on a single command.
    pub(super) fn on_replicas(mut self, wanted: Option<Replicas>) -> Self {
        if let Kind::Script { replicas, .. } = &mut self.kind {
            *replicas = wanted;
        }
        self
    }

    /// Sends the call and returns the server's reply. Sets no time limit.
    pub(super) async fn send(&self, connection: &mut Connection) -> Result<Value, CallError> {
        let (script, keys, arguments, replicas) = match &self.kind {
            Kind::Command(command) => return Ok(command.query_async(connection).await?),
            Kind::Script {
                plain: Some(commands),
                ..
            } if !connection.is_many() => {
                return Ok(Value::Array(commands.query_async(connection).await?));
            }
            Kind::Script {
                script,
                keys,
                arguments,
                replicas,
                ..
            } => (script, keys, arguments, replicas),
        };
        let by_digest = invocation("EVALSHA", script.digest.get_hash(), keys, arguments);
        match execute(by_digest, *replicas, connection).await {
            // The server has restarted, or its script cache was flushed. EVAL reaches the right server of a cluster
            // and also caches the script. SCRIPT LOAD would need all servers, including those that are down.
            Err(CallError::Redis(error))
                if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) =>
            {
                execute(
                    invocation("EVAL", script.code, keys, arguments),
                    *replicas,
                    connection,
                )
                .await
            }
            outcome => outcome,
        }
    }
}

fn invocation(name: &str, script: &str, keys: &[String], arguments: &[Vec<u8>]) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(script).arg(keys.len()).arg(keys).arg(arguments);
    command
}

/// Sends `command` and, if replicas are required, WAIT in the same packet. On a connection that was replaced in
/// between, WAIT would refer to no write.
async fn execute(
    command: Cmd,
    replicas: Option<Replicas>,
    connection: &mut Connection,
) -> Result<Value, CallError> {
    let Some(replicas) = replicas else {
        return Ok(command.query_async(connection).await?);
    };
    let mut wait = redis::cmd("WAIT");
    wait.arg(replicas.count).arg(replicas.wait_milliseconds);
    let mut pipeline = Pipeline::new();
    pipeline
        .add_command(command)
        .add_command(wait)
        .ignore_errors();
    let mut answers: Vec<RedisResult<Value>> = pipeline.query_async(connection).await?;
    let replicated = answers.pop().unwrap_or(Ok(Value::Nil));
    let answer = answers.pop().unwrap_or(Ok(Value::Nil))?;
    match replicated? {
        Value::Int(count) if count >= i64::from(replicas.count) => Ok(answer),
        _ => Err(CallError::NotReplicated),
    }
}
