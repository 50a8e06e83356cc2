//! The characters that operators store: put, read back, delete and list.
//!
//! A character and the list of ids are keys in different slots of a cluster, so they are written one after the other:
//! an id is added to the list before its character is stored, and removed after it is deleted. After a failure the list
//! may therefore have an id too many, and not one too few. Only if one id is put and deleted at the same time, its
//! character may be stored without being listed, until it is put again. Characters that were written by other means are
//! not in the list.

use std::sync::LazyLock;

use crate::ids::CharacterId;
use crate::keys;
use crate::store::{Call, Error, Script, Store, Value};
use crate::telemetry::{Invocation, Operation};

use super::sample_text;

static COMMAND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("../record/marks.lua"),
        include_str!("command.lua")
    ))
});

/// The stored characters. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Shelf {
    store: Store,
}

/// A character as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCharacter {
    /// The stored bytes.
    pub json: Vec<u8>,
    /// Whether it is a sample of this service, which is used as long as no character of its id is stored.
    pub is_sample: bool,
}

/// A part of the list of stored characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The ids, in the order of their bytes.
    pub ids: Vec<CharacterId>,
    /// The text behind which the list goes on; `None` at its end.
    pub next: Option<String>,
}

impl Shelf {
    /// Returns the characters in `store`. Connects to nothing.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Stores a character to the letter, in place of an earlier one. Processes use their copies of that one for up to a
    /// minute.
    ///
    /// # Errors
    /// Redis is unavailable. The character may be stored nevertheless.
    pub async fn put(
        &self,
        invocation: &Invocation,
        id: &CharacterId,
        json: &str,
    ) -> Result<(), Error> {
        self.run(invocation, keys::CHARACTERS, &["ZADD", "0", id.as_str()])
            .await?;
        self.run(invocation, &keys::character(id), &["SET", json])
            .await?;
        Ok(())
    }

    /// Returns a stored character, else the sample of that id, else `None`.
    ///
    /// # Errors
    /// Redis is unavailable.
    pub async fn get(
        &self,
        invocation: &Invocation,
        id: &CharacterId,
    ) -> Result<Option<StoredCharacter>, Error> {
        let call = Call::command("GET", keys::character(id));
        let stored: Option<Vec<u8>> = self
            .store
            .read(invocation, Operation::Character, &call)
            .await?;
        Ok(match stored {
            Some(json) => Some(StoredCharacter {
                json,
                is_sample: false,
            }),
            None => sample_text(id).map(|json| StoredCharacter {
                json: json.as_bytes().to_vec(),
                is_sample: true,
            }),
        })
    }

    /// Deletes a character. Returns whether there was one.
    ///
    /// # Errors
    /// Redis is unavailable. The character may be deleted nevertheless.
    pub async fn delete(&self, invocation: &Invocation, id: &CharacterId) -> Result<bool, Error> {
        let deleted = self.run(invocation, &keys::character(id), &["DEL"]).await?;
        self.run(invocation, keys::CHARACTERS, &["ZREM", id.as_str()])
            .await?;
        Ok(deleted == Value::Int(1))
    }

    /// Returns the ids of stored characters in the order of their bytes, at most `most` of them, which is at least 1.
    /// With `after`, only those behind it.
    ///
    /// # Errors
    /// Redis is unavailable.
    pub async fn list(
        &self,
        invocation: &Invocation,
        after: Option<&str>,
        most: usize,
    ) -> Result<Listed, Error> {
        let from = after.map_or_else(|| "-".to_owned(), |after| format!("({after}"));
        let limit = most.to_string();
        let key = keys::CHARACTERS;
        let arguments = [from.as_str(), "+", "LIMIT", "0", &limit];
        let call = Call::reads(key).and("ZRANGEBYLEX", key, &arguments);
        let (_, ids): ((u64, u64), Vec<String>) =
            self.store.read(invocation, Operation::Shelf, &call).await?;
        // Other programs may have added texts that are no ids. The list goes on behind them.
        let next = ids.last().filter(|_| ids.len() >= most).cloned();
        let ids = ids.into_iter();
        Ok(Listed {
            ids: ids.filter_map(|id| CharacterId::parse(&id).ok()).collect(),
            next,
        })
    }

    /// Runs a command on a key: its name and what follows the key.
    async fn run(
        &self,
        invocation: &Invocation,
        key: &str,
        command: &[&str],
    ) -> Result<Value, Error> {
        let call = |until: u64| Call::script(&COMMAND, [key]).arg(until).arg(command);
        self.store
            .write(invocation, Operation::Shelf, key, &call)
            .await
    }
}
