//! Characters: the personas that users talk to, each with a system prompt and model settings.
//!
//! A character is read from Redis and cached for a minute. While Redis is down, an older copy or a built-in sample is
//! used, so an outage interrupts no conversation with a known character. In a cluster a character may be on another
//! server than the session, so a turn waits only briefly for a newer copy than it has.

mod form;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::time::timeout;

pub use self::form::{Character, Malformed};
use crate::clock::{age, lock};
use crate::ids::CharacterId;
use crate::keys;
use crate::store::{self, Call, Store};
use crate::telemetry::{Invocation, Operation};

/// Age up to which a cached copy is used without asking Redis.
const FRESH: Duration = Duration::from_secs(60);
/// Time for which a turn waits for a newer copy than the cached one. Redis replies in a fraction of it.
const NEWER_WITHIN: Duration = Duration::from_millis(10);
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

/// Finds characters, in the cache and in Redis. Cheap to clone; clones share the cache.
#[derive(Clone)]
pub struct Characters {
    store: Store,
    clock: fn() -> SystemTime,
    cache: Arc<Mutex<Cache>>,
}

/// Locked for a lookup or an insertion, never across an await.
#[derive(Default)]
struct Cache {
    copies: HashMap<CharacterId, Kept>,
    /// The characters that are being read again.
    refreshing: HashSet<CharacterId>,
}

impl Characters {
    /// Returns an empty cache over `store`. `clock` returns the time of the wall clock.
    #[must_use]
    pub fn new(store: Store, clock: fn() -> SystemTime) -> Self {
        Self {
            store,
            clock,
            cache: Arc::default(),
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
        let Some((copy, fetched_at)) = self.copy(id) else {
            return self.read(id, invocation).await;
        };
        if is_fresh(fetched_at, now) || !lock(&self.cache).refreshing.insert(id.clone()) {
            return Ok(copy);
        }
        let (characters, refreshed) = (self.clone(), id.clone());
        // It ends within the read budget. It is not a part of the invocation, which may end before it.
        let newer = tokio::spawn(async move {
            let read = characters.read(&refreshed, &Invocation::detached()).await;
            lock(&characters.cache).refreshing.remove(&refreshed);
            read
        });
        match timeout(NEWER_WITHIN, newer).await {
            Ok(Ok(newer)) => newer,
            Ok(Err(_)) | Err(_) => Ok(copy),
        }
    }

    /// Reads a character from Redis and keeps it.
    async fn read(
        &self,
        id: &CharacterId,
        invocation: &Invocation,
    ) -> Result<Arc<Character>, Error> {
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
            Ok(character) => Ok(self.keep(id, Arc::new(character), (self.clock)())),
            Err(error) => {
                // The character was deleted or damaged, so the cached copy is outdated.
                lock(&self.cache).copies.remove(id);
                Err(error)
            }
        }
    }

    /// Returns a copy of any age or a sample, while Redis is unavailable. The sample is kept as a copy that is not
    /// fresh, so that later turns wait for Redis only as long as for a newer copy.
    fn without_redis(
        &self,
        id: &CharacterId,
        error: store::Error,
    ) -> Result<Arc<Character>, Error> {
        if let Some((copy, _)) = self.copy(id) {
            return Ok(copy);
        }
        let sample = sample(id).ok_or(Error::Unavailable(error))?;
        Ok(self.keep(id, Arc::new(sample), SystemTime::UNIX_EPOCH))
    }

    /// Returns the cached copy and when it was fetched.
    fn copy(&self, id: &CharacterId) -> Option<(Arc<Character>, SystemTime)> {
        let cache = lock(&self.cache);
        let copy = cache.copies.get(id)?;
        Some((Arc::clone(&copy.character), copy.fetched_at))
    }

    fn keep(
        &self,
        id: &CharacterId,
        character: Arc<Character>,
        fetched_at: SystemTime,
    ) -> Arc<Character> {
        let copies = &mut lock(&self.cache).copies;
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
            fetched_at,
        };
        copies.insert(id.clone(), copy);
        character
    }
}

/// Returns whether a copy may be used without asking Redis. A copy from the future may not: the clock was set back.
fn is_fresh(fetched_at: SystemTime, now: SystemTime) -> bool {
    age(fetched_at, now).is_some_and(|age| age < FRESH)
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
        assert!(is_fresh(at(1_000), at(1_059)));
        assert!(!is_fresh(at(1_000), at(1_060)));
        assert!(!is_fresh(at(1_000), at(999)));
    }
}
