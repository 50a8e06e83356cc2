//! How much one process carries at once: its open descriptors and its memory.
//!
//! A process that serves one invocation at a time never reaches these limits. With several, the number of running turns
//! is bounded before they are reached, because a full process hurts every turn that runs in it. A new turn is then
//! refused, and the running ones go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Descriptors that are kept for everything but invocations and turns: the standard streams, the event loop, Redis and
/// its replicas, name look-ups, and connections that are opened a moment before others close.
const RESERVED_DESCRIPTORS: usize = 32;
/// Connections of an invocation to the Runtime API: one polls, and one sends the response.
const DESCRIPTORS_PER_INVOCATION: usize = 2;
/// If descriptors are scarce, nine of ten invocations may run a turn, and the tenth refuses further ones.
const TURNS_OF_TEN: usize = 9;
/// The part of the memory, in percent, above which no more turns are begun than have run below it.
const FULL_PERCENT: u64 = 90;

/// What a process lacks for another turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Open descriptors: its own limit, or that of the platform.
    Descriptors,
    /// Memory.
    Memory,
}

impl Shortage {
    /// Returns the word for logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::Memory => "memory",
        }
    }
}

/// The invocations and turns that a process carries at once.
#[derive(Debug)]
pub struct Capacity {
    invocations: usize,
    turns: usize,
    /// Turns that have a place.
    running: AtomicUsize,
    memory: Memory,
}

impl Capacity {
    /// Returns the capacity of this process, if the platform sends it up to `asked` invocations at once. Raises the
    /// soft limit of open descriptors to the hard one.
    #[must_use]
    pub fn of_this_process(asked: usize) -> Self {
        let (invocations, turns) = shared_out(raised_descriptor_limit(), asked);
        if invocations < asked {
            tracing::warn!(
                asked,
                invocations,
                "the limit of open descriptors is too low for the invocations that the platform sends at once"
            );
        }
        let megabytes = std::env::var("AWS_LAMBDA_FUNCTION_MEMORY_SIZE").ok();
        let megabytes = megabytes.and_then(|megabytes| megabytes.parse::<u64>().ok());
        Self {
            invocations,
            turns,
            running: AtomicUsize::new(0),
            memory: Memory::of(megabytes),
        }
    }

    /// Returns the number of invocations to wait for at once, which is at least one.
    #[must_use]
    pub fn invocations(&self) -> usize {
        self.invocations
    }

    /// Returns a place for one more turn. A turn that would be alone always gets one.
    ///
    /// # Errors
    /// What the process lacks for it.
    pub fn admit(self: &Arc<Self>) -> Result<Place, Shortage> {
        // Counted first, so that turns which begin at the same time see each other.
        let running = self.running.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(self));
        if running == 0 {
            return Ok(place);
        }
        if running >= self.turns {
            return Err(Shortage::Descriptors);
        }
        if !self.memory.has_room(running, resident_kilobytes()) {
            return Err(Shortage::Memory);
        }
        Ok(place)
    }
}

/// The place of one turn in its process, free again when this is dropped.
#[derive(Debug)]
pub struct Place(Arc<Capacity>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns how many invocations and how many turns a limit of descriptors carries. A turn has one connection to the
/// model, besides those of its invocation.
fn shared_out(limit: usize, asked: usize) -> (usize, usize) {
    let free = limit.saturating_sub(RESERVED_DESCRIPTORS);
    let left = free.saturating_sub(asked.saturating_mul(DESCRIPTORS_PER_INVOCATION));
    if left >= asked {
        return (asked, left);
    }
    let fit = free * 10 / (10 * DESCRIPTORS_PER_INVOCATION + TURNS_OF_TEN);
    let invocations = fit.max(2).min(asked);
    let left = free.saturating_sub(invocations * DESCRIPTORS_PER_INVOCATION);
    (invocations, left.min(invocations - 1).max(1))
}

/// Raises the soft limit of open descriptors to the hard one, and returns it.
#[cfg(target_os = "linux")]
#[must_use]
pub fn raised_descriptor_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // A platform may deny it. The soft limit then stays.
    let limit = setrlimit(Resource::Nofile, raised).map_or(limit, |()| raised);
    let unlimited = usize::MAX;
    limit.current.map_or(unlimited, |limit| {
        usize::try_from(limit).unwrap_or(unlimited)
    })
}

