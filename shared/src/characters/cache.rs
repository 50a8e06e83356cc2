//! The characters that a process has read, with limits of their number and of their bytes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest;

use super::Character;
use crate::ids::CharacterId;

/// Limit of cached characters. Beyond it the oldest copy is dropped.
const MAX_COPIES: usize = 1_000;
/// Limit of the stored bytes of all cached characters. A copy takes a few times as much. Beyond it the oldest copies are
/// dropped, but the newest stays.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// What a copy was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Source {
    /// SHA-256 of the stored bytes.
    digest: [u8; 32],
    bytes: usize,
}

impl Source {
    /// Returns the source that these stored bytes are.
    pub(super) fn of(json: &[u8]) -> Self {
        let hash = digest::digest(&digest::SHA256, json);
        Self {
            digest: hash.as_ref().try_into().unwrap_or_default(),
            bytes: json.len(),
        }
    }
}

/// A cached character.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) character: Arc<Character>,
    pub(super) fetched_at: SystemTime,
    pub(super) source: Source,
}

/// Copies of characters, and which of them are being read again.
#[derive(Default)]
pub(super) struct Cache {
    copies: HashMap<CharacterId, Kept>,
    /// The stored bytes of all copies.
    bytes: usize,
    refreshing: HashSet<CharacterId>,
}

impl Cache {
    /// Returns the copy of a character.
    pub(super) fn copy(&self, id: &CharacterId) -> Option<Kept> {
        self.copies.get(id).cloned()
    }

    /// Keeps a copy in place of an older one, and drops the oldest others beyond the limits.
    pub(super) fn keep(&mut self, id: &CharacterId, copy: Kept) {
        self.remove(id);
        self.bytes += copy.source.bytes;
        self.copies.insert(id.clone(), copy);
        while self.copies.len() > MAX_COPIES || self.bytes > MAX_BYTES {
            let others = self.copies.iter().filter(|(other, _)| *other != id);
            let oldest = others.min_by_key(|(_, copy)| copy.fetched_at);
            let Some(oldest) = oldest.map(|(other, _)| other.clone()) else {
                break;
            };
            self.remove(&oldest);
        }
    }

    /// Drops the copy of a character.
    pub(super) fn remove(&mut self, id: &CharacterId) {
        let removed = self.copies.remove(id);
        self.bytes -= removed.map_or(0, |copy| copy.source.bytes);
    }

    /// Notes that a character is being read again. Returns whether it was not before.
    pub(super) fn begin_refresh(&mut self, id: &CharacterId) -> bool {
        self.refreshing.insert(id.clone())
    }

    /// Notes that a character is no longer being read.
    pub(super) fn end_refresh(&mut self, id: &CharacterId) {
        self.refreshing.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(number: usize) -> CharacterId {
        CharacterId::parse(&number.to_string()).expect("an id")
    }

    /// Keeps a copy that was fetched so many seconds after 1970.
    fn keep(cache: &mut Cache, number: usize, fetched_at: usize, bytes: usize) {
        let json = br#"{"name":"Mira","system_prompt":"Calm."}"#;
        let character = Character::from_json(&id(number), json).expect("a character");
        let seconds = Duration::from_secs(u64::try_from(fetched_at).expect("seconds"));
        let copy = Kept {
            character: Arc::new(character),
            fetched_at: SystemTime::UNIX_EPOCH + seconds,
            source: Source {
                digest: [0; 32],
                bytes,
            },
        };
        cache.keep(&id(number), copy);
    }

    fn has(cache: &Cache, number: usize) -> bool {
        cache.copy(&id(number)).is_some()
    }

    #[test]
    fn beyond_the_number_of_copies_the_oldest_goes() {
        let mut cache = Cache::default();
        for number in 0..MAX_COPIES {
            // The second one is the oldest.
            keep(
                &mut cache,
                number,
                (number + MAX_COPIES - 1) % MAX_COPIES,
                1,
            );
        }
        assert!(has(&cache, 0) && has(&cache, 1));
        keep(&mut cache, MAX_COPIES, MAX_COPIES, 1);
        assert!(has(&cache, 0) && !has(&cache, 1) && has(&cache, MAX_COPIES));
        assert_eq!((cache.copies.len(), cache.bytes), (MAX_COPIES, MAX_COPIES));
    }

    #[test]
    fn beyond_the_bytes_the_oldest_go_and_the_newest_stays() {
        let mut cache = Cache::default();
        for number in 0..4 {
            keep(&mut cache, number, number, MAX_BYTES / 4);
        }
        assert!((0..4).all(|number| has(&cache, number)));
        keep(&mut cache, 4, 4, MAX_BYTES / 2);
        assert_eq!(
            [0, 1, 2, 3, 4].map(|number| has(&cache, number)),
            [false, false, true, true, true]
        );
        // It is kept although it is the oldest, and too large with any other.
        keep(&mut cache, 5, 0, MAX_BYTES + 1);
        assert_eq!(
            [2, 3, 4, 5].map(|number| has(&cache, number)),
            [false, false, false, true]
        );
        assert_eq!(cache.bytes, MAX_BYTES + 1);
    }

    #[test]
    fn a_copy_that_is_replaced_or_removed_counts_no_longer() {
        let mut cache = Cache::default();
        keep(&mut cache, 1, 0, 100);
        keep(&mut cache, 1, 1, 30);
        keep(&mut cache, 2, 1, 5);
        assert_eq!(cache.bytes, 35);
        cache.remove(&id(1));
        cache.remove(&id(1));
        assert_eq!((cache.bytes, has(&cache, 1)), (5, false));
    }

    #[test]
    fn a_character_is_read_again_once_at_a_time() {
        let mut cache = Cache::default();
        assert!(cache.begin_refresh(&id(1)) && cache.begin_refresh(&id(2)));
        assert!(!cache.begin_refresh(&id(1)));
        cache.end_refresh(&id(1));
        assert!(cache.begin_refresh(&id(1)));
    }
}
