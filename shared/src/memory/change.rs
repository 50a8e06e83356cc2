//! What a client changes of a session besides its turns. Each change has an id, so it is made once however often it is
//! sent.

use super::mark::ChangeId;
use super::read::read_session;
use super::{Error, Memory, scripts};
use crate::ids::{CharacterId, MessageId, UserId};
use crate::keys::SessionKeys;
use crate::session::{Session, State};
use crate::store::{Call, Value};
use crate::telemetry::{Invocation, Operation};

/// The outcome of a rewind to which Redis replied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewind {
    /// The message and all after it are gone.
    Done,
    /// There is no such message. Nothing has changed.
    Unknown,
}

impl Memory {
    /// Deletes a session. A turn that began before the deletion is never stored after it.
    ///
    /// # Errors
    /// Memory is unavailable. The session may have been deleted nevertheless.
    pub async fn clear(
        &self,
        invocation: &Invocation,
        user: &UserId,
        character: &CharacterId,
    ) -> Result<(), Error> {
        let keys = self.keys(user, character);
        let id = ChangeId::new().to_string();
        let clear = |until: u64| {
            Call::script(&scripts::CLEAR, changed(&keys))
                .arg(self.cleared_ttl_seconds)
                .arg(until)
                .arg(&id)
                .arg(character.as_str())
        };
        let answer: String = self
            .store
            .write_to_replicas(
                invocation,
                Operation::Clear,
                &keys.messages,
                |_| true,
                &clear,
            )
            .await?;
        match answer.as_str() {
            "cleared" => Ok(()),
            _ => Err(Error::Unexpected),
        }
    }

    /// Removes a message and all after it, in whole turns. A turn that began before is never stored after it.
    ///
    /// # Errors
    /// Memory is unavailable. The messages may have been removed nevertheless.
    pub async fn rewind(
        &self,
        invocation: &Invocation,
        user: &UserId,
        character: &CharacterId,
        from: &MessageId,
    ) -> Result<Rewind, Error> {
        let keys = self.keys(user, character);
        let id = ChangeId::new().to_string();
        let rewind = |until: u64| {
            Call::script(&scripts::REWIND, changed(&keys))
                .arg(self.cleared_ttl_seconds)
                .arg(until)
                .arg(&id)
                .arg(character.as_str())
                .arg(from.as_str())
        };
        let is_done = |reply: &Value| *reply == Value::BulkString(b"rewound".to_vec());
        let answer: String = self
            .store
            .write_to_replicas(
                invocation,
                Operation::Rewind,
                &keys.messages,
                is_done,
                &rewind,
            )
            .await?;
        match answer.as_str() {
            "rewound" => Ok(Rewind::Done),
            "unknown" => Ok(Rewind::Unknown),
            _ => Err(Error::Unexpected),
        }
    }

    /// Sets a session's state and returns the session, or `None` if it does not exist. Never creates a session and
    /// never changes its expiry.
    ///
    /// # Errors
    /// Memory is unavailable. The state may have been set nevertheless, but is not set later.
    pub async fn set_state(
        &self,
        invocation: &Invocation,
        user: &UserId,
        character: &CharacterId,
        state: State,
    ) -> Result<Option<Session>, Error> {
        let keys = self.keys(user, character);
        let id = ChangeId::new().to_string();
        let change = |until: u64| {
            Call::script(
                &scripts::SESSION,
                [&keys.messages, &keys.meta, &keys.cleared],
            )
            .arg(state.as_str())
            .arg(until)
            .arg(&id)
        };
        let fields = self
            .store
            .write(invocation, Operation::SetState, &keys.messages, &change)
            .await?;
        Ok(read_session(invocation, fields))
    }
}

/// Returns the keys of the scripts that delete messages.
fn changed(keys: &SessionKeys) -> [&str; 4] {
    [&keys.messages, &keys.meta, &keys.cleared, &keys.sessions]
}
