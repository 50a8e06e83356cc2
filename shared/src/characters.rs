//! Characters: the personas that users talk to, each a card or a system prompt, with model settings.
//!
//! A character is read from Redis and cached for a minute. While Redis is down, an older copy or a built-in sample is
//! used, so an outage interrupts no conversation with a known character. In a cluster a character may be on another
//! server than the session, so a turn waits only briefly for a newer copy than it has.

mod cache;
pub mod card;
mod form;
pub mod lore;
pub mod macros;
mod sheet;
mod shelf;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;
use tokio::time::timeout;

use self::cache::{Cache, Kept, Source};
pub use self::form::{Character, Malformed, Persona};
pub use self::sheet::{Audience, Field, Sheet, USER};
pub use self::shelf::{Listed, Shelf, StoredCharacter};
use crate::clock::{age, lock};
use crate::ids::CharacterId;
use crate::keys;
use crate::store::{self, Call, Store};
use crate::telemetry::{Invocation, Operation};

/// Age up to which a cached copy is used without asking Redis.
const FRESH: Duration = Duration::from_secs(60);
/// Time for which a turn waits for a newer copy than the cached one. Redis replies in a fraction of it.
const NEWER_WITHIN: Duration = Duration::from_millis(10);
/// Stored bytes up to which a character is read on the thread that serves. A larger one is read on another thread, because
/// all turns of the process would wait.
const READ_AT_ONCE: usize = 64 * 1024;

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
    /// The thread that read the character failed.
    #[error("the character could not be read")]
    Failed,
}

/// Finds characters, in the cache and in Redis. Cheap to clone; clones share the cache.
#[derive(Clone)]
pub struct Characters {
    store: Store,
    clock: fn() -> SystemTime,
    /// Locked for a lookup or an insertion, never across an await.
    cache: Arc<Mutex<Cache>>,
}

/// A character that is being read again. Dropped when that has ended, also by a panic.
struct Refreshing(Characters, CharacterId);

impl Drop for Refreshing {
    fn drop(&mut self) {
        lock(&self.0.cache).end_refresh(&self.1);
    }
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
        let copy = lock(&self.cache).copy(id);
        let Some(copy) = copy else {
            return self.read(id, invocation).await;
        };
        if is_fresh(copy.fetched_at, now) || !lock(&self.cache).begin_refresh(id) {
            return Ok(copy.character);
        }
        let refreshing = Refreshing(self.clone(), id.clone());
        // It ends within the read budget. It is not a part of the invocation, which may end before it.
        let newer = tokio::spawn(async move {
            let Refreshing(characters, id) = &refreshing;
            characters.read(id, &Invocation::detached()).await
        });
        match timeout(NEWER_WITHIN, newer).await {
            Ok(Ok(newer)) => newer,
            Ok(Err(_)) | Err(_) => Ok(copy.character),
        }
    }

    /// Returns a character's first greeting; `None` if it has none, or the character is not available.
    pub async fn greeting(
        &self,
        id: &CharacterId,
        audience: &Audience<'_>,
        invocation: &Invocation,
    ) -> Option<String> {
        let character = self.find(id, invocation).await.ok()?;
        character.sheet()?.greeting(0, audience)
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
            Ok(Some(json)) => self.parsed(id, json).await,
            Ok(None) => match sample_text(id) {
                Some(json) => self.parsed(id, json.as_bytes().to_vec()).await,
                None => Err(Error::NotFound),
            },
            Err(error) if error.is_wrong_type() => Err(Error::WrongType),
            Err(error) => return self.without_redis(id, error).await,
        };
        match found {
            Ok((character, source)) => Ok(self.keep(id, character, source, (self.clock)())),
            Err(error) => {
                // The character was deleted or damaged, so the cached copy is outdated.
                lock(&self.cache).remove(id);
                Err(error)
            }
        }
    }

    /// Returns a copy of any age or a sample, while Redis is unavailable. The sample is kept as a copy that is not
    /// fresh, so that later turns wait for Redis only as long as for a newer copy.
    async fn without_redis(
        &self,
        id: &CharacterId,
        error: store::Error,
    ) -> Result<Arc<Character>, Error> {
        if let Some(copy) = lock(&self.cache).copy(id) {
            return Ok(copy.character);
        }
        let sample = sample_text(id).ok_or(Error::Unavailable(error))?;
        let (sample, source) = self.parsed(id, sample.as_bytes().to_vec()).await?;
        Ok(self.keep(id, sample, source, SystemTime::UNIX_EPOCH))
    }

    /// Returns the character in stored bytes: the copy if it was read from the same, because compiling a card takes longer
    /// than comparing it.
    async fn parsed(
        &self,
        id: &CharacterId,
        json: Vec<u8>,
    ) -> Result<(Arc<Character>, Source), Error> {
        let is_large = json.len() > READ_AT_ONCE;
        let (cache, id) = (Arc::clone(&self.cache), id.clone());
        let parse = move || {
            let source = Source::of(&json);
            let copy = lock(&cache).copy(&id);
            if let Some(copy) = copy.filter(|copy| copy.source == source) {
                return Ok((copy.character, source));
            }
            let character = Character::from_json(&id, &json).map_err(Error::Malformed)?;
            Ok((Arc::new(character), source))
        };
        if !is_large {
            return parse();
        }
        spawn_blocking(parse).await.unwrap_or_else(|error| {
            tracing::error!(%error, "a character could not be read");
            Err(Error::Failed)
        })
    }

    fn keep(
        &self,
        id: &CharacterId,
        character: Arc<Character>,
        source: Source,
        fetched_at: SystemTime,
    ) -> Arc<Character> {
        let copy = Kept {
            character: Arc::clone(&character),
            fetched_at,
            source,
        };
        lock(&self.cache).keep(id, copy);
        character
    }
}

/// Returns whether a copy may be used without asking Redis. A copy from the future may not: the clock was set back.
fn is_fresh(fetched_at: SystemTime, now: SystemTime) -> bool {
    age(fetched_at, now).is_some_and(|age| age < FRESH)
}

/// Returns the JSON of the sample of this id.
fn sample_text(id: &CharacterId) -> Option<&'static str> {
    let mut samples = SAMPLES.into_iter();
    let (_, json) = samples.find(|(sample, _)| *sample == id.as_str())?;
    Some(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_can_be_read() {
        for (id, json) in SAMPLES {
            let id = CharacterId::parse(id).expect("valid");
            let json = sample_text(&id).expect(json);
            let sample = Character::from_json(&id, json.as_bytes()).expect(json);
            let sheet = sample.sheet().expect("a card");
            assert_eq!(sheet.warnings(), [], "{json}");
            assert!(sample.temperature.is_some() && sample.max_tokens.is_some());
            assert!(sheet.greetings() > 1 && sheet.lore().entries() > 0);
        }
        assert_eq!(
            sample_text(&CharacterId::parse("nobody").expect("valid")),
            None
        );
    }

    #[test]
    fn a_copy_is_fresh_for_a_minute() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(is_fresh(at(1_000), at(1_059)));
        assert!(!is_fresh(at(1_000), at(1_060)));
        assert!(!is_fresh(at(1_000), at(999)));
    }
}
