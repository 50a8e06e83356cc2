//! Limits of what one user may use.

use super::read::number;
use super::{ConfigError, Lookup, Section};

/// Limits of what one user may use. 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Turns that a user may begin in a minute. Read from `LIMIT_TURNS_PER_MINUTE`; defaults to 0.
    pub turns_per_minute: u64,
    /// Tokens that a user's turns may take on a day (UTC), prompts included. Read from `LIMIT_TOKENS_PER_DAY`; defaults to
    /// 0.
    pub tokens_per_day: u64,
}

impl Section for LimitsConfig {
    fn from_lookup(lookup: Lookup<'_>) -> Result<Self, ConfigError> {
        const MOST_TURNS: u64 = 100_000;
        const MOST_TOKENS: u64 = 1_000_000_000_000;
        Ok(Self {
            turns_per_minute: number(lookup, "LIMIT_TURNS_PER_MINUTE", 0, 0, MOST_TURNS)?,
            tokens_per_day: number(lookup, "LIMIT_TOKENS_PER_DAY", 0, 0, MOST_TOKENS)?,
        })
    }
}
