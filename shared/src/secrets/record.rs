//! The cached value of one stored secret, and when it may be fetched again. Pure: callers pass the time in.
//!
//! Times are wall-clock, because a monotonic clock may stand still while the process is frozen.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secrecy::SecretString;

use super::{Error, FETCH_TIMEOUT, Value};
use crate::clock::{age, is_within};

/// Shortest time between two refetches for one use of a secret.
const REFETCH_INTERVAL: Duration = Duration::from_secs(30);
/// Pause after a failed fetch while no value is cached. Without it, strangers could make the process call AWS at any
/// rate, and each call is billed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Age from which a running fetch is given up: the process was frozen meanwhile, and the fetch's timeout with it.
const FETCH_LOST_AFTER: Duration = FETCH_TIMEOUT.saturating_add(Duration::from_secs(1));

/// The next step of a caller that needs the value.
#[derive(Debug)]
pub(super) enum Step {
    /// Use this value.
    Have(Value),
    /// Fail with this error: there is no value, and it is too early to fetch again.
    Failed(Error),
    /// Wait for the fetch that another task runs.
    Wait,
    /// Fetch the value, and report the outcome to [`Record::ended`].
    Fetch,
}

/// The limit on refetches for one use of a secret. Each setting that names the secret has a window of its own, so that
/// a flood of badly signed tokens cannot keep the other settings from seeing a rotation.
#[derive(Default)]
pub(super) struct Window {
    /// Time of the last refetch. The first fetch does not count, so a rotation soon after the start is found at once.
    asked_again_at: Option<SystemTime>,
}

#[derive(Default)]
pub(super) struct Record {
    /// The cached value, and when its fetch ended.
    value: Option<(Value, SystemTime)>,
    /// The error of the last fetch, if that failed, and when it ended.
    failure: Option<(Error, SystemTime)>,
    /// When the running fetch began.
    fetching_since: Option<SystemTime>,
}

impl Record {
    /// Returns the next step of a caller that needs the value. A value of `max_age` or older is fetched again first.
    pub(super) fn want(
        &mut self,
        now: SystemTime,
        max_age: Option<Duration>,
        window: &mut Window,
    ) -> Step {
        match &self.value {
            // A value from the future is new: the clock was set back.
            Some((_, at))
                if max_age.is_some_and(|max_age| age(*at, now).unwrap_or_default() >= max_age) =>
            {
                self.again(now, window)
            }
            Some((value, _)) => Step::Have(Arc::clone(value)),
            None => self.want_first(now),
        }
    }

    /// Returns whether the secret was never fetched. If so, the caller must fetch it now.
    pub(super) fn first(&mut self, now: SystemTime) -> bool {
        let untried = self.value.is_none() && self.failure.is_none() && !self.is_fetching(now);
        if untried {
            self.fetching_since = Some(now);
        }
        untried
    }

    /// Returns the next step after the value was rejected or found unusable. [`Step::Have`] means that it is too early
    /// to fetch again.
    pub(super) fn again(&mut self, now: SystemTime, window: &mut Window) -> Step {
        let Some((value, _)) = &self.value else {
            return self.want_first(now);
        };
        if self.is_fetching(now) {
            return Step::Wait;
        }
        if window
            .asked_again_at
            .is_some_and(|at| is_within(at, now, REFETCH_INTERVAL))
        {
            return Step::Have(Arc::clone(value));
        }
        window.asked_again_at = Some(now);
        self.fetch(now)
    }

    /// Records the outcome of the fetch that began at `began`. After a failure the cached value stays.
    ///
    /// Returns `false`, and records nothing, if that fetch had been given up: its value may be older than the cached
    /// one.
    pub(super) fn ended(
        &mut self,
        began: SystemTime,
        now: SystemTime,
        outcome: Result<SecretString, Error>,
    ) -> bool {
        if self.fetching_since != Some(began) {
            return false;
        }
        self.fetching_since = None;
        match outcome {
            Ok(value) => {
                self.value = Some((Arc::new(value), now));
                self.failure = None;
            }
            Err(error) => self.failure = Some((error, now)),
        }
        true
    }

    /// Returns the cached value.
    pub(super) fn known(&self) -> Option<Value> {
        self.value.as_ref().map(|(value, _)| Arc::clone(value))
    }

    /// Returns the cached value, or else the error of the last fetch.
    pub(super) fn outcome(&self) -> Result<Value, Error> {
        let error = self.failure.map_or(Error::Unavailable, |(error, _)| error);
        self.known().ok_or(error)
    }

    fn want_first(&mut self, now: SystemTime) -> Step {
        match self.failure {
            _ if self.is_fetching(now) => Step::Wait,
            Some((error, at)) if is_within(at, now, PAUSE_AFTER_FAILURE) => Step::Failed(error),
            _ => self.fetch(now),
        }
    }

    fn is_fetching(&self, now: SystemTime) -> bool {
        self.fetching_since
            .is_some_and(|began| is_within(began, now, FETCH_LOST_AFTER))
    }

