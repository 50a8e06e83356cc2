//! Erases everything that is kept of a user.

use serde::Serialize;

use super::mark::ChangeId;
use super::{Error, Memory, scripts};
use crate::ids::{CharacterId, UserId};
use crate::keys::{TurnEntry, UserKeys};
use crate::store::Call;
use crate::telemetry::{Invocation, Operation};

/// Most rounds of one erasure. Each deletes all that its caller has found, so one more is needed only if something began
/// meanwhile.
const MAX_ROUNDS: usize = 10;

/// What an erasure has deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Erased {
    /// Number of sessions.
    pub sessions: u64,
    /// Number of messages.
    pub messages: u64,
    /// Number of turns that were remembered.
    pub turns: u64,
}

/// What the names of all keys of a user consist of.
pub(super) struct UserIndex {
    /// The members of the sorted set of sessions.
    pub(super) sessions: Vec<String>,
    /// The members of the sorted set of turns.
    pub(super) turns: Vec<String>,
}

impl UserIndex {
    /// Returns the turns that are remembered.
    pub(super) fn entries(&self) -> impl Iterator<Item = TurnEntry> {
        self.turns
            .iter()
            .filter_map(|member| TurnEntry::parse(member))
    }

    /// Returns the characters that the user has a session with, or a turn that is remembered.
    pub(super) fn characters(&self) -> Vec<CharacterId> {
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
    /// Deletes everything that is kept of a user. A turn that began before is never stored after it, in any session. Only
    /// the marks that see to that remain, and expire.
    ///
    /// # Errors
    /// Memory is unavailable. All that was there at the beginning is deleted, or nothing.
    pub async fn erase(&self, invocation: &Invocation, user: &UserId) -> Result<Erased, Error> {
        let id = ChangeId::new().to_string();
        let mut erased = Erased::default();
        for _ in 0..MAX_ROUNDS {
            let owned = self.owned(invocation, user, Operation::Erase).await?;
            let is_over;
            (erased, is_over) = self.erase_once(invocation, user, &id, &owned).await?;
            if is_over {
                break;
            }
        }
        Ok(erased)
    }

    /// Returns what the names of all keys of a user consist of.
    pub(super) async fn owned(
        &self,
        invocation: &Invocation,
        user: &UserId,
        operation: Operation,
    ) -> Result<UserIndex, Error> {
        let keys = UserKeys::new(self.layout, user);
        let call = Call::reads(&keys.sessions)
            .and("ZREVRANGE", &keys.sessions, &[0, -1])
            .and("ZREVRANGE", &keys.turns, &[0, -1]);
        let (_, sessions, turns): ((u64, u64), _, _) =
            self.store.read(invocation, operation, &call).await?;
        Ok(UserIndex { sessions, turns })
    }

    /// Deletes what was found, in one step. Returns what this erasure has deleted so far, and whether nothing came since
    /// the user's keys were looked up.
    async fn erase_once(
        &self,
        invocation: &Invocation,
        user: &UserId,
        id: &str,
        owned: &UserIndex,
    ) -> Result<(Erased, bool), Error> {
        let keys = UserKeys::new(self.layout, user);
        let characters = owned.characters();
        let of_sessions = characters.iter().flat_map(|character| {
            let keys = self.keys(user, character);
            [keys.messages, keys.meta]
        });
        let (mut records, mut others) = (Vec::new(), Vec::new());
        for entry in owned.entries() {
            let (record, text, key) = entry.names(self.layout, user);
            records.push(record);
            others.extend([text].into_iter().chain(key));
        }
        let turns = records.len();
        let names: Vec<String> = of_sessions.chain(records).chain(others).collect();
        let members = characters.iter().map(CharacterId::as_str);
        let members: Vec<&str> = members
            .chain(owned.turns.iter().map(String::as_str))
            .collect();
        let of_user = [
            &keys.erased,
            &keys.sessions,
            &keys.turns,
            &keys.minute,
            &keys.day,
        ];
        let erase = |until: u64| {
            Call::script(&scripts::ERASE, of_user.map(String::as_str))
                .keys(names.iter().map(String::as_str))
                .arg(self.cleared_ttl_seconds)
                .arg(until)
                .arg(id)
                .arg(characters.len())
                .arg(turns)
                .arg(&members)
        };
        let answer: String = self
            .store
            .write_to_replicas(
                invocation,
                Operation::Erase,
                &keys.sessions,
                |_| true,
                &erase,
            )
            .await?;
        read(&answer).ok_or(Error::Unexpected)
    }
}

/// Reads the reply of the script.
fn read(answer: &str) -> Option<(Erased, bool)> {
    let mut numbers = answer.strip_prefix("erased:")?.split(':');
    let mut next = || numbers.next()?.parse::<u64>().ok();
    let erased = Erased {
        sessions: next()?,
        messages: next()?,
        turns: next()?,
    };
    Some((erased, next()? == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reply_of_the_script_reads_back() {
        let erased = Erased {
            sessions: 1,
            messages: 2,
            turns: 3,
        };
        assert_eq!(read("erased:1:2:3:0"), Some((erased, true)));
        assert_eq!(read("erased:1:2:3:1"), Some((erased, false)));
        for answer in ["", "erased:1:2:3", "erased:1:2:x:0", "late:1"] {
            assert_eq!(read(answer), None, "{answer}");
        }
    }
}
