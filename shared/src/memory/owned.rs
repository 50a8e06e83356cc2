//! Finds everything that is kept of a user without looking for it: two sorted sets have all that its names consist of.

use super::{Error, Memory};
use crate::ids::{CharacterId, UserId};
use crate::keys::{TurnEntry, UserKeys};
use crate::store::Call;
use crate::telemetry::{Invocation, Operation};

/// What the names of all keys of a user consist of.
#[derive(Debug)]
pub struct Owned {
    /// The members of the sorted set of sessions.
    sessions: Vec<String>,
    /// The members of the sorted set of turns.
    pub(super) turns: Vec<String>,
}

impl Owned {
    /// Returns the turns that are remembered.
    pub(crate) fn entries(&self) -> impl Iterator<Item = TurnEntry> {
        self.turns
            .iter()
            .filter_map(|member| TurnEntry::parse(member))
    }

    /// Returns the characters that the user has a session with, or a turn that is remembered.
    #[must_use]
    pub fn characters(&self) -> Vec<CharacterId> {
        let of_sessions = self.sessions.iter();
        let mut characters: Vec<CharacterId> = of_sessions
            .filter_map(|character| CharacterId::parse(character).ok())
            .collect();
        for entry in self.entries() {
            if !characters.contains(&entry.character) {
                characters.push(entry.character);
            }
        }
        characters
    }
}

impl Memory {
    /// Returns what the names of all keys of a user consist of. `operation` is what it is read for.
    ///
    /// # Errors
    /// Memory is unavailable.
    pub async fn owned(
        &self,
        invocation: &Invocation,
        user: &UserId,
        operation: Operation,
    ) -> Result<Owned, Error> {
        let keys = UserKeys::new(self.layout, user);
        let call = Call::reads(&keys.sessions)
            .and("ZREVRANGE", &keys.sessions, &[0, -1])
            .and("ZREVRANGE", &keys.turns, &[0, -1]);
        let (_, sessions, turns): ((u64, u64), _, _) =
            self.store.read(invocation, operation, &call).await?;
        Ok(Owned { sessions, turns })
    }
}
