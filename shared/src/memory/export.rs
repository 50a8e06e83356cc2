//! Reads everything that is kept of a user, a session at a time: all of it may be more than the memory of a function.

use super::read::{session_of, texts};
use super::{Error, Memory};
use crate::ids::{CharacterId, UserId};
use crate::message::Message;
use crate::session::Session;
use crate::store::Call;
use crate::telemetry::{Invocation, Operation};

/// A session with all that it holds.
#[derive(Debug)]
pub struct StoredSession {
    /// State and figures; `None` if only messages are there.
    pub session: Option<Session>,
    /// The elements of the list, oldest first: a message, or the text of an element that is none.
    pub messages: Vec<Result<Message, String>>,
}

impl Memory {
    /// Returns a session with all that it holds, or `None` if it does not exist or its keys have another type.
    ///
    /// # Errors
    /// Memory is unavailable.
    pub async fn stored_session(
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
}
