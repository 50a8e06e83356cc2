//! Wall-clock time and short locks: what every room would otherwise write for itself.
//!
//! Ages are measured on the wall clock, because a monotonic clock may stand still while the platform freezes the process. A
//! wall clock can be set back, so each function here says what a moment in the future means.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns how long ago `at` was; `None` if it is in the future, because the clock was set back.
pub(crate) fn age(at: SystemTime, now: SystemTime) -> Option<Duration> {
    now.duration_since(at).ok()
}

/// Returns whether `at` and `now` are less than `span` apart, in either order: concurrent callers may compare with a `now`
/// that is slightly older than `at`, and a moment far in the future means that the clock was set back.
pub(crate) fn is_within(at: SystemTime, now: SystemTime, span: Duration) -> bool {
    now.duration_since(at)
        .map_or_else(|ahead| ahead.duration() < span, |age| age < span)
}

/// Returns the Unix time in seconds; 0 before 1970.
pub(crate) fn unix_seconds(time: SystemTime) -> i64 {
    i64::try_from(since_1970(time).as_secs()).unwrap_or(i64::MAX)
}

/// Returns the Unix time in milliseconds; 0 before 1970.
pub(crate) fn unix_millis(time: SystemTime) -> u64 {
    u64::try_from(since_1970(time).as_millis()).unwrap_or(u64::MAX)
}

/// Returns the Unix time in microseconds; 0 before 1970.
pub(crate) fn unix_micros(time: SystemTime) -> u64 {
    micros(since_1970(time))
}

/// Returns a duration in microseconds.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Locks `mutex`, also after a panic of another holder: the values behind this project's locks are replaced whole, so a
/// panic cannot leave one half changed. Every such lock is held for a few instructions and never across an await.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_moment_in_the_future_has_no_age_and_is_within_a_span_only_if_it_is_near() {
        const SPAN: Duration = Duration::from_secs(10);
        assert_eq!(age(at(5), at(7)), Some(Duration::from_secs(2)));
        assert_eq!(age(at(7), at(5)), None);
        assert!(is_within(at(5), at(14), SPAN) && is_within(at(14), at(5), SPAN));
        assert!(!is_within(at(5), at(15), SPAN) && !is_within(at(15), at(5), SPAN));
    }

    #[test]
    fn unix_time_has_three_units_and_does_not_go_below_zero() {
        let time = UNIX_EPOCH + Duration::from_micros(1_234_567);
        assert_eq!(
            (unix_seconds(time), unix_millis(time), unix_micros(time)),
            (1, 1_234, 1_234_567)
        );
        let early = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!((unix_seconds(early), unix_millis(early)), (0, 0));
    }

    #[test]
    fn a_poisoned_lock_is_entered() {
        let mutex = Mutex::new(1);
        let poisoned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _guard = mutex.lock();
            panic!("on purpose");
        }));
        assert!(poisoned.is_err() && mutex.is_poisoned());
        assert_eq!(*lock(&mutex), 1);
    }
}
