//! Other users' first event: what one server suffers costs the users of the others nothing.
//!
//! A turn is judged if its user's server was well from a second before the request until the first event, and its process
//! ran. The machine has few cores and stalls by itself, so each process is also asked, all the time, for an answer that
//! needs no Redis. What that took at the same time does not count, three times: a first event needs a CPU that often, in
//! the function, in Redis, and in the function again. Nor does what a PING took at the single server, which waits for its
//! disk.

use std::ops::Range;
use std::time::{Duration, Instant};

/// The promise: the longest time to the first event, beyond what the machine adds.
pub(crate) const PROMISED: Duration = Duration::from_millis(50);
/// How often a first event needs a CPU where an answer without Redis needs it once.
const CPU_TURNS: u32 = 3;
/// The time for which a server that is back counts as unwell: until the breakers' next probe, and a new connection.
const SETTLES_WITHIN: Duration = Duration::from_secs(1);

/// A fault that struck.
#[derive(Debug, Clone)]
pub(crate) struct Hit {
    pub(crate) name: &'static str,
    pub(crate) during: Range<Instant>,
    /// The users whose server does not answer as usual meanwhile.
    pub(crate) users: Vec<usize>,
    /// The users whose server may fail to store something meanwhile.
    pub(crate) touched: Vec<usize>,
    /// The process that it strikes.
    pub(crate) process: Option<usize>,
    /// Whether the process is killed, and replaced by another.
    pub(crate) is_kill: bool,
}

impl Hit {
    /// Returns whether a time overlaps with the fault, or with the time in which its server or process settles.
    pub(crate) fn overlaps(&self, during: &Range<Instant>) -> bool {
        overlap(
            &(self.during.start..self.during.end + SETTLES_WITHIN),
            during,
        )
    }
}

/// A first event.
#[derive(Debug, Clone)]
pub(crate) struct First {
    pub(crate) user: usize,
    pub(crate) process: usize,
    /// From the request to the event.
    pub(crate) during: Range<Instant>,
    pub(crate) said: String,
}

/// An answer of a process that needed no Redis, or of the single server to a PING.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    /// `None` for the server.
    pub(crate) process: Option<usize>,
    pub(crate) during: Range<Instant>,
}

/// The times of the turns that were judged.
#[derive(Debug, Default)]
pub(crate) struct Promptness {
    /// Sorted.
    pub(crate) took: Vec<Duration>,
    /// One sentence each.
    pub(crate) violations: Vec<String>,
}

impl Promptness {
    /// Returns the time within which this share of the first events came.
    pub(crate) fn within(&self, percent: usize) -> Duration {
        let at = (self.took.len() * percent / 100).min(self.took.len().saturating_sub(1));
        self.took.get(at).copied().unwrap_or_default()
    }
}

/// Judges the first events.
pub(crate) fn judge(firsts: &[First], hits: &[Hit], controls: &[Control]) -> Promptness {
    let mut promptness = Promptness::default();
    for first in firsts {
        let is_hit = hits.iter().any(|hit| {
            let concerns = hit.users.contains(&first.user) || hit.process == Some(first.process);
            concerns && hit.overlaps(&first.during)
        });
        if is_hit {
            continue;
        }
        let took = length(&first.during);
        promptness.took.push(took);
        let (process, server) = (
            longest(controls, Some(first.process), &first.during),
            longest(controls, None, &first.during),
        );
        if took > PROMISED + CPU_TURNS * process + server {
            let others: Vec<_> = hits
                .iter()
                .filter(|hit| hit.overlaps(&first.during))
                .map(|hit| (hit.name, &hit.users, hit.process))
                .collect();
            promptness.violations.push(format!(
                "{} by user {}: the first event took {took:?}, an answer without Redis {process:?}, a PING {server:?}; \
                 what struck others at that time: {others:?}",
                first.said, first.user
            ));
        }
    }
    promptness.took.sort();
    promptness
}

/// Returns the longest answer of a process, or of the server, at some time.
pub(crate) fn longest(
    controls: &[Control],
    process: Option<usize>,
    during: &Range<Instant>,
) -> Duration {
    let same = controls
        .iter()
        .filter(|control| control.process == process && overlap(&control.during, during));
    let longest = same.map(|control| length(&control.during)).max();
    longest.unwrap_or_default()
}

fn length(range: &Range<Instant>) -> Duration {
    range.end.saturating_duration_since(range.start)
}

fn overlap(one: &Range<Instant>, other: &Range<Instant>) -> bool {
    one.start <= other.end && other.start <= one.end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_found_unless_its_server_its_process_or_the_machine_was_unwell() {
        let began = Instant::now();
        let ms = |from: u64, until: u64| {
            began + Duration::from_millis(from)..began + Duration::from_millis(until)
        };
        let first = |user, process, during| First {
            user,
            process,
            during,
            said: String::new(),
        };
        let late = first(0, 0, ms(5_000, 5_090));
        let found = |hits: &[Hit], controls: &[Control]| {
            judge(std::slice::from_ref(&late), hits, controls)
                .violations
                .len()
        };
        let hit = |during, users: &[usize], process| Hit {
            name: "a fault",
            during,
            users: users.to_vec(),
            touched: users.to_vec(),
            process,
            is_kill: false,
        };
        assert_eq!(found(&[], &[]), 1);
        assert_eq!(found(&[hit(ms(4_500, 4_600), &[1], Some(1))], &[]), 1);
        assert_eq!(found(&[hit(ms(4_500, 4_600), &[0], None)], &[]), 0);
        assert_eq!(found(&[hit(ms(4_500, 4_600), &[], Some(0))], &[]), 0);
        assert_eq!(
            found(&[hit(ms(3_000, 3_900), &[0], Some(0))], &[]),
            1,
            "it is back"
        );
        let control = |process, during| Control { process, during };
        assert_eq!(found(&[], &[control(None, ms(5_030, 5_070))]), 0);
        assert_eq!(found(&[], &[control(Some(0), ms(5_030, 5_050))]), 0);
        assert_eq!(found(&[], &[control(Some(0), ms(5_030, 5_040))]), 1);
        assert_eq!(found(&[], &[control(Some(1), ms(5_030, 5_050))]), 1);
        assert_eq!(found(&[], &[control(Some(0), ms(5_100, 5_200))]), 1);
        assert_eq!(
            judge(&[first(0, 0, ms(0, 50))], &[], &[]).violations.len(),
            0
        );
    }
}
