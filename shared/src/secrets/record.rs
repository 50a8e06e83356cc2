//! What is known of one stored secret, and when it may be fetched. Pure: the clock is passed in.
//!
//! Times are wall-clock, because a monotonic clock may stand still while the process is frozen.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secrecy::SecretString;

use super::{Error, FETCH_TIMEOUT, Value};
use crate::clock::{age, is_within};

/// A value that was refused is fetched again at most this often for each who uses it.
const BETWEEN_REFETCHES: Duration = Duration::from_secs(30);
/// After a failure without any value, nobody asks for so long: strangers can make a process ask, and each question costs.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// A fetch that is older has no end worth waiting for: the process was frozen, and so was its time limit.
const LOST_AFTER: Duration = FETCH_TIMEOUT.saturating_add(Duration::from_secs(1));

/// What a caller does now.
#[derive(Debug)]
pub(super) enum Step {
    /// Take this.
    Have(Value),
    /// There is none, and it is too early to ask.
    Failed(Error),
    /// Somebody is fetching it.
    Wait,
    /// The caller fetches it, and says how that ended.
    Fetch,
}

/// When one user of a secret last had it fetched again. Members of one secret have users of their own, and a stranger's
/// token must not keep the others from what was rotated.
#[derive(Default)]
pub(super) struct Window {
    /// The first value is not counted, so a rotation soon after a start is found at once.
    asked_again_at: Option<SystemTime>,
}

#[derive(Default)]
pub(super) struct Record {
    /// With the time when it came.
    value: Option<(Value, SystemTime)>,
    failure: Option<(Error, SystemTime)>,
    /// When the fetch that runs began.
    fetching_since: Option<SystemTime>,
}

impl Record {
    /// Somebody needs the value. If it is as old as `old`, it is fetched again first.
    pub(super) fn want(
        &mut self,
        now: SystemTime,
        old: Option<Duration>,
        window: &mut Window,
    ) -> Step {
        match &self.value {
            // A value from the future is new: the clock was set back.
            Some((_, at)) if old.is_some_and(|old| age(*at, now).unwrap_or_default() >= old) => {
                self.again(now, window)
            }
            Some((value, _)) => Step::Have(Arc::clone(value)),
            None => self.want_first(now),
        }
    }

    /// Whether nobody has needed it yet; then the caller fetches it.
    pub(super) fn first(&mut self, now: SystemTime) -> bool {
        let untried = self.value.is_none() && self.failure.is_none() && !self.is_fetching(now);
        if untried {
            self.fetching_since = Some(now);
        }
        untried
    }

    /// The value was refused, or cannot be used. [`Step::Have`] says that it stays as it is.
    pub(super) fn again(&mut self, now: SystemTime, window: &mut Window) -> Step {
        let Some((value, _)) = &self.value else {
            return self.want_first(now);
        };
        if self.is_fetching(now) {
            return Step::Wait;
        }
        if window
            .asked_again_at
            .is_some_and(|at| is_within(at, now, BETWEEN_REFETCHES))
        {
            return Step::Have(Arc::clone(value));
        }
        window.asked_again_at = Some(now);
        self.fetch(now)
    }

    /// The fetch that began at `began` ended. After a failure the value that is known stays. `false`: it was given up for
    /// lost, and what it brings may be older than what is known.
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

    pub(super) fn known(&self) -> Option<Value> {
        self.value.as_ref().map(|(value, _)| Arc::clone(value))
    }

    /// What the last fetch left.
    pub(super) fn outcome(&self) -> Result<Value, Error> {
        let error = self.failure.map_or(Error::Unavailable, |(error, _)| error);
        self.known().ok_or(error)
    }

    fn want_first(&mut self, now: SystemTime) -> Step {
        match self.failure {
            _ if self.is_fetching(now) => Step::Wait,
            Some((error, at)) if is_within(at, now, AFTER_FAILURE) => Step::Failed(error),
            _ => self.fetch(now),
        }
    }

