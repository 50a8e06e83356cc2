//! Access to Redis: topologies, login, time budgets, the circuit breaker, and how scripts are sent. The only module
//! that uses the `redis` crate.
//!
//! Every operation has one time budget, which includes connecting and retries, and records its duration and outcome
//! in its invocation. An error means that Redis is unavailable. It never stands for a missing key.

mod breaker;
mod call;
mod connection;
mod failure;
mod login;
mod topology;

use std::time::Duration;

use redis::{FromRedisValue, RedisError};
use tokio::time::Instant;

use self::call::Replicas;
pub(crate) use self::call::{Call, Pipeline, Script};
use self::connection::Redis;
use crate::clock::micros;
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
    /// Redis could not be reached, or it rejected the request.
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

    /// Returns the reason as a fixed word for logs and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::BreakerOpen => "breaker_open",
            Self::Redis(error) if error.is_io_error() => "connection",
            Self::Redis(_) if self.is_wrong_type() => "wrong_type",
            Self::Redis(_) => "refused",
            Self::NotReplicated => "not_replicated",
            Self::Unexpected => "unexpected_answer",
        }
    }

    fn status(&self) -> Status {
        match self {
            Self::Timeout => Status::Timeout,
            Self::BreakerOpen | Self::Redis(_) | Self::NotReplicated | Self::Unexpected => {
                Status::Failure
            }
        }
    }
}

/// Client for all Redis operations. Cheap to clone; clones share the connection and the breakers.
#[derive(Clone)]
pub struct Store {
    redis: Redis,
    read_timeout: Duration,
    write_timeout: Duration,
    /// How many replicas must acknowledge a write, from `REDIS_WAIT_REPLICAS`; `None` if it is 0.
    replicas: Option<Replicas>,
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
            redis: Redis::new(redis, memory, secrets)?,
            read_timeout: memory.read_timeout,
            write_timeout: memory.write_timeout,
            replicas: (redis.wait_replicas > 0).then(|| Replicas {
                count: redis.wait_replicas,
                // The write itself uses the other half of the budget.
                wait_milliseconds: u64::try_from(memory.write_timeout.as_millis() / 2)
                    .unwrap_or(u64::MAX)
                    .max(1),
            }),
        })
    }

    /// Returns the reply to a read, within the read budget.
    pub(crate) async fn read<T: FromRedisValue>(
        &self,
        invocation: &Invocation,
        operation: Operation,
        call: &Call,
    ) -> Result<T, Error> {
        let run = self.run(self.read_timeout, call);
        self.record(invocation, operation, call.key(), run).await
    }

    /// Returns the reply to a change that may also take effect late, within the write budget.
    pub(crate) async fn change<T: FromRedisValue>(
        &self,
        invocation: &Invocation,
        operation: Operation,
        call: &Call,
    ) -> Result<T, Error> {
        let run = self.run(self.write_timeout, call);
        self.record(invocation, operation, call.key(), run).await
    }

    /// Runs a script that must not take effect after the caller has given up, within the write budget.
    ///
    /// `call` builds the request for a deadline in Unix microseconds on Redis's clock, which `redis_now` estimates. A
    /// `late:<now>` reply corrects the estimate, and the script is retried once.
    pub(crate) async fn write(
        &self,
        invocation: &Invocation,
        operation: Operation,
        redis_now: u64,
        call: impl Fn(u64) -> Call,
    ) -> Result<String, Error> {
        let budget = self.write_timeout;
        let first = call(redis_now.saturating_add(micros(budget))).on_replicas(self.replicas);
        let run = async {
            let begun = Instant::now();
            let answer: String = self.run(budget, &first).await?;
            let Some(redis_now) = answer.strip_prefix("late:") else {
                return Ok(answer);
            };
            let redis_now: u64 = redis_now.parse().map_err(|_| Error::Unexpected)?;
            let left = budget.saturating_sub(begun.elapsed());
            let again = call(redis_now.saturating_add(micros(left))).on_replicas(self.replicas);
            self.run(left, &again).await
        };
        self.record(invocation, operation, first.key(), run).await
    }

    async fn run<T: FromRedisValue>(&self, budget: Duration, call: &Call) -> Result<T, Error> {
        let answer = self.redis.run(budget, call).await?;
        redis::from_redis_value(answer).map_err(|_| Error::Unexpected)
    }

    /// Records an operation and the state of its breaker. The operation is boxed so that nested futures do not grow
    /// with every layer.
    async fn record<T>(
        &self,
        invocation: &Invocation,
        operation: Operation,
        key: &str,
        run: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let outcome = invocation
            .timed(operation, Error::status, Box::pin(run))
            .await;
        // In a cluster a character key has a breaker of its own, which is unrelated to the session's breaker.
        if operation != Operation::Character {
            let open = self.redis.is_known_down(key);
            invocation.note(|figures| figures.breaker_open = Some(open));
        }
        outcome
    }
}
