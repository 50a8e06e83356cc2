//! Access to Redis: topologies, login, time budgets, the circuit breaker, and how scripts are sent. The only module
//! that uses the `redis` crate.
//!
//! Every operation has one time budget, which includes connecting and retries, and records its duration and outcome
//! in its invocation. An error means that Redis is unavailable. It never stands for a missing key.

mod address;
mod breaker;
mod call;
mod cluster;
mod dial;
mod failure;
mod lane;
mod login;
mod node;
mod read;
mod sentinel;
mod servers;
mod slots;
mod waiting;
mod write;

use std::pin::Pin;
use std::time::Duration;

use redis::{FromRedisValue, RedisError};
pub(crate) use redis::{Value, from_redis_value};

pub(crate) use self::call::{Call, Script};
use self::read::Read;
use self::servers::Servers;
use self::waiting::WaitingWrite;
use self::write::Write;
use crate::config::{ConfigError, MemoryConfig, RedisConfig};
use crate::secrets::Secrets;
use crate::telemetry::{Invocation, Operation, Status};

/// Why Redis could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redis did not reply within the operation's budget.
    #[error("redis did not answer within the budget")]
    Timeout,
    /// The circuit breaker is open, so no request was sent.
    #[error("redis is known to be down")]
    BreakerOpen,
    /// No connection could be opened.
    #[error("redis could not be reached: {kind}: {detail}")]
    Unreachable {
        /// The kind of failure as a fixed word, such as `dns`, `refused` or `tls`.
        kind: &'static str,
        /// The text of the innermost error. It contains no secret.
        detail: String,
    },
    /// The connection broke, or Redis rejected the request.
    #[error("redis failed")]
    Redis(#[source] RedisError),
    /// The write reached fewer replicas than `REDIS_WAIT_REPLICAS` requires. A failover may lose it.
    #[error("too few replicas have the write")]
    NotReplicated,
    /// The reply has a form that this operation does not define.
    #[error("redis answered in an unexpected form")]
    Unexpected,
}

impl Error {
    /// Returns whether the key holds a value of another type. This is a defect of the data, not of Redis.
    #[must_use]
    pub fn is_wrong_type(&self) -> bool {
        matches!(self, Self::Redis(error) if error.code() == Some("WRONGTYPE"))
    }

    /// Returns whether Redis replied, and refused the request.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Redis(error) if error.code().is_some() && !failure::is_outage(error))
    }

    /// Returns whether the user of Redis lacks a right.
    #[must_use]
    pub fn is_missing_right(&self) -> bool {
        matches!(self, Self::Redis(error) if failure::kind(error) == "no_permission")
    }

    /// Returns the reason as a fixed word for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::BreakerOpen => "breaker_open",
            Self::Unreachable { kind, .. } => kind,
            Self::Redis(error) => failure::kind(error),
            Self::NotReplicated => "not_replicated",
            Self::Unexpected => "unexpected_answer",
        }
    }

    /// Returns what a log can say beyond the reason: the text of the innermost error if Redis could not be reached, or
    /// the code of Redis's error and the command that a right is missing for. It contains no key, message or secret.
    fn detail(&self) -> Option<String> {
        match self {
            Self::Unreachable { detail, .. } => Some(detail.clone()),
            Self::Redis(error) => Some(failure::detail(error)),
            Self::Timeout | Self::BreakerOpen | Self::NotReplicated | Self::Unexpected => None,
        }
    }

    fn status(&self) -> Status {
        match self {
            Self::Timeout => Status::Timeout,
            Self::BreakerOpen
            | Self::Unreachable { .. }
            | Self::Redis(_)
            | Self::NotReplicated
            | Self::Unexpected => Status::Failure,
        }
    }
}

/// Client for all Redis operations. Cheap to clone; clones share connections and breakers.
#[derive(Clone)]
pub struct Store {
    servers: Servers,
    read_timeout: Duration,
    write_timeout: Duration,
    /// How many replicas must acknowledge a write, from `REDIS_WAIT_REPLICAS`.
    replicas: u32,
}