/// Returns no limit: it is read on Linux only, where Lambda runs.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn raised_descriptor_limit() -> usize {
    usize::MAX
}

/// Returns the resident memory of this process, or `None` on other systems than Linux.
fn resident_kilobytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// The memory of the process, and what it has carried.
///
/// Freed memory stays with the process, so one that was full once always looks full. What counts then is how many turns
/// it has carried before it was.
#[derive(Debug)]
struct Memory {
    /// Resident memory, in kB, above which the process is full; `None` if its size is not known.
    full: Option<u64>,
    /// The most turns that were begun at once before the process was full.
    carried: AtomicUsize,
}

impl Memory {
    fn of(megabytes: Option<u64>) -> Self {
        Self {
            full: megabytes.map(|megabytes| megabytes.saturating_mul(1_024) * FULL_PERCENT / 100),
            carried: AtomicUsize::new(0),
        }
    }

    fn has_room(&self, running: usize, resident: Option<u64>) -> bool {
        let (Some(full), Some(resident)) = (self.full, resident) else {
            return true;
        };
        if resident < full {
            self.carried.fetch_max(running + 1, Ordering::Relaxed);
            return true;
        }
        running < self.carried.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invocations_and_turns_never_need_more_descriptors_than_there_are() {
        for limit in [0, 40, 64, 256, 1_024, 4_096, 65_536, usize::MAX] {
            for asked in [1, 2, 8, 64, 1_600, 5_000] {
                let (invocations, turns) = shared_out(limit, asked);
                assert!((1..=asked).contains(&invocations), "{limit} {asked}");
                assert!(turns >= 1, "{limit} {asked}");
                // Below this, nothing works, and a process that tries says so.
                if limit > RESERVED_DESCRIPTORS + 2 * DESCRIPTORS_PER_INVOCATION {
                    let needed = invocations * DESCRIPTORS_PER_INVOCATION + turns;
                    assert!(needed <= limit - RESERVED_DESCRIPTORS, "{limit} {asked}");
                }
                // One is left to refuse what is too much.
                let is_scarce = turns < asked;
                assert!(!is_scarce || turns < invocations, "{limit} {asked}");
            }
        }
        assert_eq!(shared_out(1_024, 64).0, 64);
        assert_eq!(shared_out(1_024, 330), (330, 332));
        assert_eq!(shared_out(1_024, 331), (331, 330));
        assert_eq!(shared_out(1_024, 1_600), (342, 308));
        assert_eq!(shared_out(64, 64), (11, 10));
    }

    #[test]
    fn a_place_is_free_again_after_its_turn() {
        let capacity = Arc::new(Capacity {
            invocations: 4,
            turns: 2,
            running: AtomicUsize::new(0),
            memory: Memory::of(None),
        });
        let first = capacity.admit();
        let second = capacity.admit();
        assert!(first.is_ok() && second.is_ok());
        for _ in 0..2 {
            assert_eq!(capacity.admit().err(), Some(Shortage::Descriptors));
        }
        drop(first);
        assert!(capacity.admit().is_ok());
    }

    #[test]
    fn a_full_process_begins_as_many_turns_as_it_has_carried() {
        let memory = Memory::of(Some(100));
        let full = Some(100 * 1_024 * FULL_PERCENT / 100);
        assert!(!memory.has_room(1, full));
        assert!(memory.has_room(1, Some(50_000)));
        assert!(memory.has_room(2, Some(60_000)));
        // Three were begun. They take more than was left.
        assert!(!memory.has_room(3, full));
        // One has ended, and its memory is free, but stays with the process.
        assert!(memory.has_room(2, full));
        assert!(Memory::of(None).has_room(5_000, full));
        assert!(Memory::of(Some(1)).has_room(5_000, None));
    }
}
