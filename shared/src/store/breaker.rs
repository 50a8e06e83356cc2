//! The circuit breaker: while Redis is known to be down, nobody waits for it again.
//!
//! It opens on consecutive failed operations. From then on one probe at a time asks whether Redis is back; the first
//! probe may start at once, so a single slow command costs next to nothing, and each failed probe puts the next one off.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use crate::clock::lock;

/// When to open, and how long to leave a server in peace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rules {
    /// Consecutive failed operations that open it.
    pub(super) failures: u32,
    /// Time between a failed probe and the next one.
    pub(super) cooldown: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { probe_at: SystemTime, probing: bool },
}

/// What a caller may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Go ahead.
    Admitted,
    /// Nobody is asking whether Redis is back: the caller starts a probe.
    StartProbe,
    /// Somebody is asking.
    Probing,
    /// Too early to ask again.
    Refused,
}

/// Times are wall-clock: a monotonic clock may stand still while the process is frozen, and a frozen cooldown would cost
/// the first turn after a thaw its memory.
#[derive(Debug)]
pub(super) struct Breaker {
    rules: Rules,
    /// Held for a few instructions and never across an await.
    state: Mutex<State>,
}

impl Breaker {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            state: Mutex::new(State::Closed { failures: 0 }),
        }
    }

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

    /// Due when its time has come, and also when it lies further ahead than a cooldown: then the clock was set back.
    fn is_due(&self, probe_at: SystemTime, now: SystemTime) -> bool {
        probe_at
            .duration_since(now)
            .map_or(true, |wait| wait.is_zero() || wait > self.rules.cooldown)
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(*lock(&self.state), State::Closed { .. })
    }

    /// Redis answered.
    pub(super) fn succeeded(&self) {
        *lock(&self.state) = State::Closed { failures: 0 };
    }

    /// An operation failed for good.
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

    /// A probe failed, or ended without an answer.
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