impl Store {
    /// Returns a client for the configured servers. Connects to nothing, so an outage does not prevent a start.
    ///
    /// # Errors
    /// A `REDIS_…` setting is invalid.
    pub fn new(
        redis: &RedisConfig,
        memory: &MemoryConfig,
        secrets: &Secrets,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            servers: Servers::new(redis, memory, secrets)?,
            read_timeout: memory.read_timeout,
            write_timeout: memory.write_timeout,
            replicas: redis.wait_replicas,
        })
    }

    /// Returns the reply to a read, within the read budget: see [`read`].
    pub(crate) async fn read<T: FromRedisValue>(
        &self,
        invocation: &Invocation,
        operation: Operation,
        call: &Call,
    ) -> Result<T, Error> {
        let policy = Read {
            call,
            opens_breaker: true,
        };
        let run = Box::pin(self.servers.run(&policy, self.read_timeout));
        self.record(invocation, operation, call.key(), run).await
    }

    /// Returns the reply to a request that is made beside a read, under the same policy. Its failure does not open the
    /// breaker, and is not measured.
    pub(crate) async fn beside<T: FromRedisValue>(
        &self,
        operation: Operation,
        call: &Call,
    ) -> Result<T, Error> {
        let policy = Read {
            call,
            opens_breaker: false,
        };
        let run = Box::pin(self.servers.run(&policy, self.read_timeout));
        let unmeasured = Invocation::detached();
        self.record(&unmeasured, operation, call.key(), run).await
    }

    /// Returns the reply to a write, within the write budget: see [`write`].
    ///
    /// `build` returns the request for a deadline in Unix microseconds on Redis's clock. Its script has no effect after
    /// that, and replies `late:` and the time.
    pub(crate) async fn write<T: FromRedisValue>(
        &self,
        invocation: &Invocation,
        operation: Operation,
        key: &str,
        build: &(dyn Fn(u64) -> Call + Sync),
    ) -> Result<T, Error> {
        let policy = Write { key, build };
        let run = Box::pin(self.servers.run(&policy, self.write_timeout));
        self.record(invocation, operation, key, run).await
    }

    /// As [`Store::write`], and waits for the replicas that the settings require: see [`waiting`]. `is_stored` returns
    /// whether a reply means that there is something to wait for.
    pub(crate) async fn write_to_replicas<T: FromRedisValue>(
        &self,
        invocation: &Invocation,
        operation: Operation,
        key: &str,
        is_stored: fn(&Value) -> bool,
        build: &(dyn Fn(u64) -> Call + Sync),
    ) -> Result<T, Error> {
        if self.replicas == 0 {
            return self.write(invocation, operation, key, build).await;
        }
        let policy = WaitingWrite {
            write: Write { key, build },
            replicas: self.replicas,
            is_stored,
        };
        let run = Box::pin(self.servers.run(&policy, self.write_timeout));
        self.record(invocation, operation, key, run).await
    }

    /// Records an operation and the state of its breaker, and logs why Redis failed. The operation comes boxed, so that
    /// nested futures do not grow with every layer.
    async fn record<T: FromRedisValue>(
        &self,
        invocation: &Invocation,
        operation: Operation,
        key: &str,
        run: Pin<Box<impl Future<Output = Result<Value, Error>>>>,
    ) -> Result<T, Error> {
        let read = async {
            let reply = run.await?;
            from_redis_value(reply).map_err(|_| Error::Unexpected)
        };
        let outcome = invocation.timed(operation, Error::status, read).await;
        // In a cluster a character may be on another server than the session.
        if operation != Operation::Character {
            let open = self.servers.is_known_down(key);
            invocation.note(|figures| figures.breaker_open = Some(open));
        }
        if let Err(error) = &outcome
            && !matches!(error, Error::BreakerOpen)
        {
            tracing::warn!(
                reason = error.reason(),
                detail = error.detail(),
                "Redis failed"
            );
        }
        outcome
    }
}
