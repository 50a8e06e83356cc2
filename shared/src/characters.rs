//! Characters: the personas that users talk to, each with a system prompt and model settings.
//!
//! A character is read from Redis and cached for a minute. While Redis is down, an older copy or a built-in sample is
//! used, so an outage interrupts no conversation with a known character.

mod form;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

pub use self::form::{Character, Malformed};
use crate::clock::{age, lock};
use crate::ids::CharacterId;
use crate::keys;
use crate::store::{self, Call, Store};
use crate::telemetry::{Invocation, Operation};

/// Age up to which a cached copy is used without asking Redis.
const FRESH: Duration = Duration::from_secs(60);
/// Limit of cached characters. Beyond it the oldest copy is dropped.
const MAX_COPIES: usize = 1_000;

const SAMPLES: [(&str, &str); 3] = [
    ("luna", include_str!("characters/luna.json")),
    ("kai", include_str!("characters/kai.json")),
    ("mei", include_str!("characters/mei.json")),
];

/// Why a character could not be found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The character does not exist.
    #[error("the character does not exist")]
    NotFound,
    /// Redis is unavailable, and there is no copy of the character.
    #[error("the character could not be looked up")]
    Unavailable(#[source] store::Error),
    /// The character's key does not hold a string. Redis did reply, so a retry has the same result.
    #[error("the key holds a value of another type than a string")]
    WrongType,
    /// The stored value is not a valid character. The source names a position or a field, never the prompt.
    #[error("the stored character cannot be read")]
    Malformed(#[source] Malformed),
}

struct Kept {
    character: Arc<Character>,
    fetched_at: SystemTime,
}

/// Finds characters, in the cache and in Redis.
pub struct Characters {
    store: Store,
    clock: fn() -> SystemTime,
    /// Locked for a lookup or an insertion, never across an await.
    copies: Mutex<HashMap<CharacterId, Kept>>,
}

impl Characters {
    /// Returns an empty cache over `store`. `clock` returns the time of the wall clock.
    #[must_use]
    pub fn new(store: Store, clock: fn() -> SystemTime) -> Self {
        Self {
            store,
            clock,
            copies: Mutex::new(HashMap::new()),
        }
    }

    /// Returns a character, from the cache or from Redis. A read from Redis is recorded in `invocation`.
    ///
    /// # Errors
    /// The character does not exist, its stored value is invalid, or Redis is unavailable and there is no copy.
    pub async fn find(
        &self,
        id: &CharacterId,
        invocation: &Invocation,
    ) -> Result<Arc<Character>, Error> {
        let now = (self.clock)();
        if let Some(copy) = self.copy(id, |copy| is_fresh(copy, now)) {
            return Ok(copy);
        }
        let call = Call::command("GET", keys::character(id));
        let stored: Result<Option<Vec<u8>>, _> = self
            .store
            .read(invocation, Operation::Character, &call)
            .await;
        let found = match stored {
            Ok(Some(json)) => Character::from_json(&json).map_err(Error::Malformed),
            Ok(None) => sample(id).ok_or(Error::NotFound),
            Err(error) if error.is_wrong_type() => Err(Error::WrongType),
            Err(error) => return self.without_redis(id, error),
        };
        match found {
            Ok(character) => Ok(self.keep(id, character, now)),
            Err(error) => {
                // The character was deleted or damaged, so the cached copy is outdated.
                lock(&self.copies).remove(id);
                Err(error)
            }
        }
    }

    /// Returns a copy of any age or a sample, while Redis is unavailable.
    fn without_redis(
        &self,
        id: &CharacterId,
        error: store::Error,
    ) -> Result<Arc<Character>, Error> {
        self.copy(id, |_| true)
            .or_else(|| sample(id).map(Arc::new))
            .ok_or(Error::Unavailable(error))
    }

    fn copy(&self, id: &CharacterId, suits: impl FnOnce(&Kept) -> bool) -> Option<Arc<Character>> {
        let copies = lock(&self.copies);
        let copy = copies.get(id)?;
        suits(copy).then(|| Arc::clone(&copy.character))
    }

    fn keep(&self, id: &CharacterId, character: Character, now: SystemTime) -> Arc<Character> {
        let character = Arc::new(character);
        let mut copies = lock(&self.copies);
        if copies.len() >= MAX_COPIES
            && !copies.contains_key(id)
            && let Some(oldest) = copies
                .iter()
                .min_by_key(|(_, copy)| copy.fetched_at)
                .map(|(id, _)| id.clone())
        {
            copies.remove(&oldest);
        }
        let copy = Kept {
            character: Arc::clone(&character),
            fetched_at: now,
        };
        copies.insert(id.clone(), copy);
        character
    }
}

/// Returns whether a copy may be used without asking Redis. A copy from the future may not: the clock was set back.
fn is_fresh(copy: &Kept, now: SystemTime) -> bool {
    age(copy.fetched_at, now).is_some_and(|age| age < FRESH)
}

fn sample(id: &CharacterId) -> Option<Character> {
    let (_, json) = SAMPLES
        .into_iter()
        .find(|(sample, _)| *sample == id.as_str())?;
    // A test parses every sample.
    Character::from_json(json.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_can_be_read() {
        for (id, json) in SAMPLES {
            let character = Character::from_json(json.as_bytes()).expect(id);
            assert!(!character.name.is_empty() && !character.system_prompt.is_empty());
            assert_eq!(
                sample(&CharacterId::parse(id).expect("valid")),
                Some(character)
            );
        }
        assert_eq!(sample(&CharacterId::parse("nobody").expect("valid")), None);
    }

    #[test]
    fn a_copy_is_fresh_for_a_minute() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let copy = Kept {
            character: Arc::new(
                sample(&CharacterId::parse("luna").expect("valid")).expect("a sample"),
            ),
            fetched_at: at(1_000),
        };
        assert!(is_fresh(&copy, at(1_059)));
        assert!(!is_fresh(&copy, at(1_060)));
        assert!(!is_fresh(&copy, at(999)));
    }
}
