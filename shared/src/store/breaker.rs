//! The circuit breaker: while Redis is known to be down, requests fail at once instead of waiting for it.
//!
//! Consecutive failed operations open the breaker. From then on, one probe at a time checks whether Redis is back.
//! The first probe may start at once, so a single slow command costs almost nothing. Every failed probe delays the
//! next one by the cooldown.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use crate::clock::lock;

/// When the breaker opens, and how long it waits between probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rules {
    /// Number of consecutive failed operations that open the breaker, from `REDIS_BREAKER_FAILURES`.
    pub(super) failures: u32,
    /// Time between a failed probe and the next one, from `REDIS_BREAKER_COOLDOWN_MS`.
    pub(super) cooldown: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { probe_at: SystemTime, probing: bool },
}

/// How the caller must proceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// The breaker is closed: the caller may send its request.
    Admitted,
    /// The breaker is open and no probe is running: the caller must start one.
    StartProbe,
    /// The breaker is open and a probe is running: the caller may wait for its result.
    Probing,
    /// The breaker is open and the next probe is not due yet.
    Refused,
}

/// The breaker of one server, or of one range of cluster slots.
///
/// Times are on the wall clock: a monotonic clock may stand still while the process is frozen, and a frozen cooldown
/// would cost the first turn after a thaw its memory.
#[derive(Debug)]
pub(super) struct Breaker {
    rules: Rules,
    /// Locked for a few instructions and never across an await.
    state: Mutex<State>,
}

impl Breaker {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            state: Mutex::new(State::Closed { failures: 0 }),
        }
    }

    /// Returns how a caller must proceed at `now`. After [`Admission::StartProbe`] no other caller starts a probe until
    /// this one has ended.
    pub(super) fn admit(&self, now: SystemTime) -> Admission {
        let mut state = lock(&self.state);
        match *state {
            State::Closed { .. } => Admission::Admitted,
            State::Open { probing: true, .. } => Admission::Probing,
            State::Open { probe_at, .. } if self.is_due(probe_at, now) => {
                *state = State::Open {
                    probe_at,
                    probing: true,
                };
                Admission::StartProbe
            }
            State::Open { .. } => Admission::Refused,
        }
    }

    /// Returns whether a probe may start. It may also start if `probe_at` lies further ahead than a cooldown, which
    /// means that the clock was set back.
    fn is_due(&self, probe_at: SystemTime, now: SystemTime) -> bool {
        probe_at
            .duration_since(now)
            .map_or(true, |wait| wait.is_zero() || wait > self.rules.cooldown)
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(*lock(&self.state), State::Closed { .. })
    }

    /// Closes the breaker after a reply from Redis.
    pub(super) fn succeeded(&self) {
        *lock(&self.state) = State::Closed { failures: 0 };
    }

    /// Counts an operation that failed after all its retries, and opens the breaker at the limit.
    pub(super) fn failed(&self, now: SystemTime) {
        let mut state = lock(&self.state);
        if let State::Closed { failures } = *state {
            let failures = failures + 1;
            *state = if failures >= self.rules.failures {
                State::Open {
                    probe_at: now,
                    probing: false,
                }
            } else {
                State::Closed { failures }
            };
        }
    }

    /// Delays the next probe by the cooldown, after a probe that failed or ended without a reply.
    pub(super) fn probe_failed(&self, now: SystemTime) {
        let mut state = lock(&self.state);
        if matches!(*state, State::Open { .. }) {
            *state = State::Open {
                probe_at: now + self.rules.cooldown,
                probing: false,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        failures: 2,
        cooldown: Duration::from_millis(500),
    };

    fn at(ms: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000) + Duration::from_millis(ms)
    }

    #[test]
    fn it_opens_on_consecutive_failures_only() {
        let breaker = Breaker::new(RULES);
        breaker.failed(at(0));
        breaker.succeeded();
        breaker.failed(at(1));
        assert_eq!(breaker.admit(at(1)), Admission::Admitted);
        breaker.failed(at(2));
        assert!(!breaker.is_closed());
    }

    #[test]
    fn one_probe_at_a_time_and_the_first_at_once() {
        let breaker = Breaker::new(RULES);
        breaker.failed(at(0));
        breaker.failed(at(0));
        assert_eq!(breaker.admit(at(0)), Admission::StartProbe);
        assert_eq!(breaker.admit(at(0)), Admission::Probing);
        breaker.probe_failed(at(10));
        assert_eq!(breaker.admit(at(509)), Admission::Refused);
        assert_eq!(breaker.admit(at(510)), Admission::StartProbe);
        breaker.succeeded();
        assert_eq!(breaker.admit(at(511)), Admission::Admitted);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_keep_it_open() {
        let breaker = Breaker::new(RULES);
        breaker.failed(at(100_000));
        breaker.failed(at(100_000));
        assert_eq!(breaker.admit(at(100_000)), Admission::StartProbe);
        breaker.probe_failed(at(100_000));
        assert_eq!(breaker.admit(at(0)), Admission::StartProbe);
    }

    #[test]
    fn a_late_failure_does_not_postpone_a_probe() {
        let breaker = Breaker::new(RULES);
        breaker.failed(at(0));
        breaker.failed(at(0));
        assert_eq!(breaker.admit(at(0)), Admission::StartProbe);
        breaker.failed(at(5));
        assert_eq!(breaker.admit(at(5)), Admission::Probing);
    }
}
