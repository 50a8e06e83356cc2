//! Who the user talks to: a system prompt and the settings of a voice.
//!
//! A character is looked up in Redis and kept for a minute. While Redis is down, an older copy serves, and so do the samples
//! that are compiled in: an outage stops no conversation whose character is known.

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

/// How long a copy serves without a look at Redis.
const FRESH: Duration = Duration::from_secs(60);
/// Copies kept. Past this the oldest goes.
const MOST_KEPT: usize = 1_000;

const SAMPLES: [(&str, &str); 3] = [
    ("luna", include_str!("characters/luna.json")),
    ("kai", include_str!("characters/kai.json")),
    ("mei", include_str!("characters/mei.json")),
];

/// A character that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody knows it.
    #[error("there is no such character")]
    NotFound,
    /// Redis could not be asked, and no copy is at hand.
    #[error("the character could not be looked up")]
    Unavailable(#[source] store::Error),
    /// The character's key holds no string. Redis did answer, so asking again changes nothing.
    #[error("the key holds a value of another type than a string")]
    WrongType,
    /// The stored value is not a valid character. The source names a place or a field, not the prompt.
    #[error("the stored character cannot be read")]
    Malformed(#[source] Malformed),
}

struct Kept {
    character: Arc<Character>,
    fetched_at: SystemTime,
}

/// Looks characters up.
pub struct Characters {
    store: Store,
    clock: fn() -> SystemTime,
    /// Held for a look-up or an insertion, never across an await.
    copies: Mutex<HashMap<CharacterId, Kept>>,
}

impl Characters {
    /// Looks them up in `store`. `clock` returns wall-clock time.
    #[must_use]
    pub fn new(store: Store, clock: fn() -> SystemTime) -> Self {
        Self {
            store,
            clock,
            copies: Mutex::new(HashMap::new()),
        }
    }

    /// Finds a character, for the invocation of `invocation`.
    ///
    /// # Errors
    /// It does not exist, or could not be looked up and is not known here.
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
                // Deleted or damaged: what was kept is no longer true.
                lock(&self.copies).remove(id);
                Err(error)
            }
        }
    }

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
        if copies.len() >= MOST_KEPT
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

/// A copy from the future is not fresh: the clock was set back.
fn is_fresh(copy: &Kept, now: SystemTime) -> bool {
    age(copy.fetched_at, now).is_some_and(|age| age < FRESH)
}

fn sample(id: &CharacterId) -> Option<Character> {
    let (_, json) = SAMPLES
        .into_iter()
        .find(|(sample, _)| *sample == id.as_str())?;
    // A test reads every sample.
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
