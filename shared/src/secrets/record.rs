//! What is known of one stored secret, and when it may be fetched. Pure: the clock is passed in.
//!
//! Times are wall-clock, because a monotonic clock may stand still while the process is frozen.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secrecy::SecretString;

use super::{Error, Value};

/// A value that was refused is fetched again at most this often.
const BETWEEN_REFETCHES: Duration = Duration::from_secs(30);
/// After a failure without any value, nobody asks for so long: strangers can make a process ask, and each question costs.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

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

#[derive(Default)]
pub(super) struct Record {
    value: Option<Value>,
    failure: Option<(Error, SystemTime)>,
    /// The first value is not counted, so a rotation soon after a start is found at once.
    asked_again_at: Option<SystemTime>,
    fetching: bool,
}

impl Record {
    /// Somebody needs the value.
    pub(super) fn want(&mut self, now: SystemTime) -> Step {
        match (&self.value, self.failure) {
            (Some(value), _) => Step::Have(Arc::clone(value)),
            (None, _) if self.fetching => Step::Wait,
            (None, Some((error, at))) if is_within(at, now, AFTER_FAILURE) => Step::Failed(error),
            (None, _) => self.fetch(),
        }
    }

    /// Whether nobody has needed it yet; then the caller fetches it.
    pub(super) fn first(&mut self) -> bool {
        let untried = self.value.is_none() && self.failure.is_none() && !self.fetching;
        self.fetching |= untried;
        untried
    }

    /// The value was refused. [`Step::Have`] says that it stays as it is.
    pub(super) fn again(&mut self, now: SystemTime) -> Step {
        if self.fetching {
            return Step::Wait;
        }
        let Some(value) = &self.value else {
            return self.want(now);
        };
        if self
            .asked_again_at
            .is_some_and(|at| is_within(at, now, BETWEEN_REFETCHES))
        {
            return Step::Have(Arc::clone(value));
        }
        self.asked_again_at = Some(now);
        self.fetch()
    }

    /// The fetch ended. After a failure the value that is known stays.
    pub(super) fn ended(&mut self, now: SystemTime, outcome: Result<SecretString, Error>) {
        self.fetching = false;
        match outcome {
            Ok(value) => {
                self.value = Some(Arc::new(value));
                self.failure = None;
            }
            Err(error) => self.failure = Some((error, now)),
        }
    }

    pub(super) fn known(&self) -> Option<Value> {
        self.value.clone()
    }

    /// What the last fetch left.
    pub(super) fn outcome(&self) -> Result<Value, Error> {
        let error = self.failure.map_or(Error::Unavailable, |(error, _)| error);
        self.value.clone().ok_or(error)
    }

    fn fetch(&mut self) -> Step {
        self.fetching = true;
        Step::Fetch
    }
}

/// A moment far in the future is not within: the clock was set back.
fn is_within(at: SystemTime, now: SystemTime, span: Duration) -> bool {
    now.duration_since(at)
        .map_or_else(|ahead| ahead.duration() < span, |age| age < span)
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

    #[test]
    fn it_is_fetched_once_for_all_who_need_it() {
        let mut record = Record::default();
        assert!(matches!(record.want(at(0)), Step::Fetch));
        assert!(matches!(record.want(at(0)), Step::Wait));
        assert!(!record.first());
        record.ended(at(5), fetched("a"));
        assert!(matches!(record.want(at(5)), Step::Have(_)));
        assert!(!record.first());
    }

    #[test]
    fn a_value_that_is_refused_all_the_time_is_fetched_once_a_window() {
        let mut record = Record::default();
        record.ended(at(0), fetched("a"));
        let mut fetches = 0;
        for second in 0..90 {
            if matches!(record.again(at(second * 1_000)), Step::Fetch) {
                fetches += 1;
                assert!(matches!(record.again(at(second * 1_000)), Step::Wait));
                // That it could not be fetched counts too.
                record.ended(at(second * 1_000), Err(Error::Unavailable));
            }
        }
        assert_eq!((fetches, known(&record).as_str()), (3, "a"));
    }

    #[test]
    fn without_a_value_it_is_asked_for_once_a_second() {
        let mut record = Record::default();
        let mut fetches = 0;
        for tenth in 0..30 {
            match record.want(at(tenth * 100)) {
                Step::Fetch => {
                    fetches += 1;
                    record.ended(at(tenth * 100), Err(Error::Missing));
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
        let mut record = Record::default();
        record.ended(at(0), fetched("a"));
        assert!(matches!(record.again(at(900_000)), Step::Fetch));
        record.ended(at(900_000), fetched("b"));
        assert!(matches!(record.again(at(0)), Step::Fetch));
        record.ended(at(0), fetched("c"));
        assert_eq!(known(&record), "c");
    }
}
