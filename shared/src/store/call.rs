//! One request to Redis: what goes there in one round trip.

pub(crate) use redis::Pipeline;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};

use super::topology::Connection;

/// A script, and the digest by which the server knows it.
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

/// How many replicas must have a write before it counts, and how long to wait for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Replicas {
    pub(super) count: u32,
    pub(super) wait_milliseconds: u64,
}

/// A request about one key, or about several in the same cluster slot.
pub(crate) struct Call {
    /// Decides which server of a cluster is asked.
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
        /// The same in commands, for a connection to one server.
        plain: Option<Pipeline>,
    },
}

/// Why a call failed on a connection that works.
pub(super) enum CallError {
    Redis(RedisError),
    /// It was done, but on fewer replicas than asked for.
    NotReplicated,
}

impl From<RedisError> for CallError {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

impl Call {
    /// One command.
    pub(crate) fn command(name: &str, key: String) -> Self {
        let mut command = redis::cmd(name);
        command.arg(&key);
        Self {
            key,
            kind: Kind::Command(command),
        }
    }

    /// A script. The first key decides which server of a cluster is asked.
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

    /// The cheapest question that needs the server of `key` to be well.
    pub(super) fn probe(key: String) -> Self {
        Self::command("EXISTS", key)
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn arg(mut self, argument: impl redis::ToRedisArgs) -> Self {
        match &mut self.kind {
            Kind::Command(command) => {
                command.arg(argument);
            }
            Kind::Script { arguments, .. } => arguments.extend(argument.to_redis_args()),
        }
        self
    }

    /// Where one server has all keys, sends these commands in one packet instead: for reads that need not be atomic, and cheaper
    /// than a script. Their answers in a list must be what the script answers.
    pub(crate) fn or_plain(mut self, commands: Pipeline) -> Self {
        if let Kind::Script { plain, .. } = &mut self.kind {
            *plain = Some(commands);
        }
        self
    }

    /// Counts as done only when so many replicas have it.
    pub(super) fn on_replicas(mut self, wanted: Option<Replicas>) -> Self {
        if let Kind::Script { replicas, .. } = &mut self.kind {
            *replicas = wanted;
        }
        self
    }

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
            // The server was restarted, or its scripts were flushed. EVAL goes to the right server of a cluster and loads the
            // script on the way, where SCRIPT LOAD would ask all of them, those that are down included.
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

/// WAIT goes in the same packet: on a connection that was replaced in between it would speak of nothing.
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
