//! Erases everything that is kept of a user.

use serde::Serialize;

use super::mark::ChangeId;
use super::owned::Owned;
use super::{Error, Memory, scripts};
use crate::ids::{CharacterId, UserId};
use crate::keys::UserKeys;
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

    /// Deletes what was found, in one step. Returns what this erasure has deleted so far, and whether nothing came since
    /// the user's keys were looked up.
    async fn erase_once(
        &self,
        invocation: &Invocation,
        user: &UserId,
        id: &str,
        owned: &Owned,
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
