//! Reads everything that is kept of a user, a session at a time: all of it may be more than the memory of a function.

use super::read::{session_of, texts};
use super::{Error, Memory};
use crate::ids::{CharacterId, UserId};
use crate::keys::{TurnEntry, UserKeys};
use crate::message::Message;
use crate::session::Session;
use crate::store::Call;
use crate::telemetry::{Invocation, Operation};

/// What is kept of a user, by name.
#[derive(Debug)]
pub struct Kept {
    /// The characters that the user has a session with, or a turn that is remembered.
    pub characters: Vec<CharacterId>,
    /// The turns that are remembered.
    pub(crate) turns: Vec<TurnEntry>,
}

/// A session with all that it holds.
#[derive(Debug)]
pub struct StoredSession {
    /// State and figures; `None` if only messages are there.
    pub session: Option<Session>,
    /// The elements of the list, oldest first: a message, or the text of an element that is none.
    pub messages: Vec<Result<Message, String>>,
}

impl Memory {
    /// Returns what is kept of a user, by name.
    ///
    /// # Errors
    /// Memory is unavailable.
    pub async fn kept(&self, invocation: &Invocation, user: &UserId) -> Result<Kept, Error> {
        let owned = self.owned(invocation, user, Operation::Export).await?;
        Ok(Kept {
            characters: owned.characters(),
            turns: owned.entries().collect(),
        })
    }

    /// Returns a session with all that it holds, or `None` if it does not exist or its keys have another type.
    ///
    /// # Errors
    /// Memory is unavailable.
    pub async fn kept_session(
        &self,
        invocation: &Invocation,
        user: &UserId,
        character: &CharacterId,
    ) -> Result<Option<StoredSession>, Error> {
        type Found = ((u64, u64), Vec<Option<Vec<u8>>>, i64, Vec<Vec<u8>>);
        let keys = self.keys(user, character);
        let call = Call::reads(&keys.messages)
            .and("HMGET", &keys.meta, &super::read::FIELDS)
            .and::<&str>("TTL", &keys.meta, &[])
            .and("LRANGE", &keys.messages, &[0, -1]);
        let found = self.store.read(invocation, Operation::Export, &call).await;
        let (_, fields, expires_in, elements): Found = match found {
            // Of what is stored there, this service has written nothing.
            Err(error) if error.is_wrong_type() => return Ok(None),
            found => found?,
        };
        let has_session = fields.iter().any(Option::is_some);
        if !has_session && elements.is_empty() {
            return Ok(None);
        }
        let length = i64::try_from(elements.len()).unwrap_or(i64::MAX);
        let message = |element: &Vec<u8>| {
            Message::from_json(element).map_err(|_| String::from_utf8_lossy(element).into_owned())
        };
        Ok(Some(StoredSession {
            session: has_session.then(|| session_of(&texts(fields), length, expires_in)),
            messages: elements.iter().rev().map(message).collect(),
        }))
    }

    /// Returns what the user has used of the minute's turns and of the day's tokens.
    ///
    /// # Errors
    /// Memory is unavailable.
    pub async fn used(&self, invocation: &Invocation, user: &UserId) -> Result<[u64; 2], Error> {
        let keys = UserKeys::new(self.layout, user);
        let call = Call::reads(&keys.minute)
            .and::<&str>("GET", &keys.minute, &[])
            .and::<&str>("GET", &keys.day, &[]);
        let (_, minute, day): ((u64, u64), Option<String>, Option<String>) = self
            .store
            .read(invocation, Operation::Export, &call)
            .await?;
        // The number of the window, what was used in it, and turns.
        let used = |count: Option<String>| {
            let count = count.unwrap_or_default();
            let used = count.split(' ').nth(1).map(str::parse);
            used.and_then(Result::ok).unwrap_or(0)
        };
        Ok([used(minute), used(day)])
    }
}
