//! The circuit breaker: while Redis is known to be down, requests fail at once instead of waiting for it.
//!
//! Consecutive failed operations open the breaker. From then on, one probe at a time checks whether Redis is back.
//! The first probe may start at once, so a single slow command costs almost nothing. Every failed probe delays the
//! next one by the cooldown.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use crate::clock::{age, lock};

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
    Closed {
        failures: u32,
    },
    /// `probed_at` is when the last probe ended; `None` before the first, which may start at once.
    Open {
        probed_at: Option<SystemTime>,
        probing: bool,
    },
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
    /// The breaker is open and the next probe is due after this time.
    Refused(Duration),
}

/// The breaker of one server.
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

    /// Returns how a caller must proceed at `now`. A caller that waits for Redis sets `pause` below the cooldown, so
    /// that probes follow one another more closely while it waits. After [`Admission::StartProbe`] no other caller
    /// starts a probe until this one has ended.
    pub(super) fn admit(&self, now: SystemTime, pause: Duration) -> Admission {
        let mut state = lock(&self.state);
        let State::Open { probed_at, probing } = *state else {
            return Admission::Admitted;
        };
        if probing {
            return Admission::Probing;
        }
        let pause = pause.min(self.rules.cooldown);
        // A probe that ended in the future means that the clock was set back.
        let since = probed_at.and_then(|probed_at| age(probed_at, now));
        match since.map(|since| pause.saturating_sub(since)) {
            Some(wait) if !wait.is_zero() => Admission::Refused(wait),
            Some(_) | None => {
                *state = State::Open {
                    probed_at,
                    probing: true,
                };
                Admission::StartProbe
            }
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(*lock(&self.state), State::Closed { .. })
    }

    /// Closes the breaker after a reply from Redis.
    pub(super) fn succeeded(&self) {
        *lock(&self.state) = State::Closed { failures: 0 };
    }

    /// Counts an operation that failed after all its retries, and opens the breaker at the limit.
    pub(super) fn failed(&self) {
        let mut state = lock(&self.state);
        if let State::Closed { failures } = *state {
            let failures = failures + 1;
            *state = if failures >= self.rules.failures {
                State::Open {
                    probed_at: None,
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
                probed_at: Some(now),
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

    const COOLDOWN: Duration = RULES.cooldown;

    fn open() -> Breaker {
        let breaker = Breaker::new(RULES);
        breaker.failed();
        breaker.failed();
        breaker
    }

    #[test]
    fn it_opens_on_consecutive_failures_only() {
        let breaker = Breaker::new(RULES);
        breaker.failed();
        breaker.succeeded();
        breaker.failed();
        assert_eq!(breaker.admit(at(1), COOLDOWN), Admission::Admitted);
        breaker.failed();
        assert!(!breaker.is_closed());
    }

    #[test]
    fn one_probe_at_a_time_and_the_first_at_once() {
        let breaker = open();
        assert_eq!(breaker.admit(at(0), COOLDOWN), Admission::StartProbe);
        assert_eq!(breaker.admit(at(0), COOLDOWN), Admission::Probing);
        breaker.probe_failed(at(10));
        let wait = Admission::Refused(Duration::from_millis(1));
        assert_eq!(breaker.admit(at(509), COOLDOWN), wait);
        assert_eq!(breaker.admit(at(510), COOLDOWN), Admission::StartProbe);
        breaker.succeeded();
        assert_eq!(breaker.admit(at(511), COOLDOWN), Admission::Admitted);
    }

    #[test]
    fn a_caller_that_waits_has_the_next_probe_sooner() {
        let breaker = open();
        assert_eq!(breaker.admit(at(0), COOLDOWN), Admission::StartProbe);
        breaker.probe_failed(at(0));
        let pause = Duration::from_millis(100);
        assert_eq!(
            breaker.admit(at(40), pause),
            Admission::Refused(Duration::from_millis(60))
        );
        assert_eq!(
            breaker.admit(at(100), COOLDOWN),
            Admission::Refused(Duration::from_millis(400))
        );
        assert_eq!(breaker.admit(at(100), pause), Admission::StartProbe);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_keep_it_open() {
        let breaker = open();
        assert_eq!(breaker.admit(at(100_000), COOLDOWN), Admission::StartProbe);
        breaker.probe_failed(at(100_000));
        assert_eq!(breaker.admit(at(0), COOLDOWN), Admission::StartProbe);
    }

    #[test]
    fn a_late_failure_does_not_postpone_a_probe() {
        let breaker = open();
        assert_eq!(breaker.admit(at(0), COOLDOWN), Admission::StartProbe);
        breaker.failed();
        assert_eq!(breaker.admit(at(5), COOLDOWN), Admission::Probing);
    }
}