    fn is_fetching(&self, now: SystemTime) -> bool {
        self.fetching_since
            .is_some_and(|began| is_within(began, now, LOST_AFTER))
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

    /// Somebody needs the value, of whatever age.
    fn want(record: &mut Record, now: SystemTime) -> Step {
        record.want(now, None, &mut Window::default())
    }

    /// A record that has fetched this.
    fn with(text: &str) -> Record {
        let mut record = Record::default();
        assert!(matches!(want(&mut record, at(0)), Step::Fetch));
        assert!(record.ended(at(0), at(0), fetched(text)));
        record
    }

    #[test]
    fn it_is_fetched_once_for_all_who_need_it() {
        let mut record = Record::default();
        assert!(matches!(want(&mut record, at(0)), Step::Fetch));
        assert!(matches!(want(&mut record, at(0)), Step::Wait));
        assert!(!record.first(at(0)));
        record.ended(at(0), at(5), fetched("a"));
        assert!(matches!(want(&mut record, at(5)), Step::Have(_)));
        assert!(!record.first(at(5)));
    }

    #[test]
    fn a_value_that_is_refused_all_the_time_is_fetched_once_a_window() {
        let (mut record, mut window) = (with("a"), Window::default());
        let mut fetches = 0;
        for second in 0..90 {
            let now = at(second * 1_000);
            if matches!(record.again(now, &mut window), Step::Fetch) {
                fetches += 1;
                assert!(matches!(record.again(now, &mut window), Step::Wait));
                // That it could not be fetched counts too.
                record.ended(now, now, Err(Error::Unavailable));
            }
        }
        assert_eq!((fetches, known(&record).as_str()), (3, "a"));
    }

    #[test]
    fn who_had_it_fetched_again_does_not_keep_another_from_it() {
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
    fn an_old_value_is_fetched_again_first_and_goes_on_serving_while_there_is_no_other() {
        const HOUR: u64 = 3_600_000;
        let (mut record, mut window) = (with("a"), Window::default());
        let old = Some(Duration::from_millis(HOUR));
        let mut step = |record: &mut Record, ms| record.want(at(ms), old, &mut window);
        assert!(matches!(step(&mut record, HOUR - 1), Step::Have(_)));
        assert!(matches!(step(&mut record, HOUR), Step::Fetch));
        assert!(matches!(step(&mut record, HOUR), Step::Wait));
        record.ended(at(HOUR), at(HOUR + 9), Err(Error::Unavailable));
        assert_eq!(known(&record), "a");
        // Not every request waits for an AWS that is down.
        assert!(matches!(step(&mut record, HOUR + 29_000), Step::Have(_)));
        assert!(matches!(step(&mut record, HOUR + 30_000), Step::Fetch));
        record.ended(at(HOUR + 30_000), at(HOUR + 30_000), fetched("b"));
        assert!(matches!(step(&mut record, HOUR * 2), Step::Have(_)));
        assert!(matches!(step(&mut record, HOUR * 2 + 30_000), Step::Fetch));
        // Who does not mind is not kept waiting, and a clock that was set back makes nothing old.
        assert!(matches!(want(&mut record, at(HOUR * 9)), Step::Have(_)));
        assert!(matches!(step(&mut record, 0), Step::Have(_)));
    }

    #[test]
    fn a_fetch_that_a_freeze_has_lost_is_not_waited_for_and_changes_nothing_when_it_ends() {
        const THAW: u64 = 600_000;
        let mut record = Record::default();
        assert!(record.first(at(0)));
        assert!(matches!(want(&mut record, at(3_000)), Step::Wait));
        assert!(matches!(want(&mut record, at(THAW)), Step::Fetch));
        assert!(!record.ended(at(0), at(THAW), fetched("of before")));
        assert!(matches!(want(&mut record, at(THAW)), Step::Wait));
        assert!(record.ended(at(THAW), at(THAW), fetched("a")));
        assert_eq!(known(&record), "a");

        let mut windows = [(); 2].map(|()| Window::default());
        let [one, other] = &mut windows;
        assert!(matches!(record.again(at(THAW), one), Step::Fetch));
        assert!(matches!(record.again(at(THAW), other), Step::Wait));
        assert!(matches!(record.again(at(THAW * 2), other), Step::Fetch));
        assert!(record.ended(at(THAW * 2), at(THAW * 2), fetched("b")));
        assert!(!record.ended(at(THAW), at(THAW * 2), fetched("of before")));
        assert_eq!(known(&record), "b");
    }

    #[test]
    fn without_a_value_it_is_asked_for_once_a_second() {
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
    fn a_clock_that_was_set_back_does_not_keep_it_from_being_fetched() {
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
