//! Wall-clock ages, Unix time, and locks that survive a panic.
//!
//! Ages are taken from the wall clock, because a monotonic clock may stand still while the platform has the process
//! frozen. The price is that the wall clock can be set back, so every function here defines its result for a moment
//! that lies in the future. The caller passes `now` in, which is what makes ageing testable without waiting.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns how much time has passed from `at` to `now`, or `None` if `at` lies in the future.
///
/// `None` means that the clock was set back, or that `now` was read before `at`. Callers differ in what is safe then: a
/// copy of unknown age is fetched again, while a value that arrived a moment ago counts as new.
#[must_use]
pub fn age(at: SystemTime, now: SystemTime) -> Option<Duration> {
    now.duration_since(at).ok()
}

/// Returns whether `at` and `now` are less than `span` apart, in either direction.
///
/// Moments slightly in the future count, because concurrent requests may carry a `now` from before `at`. Moments
/// further ahead do not: the clock was set back, and nothing may be held up until it catches up.
#[must_use]
pub fn is_within(at: SystemTime, now: SystemTime, span: Duration) -> bool {
    now.duration_since(at)
        .map_or_else(|ahead| ahead.duration() < span, |age| age < span)
}

/// Returns `time` in whole seconds since 1970-01-01T00:00:00Z, rounded down; 0 for earlier times.
///
/// The result is signed because stored messages and sessions hold signed timestamps.
#[must_use]
pub fn unix_seconds(time: SystemTime) -> i64 {
    i64::try_from(since_epoch(time).as_secs()).unwrap_or(i64::MAX)
}

/// Returns `time` in whole milliseconds since 1970-01-01T00:00:00Z, rounded down; 0 for earlier times.
#[must_use]
pub fn unix_millis(time: SystemTime) -> u64 {
    u64::try_from(since_epoch(time).as_millis()).unwrap_or(u64::MAX)
}

/// Returns `time` in whole microseconds since 1970-01-01T00:00:00Z, rounded down; 0 for earlier times.
#[must_use]
pub fn unix_micros(time: SystemTime) -> u64 {
    micros(since_epoch(time))
}

/// Returns `duration` in whole microseconds, rounded down.
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn since_epoch(time: SystemTime) -> Duration {
    age(UNIX_EPOCH, time).unwrap_or_default()
}

/// Locks `mutex`, also if a thread panicked while it held the lock.
///
/// A panic fails one invocation, and the process serves the next ones. Refusing the lock would fail all of them.
/// Entering it is safe where every change under the lock leaves the value whole at each step, and the locks of this
/// crate are held only for such changes: a few instructions, never across an `await`.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    const SPAN: Duration = Duration::from_secs(30);

    fn at(micros: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(micros)
    }

    #[test]
    fn a_moment_in_the_future_has_no_age() {
        assert_eq!(age(at(5), at(9)), Some(Duration::from_micros(4)));
        assert_eq!(age(at(9), at(9)), Some(Duration::ZERO));
        assert_eq!(age(at(10), at(9)), None);
    }

    #[test]
    fn a_span_is_open_at_its_end_and_reaches_as_far_ahead_as_back() {
        let now = at(100_000_000);
        let almost = SPAN - Duration::from_micros(1);
        assert!(is_within(now, now, SPAN));
        for (distance, within) in [(almost, true), (SPAN, false), (SPAN * 3, false)] {
            assert_eq!(is_within(now - distance, now, SPAN), within);
            assert_eq!(is_within(now + distance, now, SPAN), within);
        }
        assert!(!is_within(now, now, Duration::ZERO));
    }

    #[test]
    fn unix_time_is_rounded_down_and_starts_at_0() {
        let time = at(1_700_000_000_999_999);
        assert_eq!(unix_seconds(time), 1_700_000_000);
        assert_eq!(unix_millis(time), 1_700_000_000_999);
        assert_eq!(unix_micros(time), 1_700_000_000_999_999);
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(unix_seconds(before), 0);
        assert_eq!(unix_millis(before), 0);
        assert_eq!(unix_micros(before), 0);
    }

    #[test]
    fn a_lock_is_entered_after_a_panic() {
        let mutex = Mutex::new(1);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let mut value = lock(&mutex);
            *value = 2;
            panic!("while the lock is held");
        }));
        assert!(panicked.is_err());
        assert!(mutex.is_poisoned());
        assert_eq!(*lock(&mutex), 2);
    }
}
