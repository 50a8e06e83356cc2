//! Limits of the memory: how much is stored and sent upstream, and how long an operation may take.

use std::time::Duration;

use super::read::{count, milliseconds, number, small, text};
use super::{ConfigError, Lookup, Section};

/// Limits of a stored session, and of the time that an operation on the memory may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Number of messages stored per session. Read from `MEMORY_MAX_MESSAGES`; defaults to 100.
    pub max_messages: usize,
    /// Seconds from the last turn until a session expires. Read from `MEMORY_TTL_SECONDS`; defaults to 86,400 (one
    /// day).
    pub ttl_seconds: u64,
    /// Seconds for which a turn's record and key are remembered after its end. Read from `TURN_TTL_SECONDS`; defaults
    /// to 3,600 (one hour). 0: nothing is recorded, so no turn can be resumed or stopped, and keys are not looked at.
    pub turn_ttl_seconds: u64,
    /// Time allowed for a read, including connecting and retries. Read from `MEMORY_READ_TIMEOUT_MS`; defaults to 1,000
    /// ms.
    pub read_timeout: Duration,
    /// Time allowed for a write, including connecting and retries. Read from `MEMORY_WRITE_TIMEOUT_MS`; defaults to
    /// 1,000 ms.
    pub write_timeout: Duration,
    /// Number of consecutive failed operations that open the circuit breaker. Read from `REDIS_BREAKER_FAILURES`;
    /// defaults to 1.
    pub breaker_failures: u32,
    /// Delay between probes while Redis is down. Read from `REDIS_BREAKER_COOLDOWN_MS`; defaults to 500 ms.
    pub breaker_cooldown: Duration,
}

impl Section for MemoryConfig {
    fn from_lookup(lookup: Lookup<'_>) -> Result<Self, ConfigError> {
        const TEN_YEARS_SECONDS: u64 = 10 * 365 * 86_400;
        const ONE_WEEK_SECONDS: u64 = 7 * 86_400;
        Ok(Self {
            max_messages: count(lookup, "MEMORY_MAX_MESSAGES", 100, 2, 10_000)?,
            ttl_seconds: number(lookup, "MEMORY_TTL_SECONDS", 86_400, 1, TEN_YEARS_SECONDS)?,
            turn_ttl_seconds: number(lookup, "TURN_TTL_SECONDS", 3_600, 0, ONE_WEEK_SECONDS)?,
            read_timeout: milliseconds(lookup, "MEMORY_READ_TIMEOUT_MS", 1000)?,
            write_timeout: milliseconds(lookup, "MEMORY_WRITE_TIMEOUT_MS", 1000)?,
            breaker_failures: small(lookup, "REDIS_BREAKER_FAILURES", 1, 1, 1_000)?,
            breaker_cooldown: milliseconds(lookup, "REDIS_BREAKER_COOLDOWN_MS", 500)?,
        })
    }
}

/// What is sent upstream: how much, and what begins the prompt of a character that says nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextConfig {
    /// Number of stored messages sent along with a new one. Read from `CONTEXT_MAX_MESSAGES`; defaults to 50.
    pub max_messages: usize,
    /// Number of tokens sent in all: system prompt, history, new message and the overhead of each message. Read from
    /// `CONTEXT_MAX_TOKENS`; defaults to 20,000.
    pub max_tokens: u64,
    /// System prompt of the cards that have none of their own, and what `{{original}}` stands for in the others. Macros
    /// are replaced. Read from `DEFAULT_SYSTEM_PROMPT`.
    pub default_system_prompt: String,
}

/// The system prompt of cards that have none, unless the operator sets another.
const DEFAULT_SYSTEM_PROMPT: &str = "You are {{char}}, talking with {{user}} in a private chat. Stay in character, and \
    reply in the language in which {{user}} writes.";

impl Section for ContextConfig {
    fn from_lookup(lookup: Lookup<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            max_messages: count(lookup, "CONTEXT_MAX_MESSAGES", 50, 0, 10_000)?,
            max_tokens: number(lookup, "CONTEXT_MAX_TOKENS", 20_000, 1, 10_000_000)?,
            default_system_prompt: text(lookup, "DEFAULT_SYSTEM_PROMPT")
                .unwrap_or_else(|| DEFAULT_SYSTEM_PROMPT.to_owned()),
        })
    }
}