    fn fetch(&mut self, now: SystemTime) -> Step {
        self.fetching_since = Some(now);
        Step::Fetch
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn at(ms: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + Duration::from_millis(ms)
    }

    fn fetched(text: &str) -> Result<SecretString, Error> {
        Ok(SecretString::from(text.to_owned()))
    }

    fn known(record: &Record) -> String {
        let value = record.outcome().expect("a value");
        value.expose_secret().to_owned()
    }

    /// Needs the value at any age.
    fn want(record: &mut Record, now: SystemTime) -> Step {
        record.want(now, None, &mut Window::default())
    }

    /// Returns a record that has fetched `text`.
    fn with(text: &str) -> Record {
        let mut record = Record::default();
        assert!(matches!(want(&mut record, at(0)), Step::Fetch));
        assert!(record.ended(at(0), at(0), fetched(text)));
        record
    }

    #[test]
    fn a_value_is_fetched_once_for_all_callers_that_need_it() {
        let mut record = Record::default();
        assert!(matches!(want(&mut record, at(0)), Step::Fetch));
        assert!(matches!(want(&mut record, at(0)), Step::Wait));
        assert!(!record.first(at(0)));
        record.ended(at(0), at(5), fetched("a"));
        assert!(matches!(want(&mut record, at(5)), Step::Have(_)));
        assert!(!record.first(at(5)));
    }

    #[test]
    fn a_value_that_is_always_rejected_is_fetched_once_per_window() {
        let (mut record, mut window) = (with("a"), Window::default());
        let mut fetches = 0;
        for second in 0..90 {
            let now = at(second * 1_000);
            if matches!(record.again(now, &mut window), Step::Fetch) {
                fetches += 1;
                assert!(matches!(record.again(now, &mut window), Step::Wait));
                // A failed refetch counts too.
                record.ended(now, now, Err(Error::Unavailable));
            }
        }
        assert_eq!((fetches, known(&record).as_str()), (3, "a"));
    }

    #[test]
    fn one_use_that_refetches_does_not_keep_another_use_from_refetching() {
        let mut record = with("a");
        let mut windows = [(); 3].map(|()| Window::default());
        let mut fetches = 0;
        for second in 0..30 {
            let now = at(second * 1_000);
            for window in &mut windows {
                if matches!(record.again(now, window), Step::Fetch) {
                    fetches += 1;
                    record.ended(now, now, fetched("a"));
                }
            }
        }
        assert_eq!(fetches, 3);
    }

    #[test]
    fn an_old_value_is_refetched_first_and_stays_in_use_while_there_is_no_newer_one() {
        const HOUR_MS: u64 = 3_600_000;
        let (mut record, mut window) = (with("a"), Window::default());
        let max_age = Some(Duration::from_millis(HOUR_MS));
        let mut step = |record: &mut Record, ms| record.want(at(ms), max_age, &mut window);
        assert!(matches!(step(&mut record, HOUR_MS - 1), Step::Have(_)));
        assert!(matches!(step(&mut record, HOUR_MS), Step::Fetch));
        assert!(matches!(step(&mut record, HOUR_MS), Step::Wait));
        record.ended(at(HOUR_MS), at(HOUR_MS + 9), Err(Error::Unavailable));
        assert_eq!(known(&record), "a");
        // While AWS is down, not every request waits for it.
        assert!(matches!(step(&mut record, HOUR_MS + 29_000), Step::Have(_)));
        assert!(matches!(step(&mut record, HOUR_MS + 30_000), Step::Fetch));
        record.ended(at(HOUR_MS + 30_000), at(HOUR_MS + 30_000), fetched("b"));
        assert!(matches!(step(&mut record, HOUR_MS * 2), Step::Have(_)));
        assert!(matches!(
            step(&mut record, HOUR_MS * 2 + 30_000),
            Step::Fetch
        ));
        // A caller without a maximum age does not wait, and a clock that was set back makes no value old.
        assert!(matches!(want(&mut record, at(HOUR_MS * 9)), Step::Have(_)));
        assert!(matches!(step(&mut record, 0), Step::Have(_)));
    }

    #[test]
    fn a_fetch_lost_to_a_freeze_is_not_awaited_and_changes_nothing_when_it_ends() {
        const THAW_MS: u64 = 600_000;
        let mut record = Record::default();
        assert!(record.first(at(0)));
        assert!(matches!(want(&mut record, at(3_000)), Step::Wait));
        assert!(matches!(want(&mut record, at(THAW_MS)), Step::Fetch));
        assert!(!record.ended(at(0), at(THAW_MS), fetched("from before the freeze")));
        assert!(matches!(want(&mut record, at(THAW_MS)), Step::Wait));
        assert!(record.ended(at(THAW_MS), at(THAW_MS), fetched("a")));
        assert_eq!(known(&record), "a");

        let mut windows = [(); 2].map(|()| Window::default());
        let [one, other] = &mut windows;
        assert!(matches!(record.again(at(THAW_MS), one), Step::Fetch));
        assert!(matches!(record.again(at(THAW_MS), other), Step::Wait));
        assert!(matches!(record.again(at(THAW_MS * 2), other), Step::Fetch));
        assert!(record.ended(at(THAW_MS * 2), at(THAW_MS * 2), fetched("b")));
        assert!(!record.ended(
            at(THAW_MS),
            at(THAW_MS * 2),
            fetched("from before the freeze")
        ));
        assert_eq!(known(&record), "b");
    }

    #[test]
    fn without_a_value_a_fetch_is_attempted_once_per_second() {
        let mut record = Record::default();
        let mut fetches = 0;
        for tenth in 0..30 {
            let now = at(tenth * 100);
            match want(&mut record, now) {
                Step::Fetch => {
                    fetches += 1;
                    record.ended(now, now, Err(Error::Missing));
                }
                Step::Failed(error) => assert_eq!(error, Error::Missing),
                Step::Have(_) | Step::Wait => panic!("there is none"),
            }
        }
        assert_eq!(fetches, 3);
        assert_eq!(record.outcome().expect_err("none"), Error::Missing);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_prevent_a_refetch() {
        let (mut record, mut window) = (with("a"), Window::default());
        assert!(matches!(
            record.again(at(900_000), &mut window),
            Step::Fetch
        ));
        record.ended(at(900_000), at(900_000), fetched("b"));
        assert!(matches!(record.again(at(0), &mut window), Step::Fetch));
        record.ended(at(0), at(0), fetched("c"));
        assert_eq!(known(&record), "c");
    }
}
