//! How much is remembered and sent upstream, and how long an operation of memory may take.

use std::time::Duration;

use super::read::{count, milliseconds, number, small};
use super::{ConfigError, Lookup, Section};

/// How much is remembered, and how long an operation may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryConfig {
    /// `MEMORY_MAX_MESSAGES`: messages stored per session.
    pub max_messages: usize,
    /// `MEMORY_TTL_SECONDS`: seconds from the last turn until a session is forgotten.
    pub ttl_seconds: u64,
    /// `MEMORY_READ_TIMEOUT_MS`: the whole budget of a read, connecting and retries included.
    pub read_timeout: Duration,
    /// `MEMORY_WRITE_TIMEOUT_MS`: the whole budget of a write, connecting and retries included.
    pub write_timeout: Duration,
    /// `REDIS_BREAKER_FAILURES`: consecutive failed operations after which turns stop waiting for Redis.
    pub breaker_failures: u32,
    /// `REDIS_BREAKER_COOLDOWN_MS`: time between a failed probe of a Redis that is down and the next one.
    pub breaker_cooldown: Duration,
}

impl Section for MemoryConfig {
    fn from_lookup(lookup: Lookup<'_>) -> Result<Self, ConfigError> {
        const TEN_YEARS: u64 = 10 * 365 * 86_400;
        Ok(Self {
            max_messages: count(lookup, "MEMORY_MAX_MESSAGES", 100, 2, 10_000)?,
            ttl_seconds: number(lookup, "MEMORY_TTL_SECONDS", 86_400, 1, TEN_YEARS)?,
            read_timeout: milliseconds(lookup, "MEMORY_READ_TIMEOUT_MS", 1000)?,
            write_timeout: milliseconds(lookup, "MEMORY_WRITE_TIMEOUT_MS", 1000)?,
            breaker_failures: small(lookup, "REDIS_BREAKER_FAILURES", 1, 1, 1_000)?,
            breaker_cooldown: milliseconds(lookup, "REDIS_BREAKER_COOLDOWN_MS", 500)?,
        })
    }
}

/// What is sent upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextConfig {
    /// `CONTEXT_MAX_MESSAGES`: remembered messages sent with a new one.
    pub max_messages: usize,
    /// `CONTEXT_MAX_TOKENS`: tokens of everything sent: system prompt, history, new message, overhead.
    pub max_tokens: u64,
}

impl Section for ContextConfig {
    fn from_lookup(lookup: Lookup<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            max_messages: count(lookup, "CONTEXT_MAX_MESSAGES", 50, 0, 10_000)?,
            max_tokens: number(lookup, "CONTEXT_MAX_TOKENS", 20_000, 1, 10_000_000)?,
        })
    }
}
