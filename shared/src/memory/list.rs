//! The list of a user's sessions.

use serde::Serialize;

use super::read::{FIELDS, session_of, texts};
use super::{Error, Memory};
use crate::ids::{CharacterId, UserId};
use crate::keys::UserKeys;
use crate::message::{Message, Role};
use crate::session::Session;
use crate::store::{Call, Value, from_redis_value};
use crate::telemetry::{Invocation, Operation};

/// Members of the sorted set of sessions that are looked at in one round, after the first.
const MOST_ENTRIES: usize = 100;
/// Most rounds of one list.
const MAX_ROUNDS: usize = 10;
/// Longest text of a last message in the list of sessions, in characters (Unicode scalar values).
const MAX_LAST_CHARACTERS: usize = 200;

/// A part of the list of a user's sessions.
#[derive(Debug)]
pub struct Sessions {
    /// The sessions, the newest first.
    pub sessions: Vec<Listed>,
    /// Where the next part begins; `None` if this is the last.
    pub next: Option<u64>,
}

/// A session in the list.
#[derive(Debug)]
pub struct Listed {
    /// The character of the session.
    pub character: CharacterId,
    /// State and figures.
    pub session: Session,
    /// The newest message; `None` if it cannot be read.
    pub last: Option<LastMessage>,
}

/// The newest message of a session, to be shown in a list.
#[derive(Debug, Serialize)]
pub struct LastMessage {
    /// The message's unique id.
    pub msg_id: String,
    /// The author of the message.
    pub role: Role,
    /// The beginning of the text, at most 200 characters.
    pub content: String,
    /// When the message was written, in Unix seconds.
    pub timestamp: i64,
}

impl Memory {
    /// Returns the newest `most` sessions of a user. With `before`, only those that come after that place in the list. There
    /// may be fewer, and still a next part, if very many sessions have expired.
    ///
    /// # Errors
    /// Memory is unavailable.
    pub async fn sessions(
        &self,
        invocation: &Invocation,
        user: &UserId,
        most: usize,
        before: Option<u64>,
    ) -> Result<Sessions, Error> {
        let mut listed = Sessions {
            sessions: Vec::new(),
            next: None,
        };
        let mut place = before;
        // Expired sessions are still in the sorted set, so one round may not suffice.
        for round in 0..MAX_ROUNDS {
            let read = if round == 0 { most + 1 } else { MOST_ENTRIES };
            let entries = self.entries(invocation, user, read, place).await?;
            let is_last = entries.len() < read;
            let found = self.look_up_each(invocation, user, &entries).await?;
            for (Entry { score, .. }, session) in entries.iter().zip(found) {
                if let Some(session) = session {
                    if listed.sessions.len() == most {
                        listed.next = place;
                        return Ok(listed);
                    }
                    listed.sessions.push(session);
                }
                place = Some(*score);
            }
            if is_last {
                return Ok(listed);
            }
        }
        listed.next = place;
        Ok(listed)
    }

    /// Returns members of the sorted set of a user's sessions, the newest first.
    async fn entries(
        &self,
        invocation: &Invocation,
        user: &UserId,
        most: usize,
        before: Option<u64>,
    ) -> Result<Vec<Entry>, Error> {
        type Scored = (Vec<u8>, f64);
        let key = UserKeys::new(self.layout, user).sessions;
        let most = most.to_string();
        let before = before.map_or_else(|| "+inf".to_owned(), |score| format!("({score}"));
        let range = [&before, "-inf", "WITHSCORES", "LIMIT", "0", &most];
        let call = Call::reads(&key).and("ZREVRANGEBYSCORE", &key, &range);
        let (_, entries): ((u64, u64), Vec<Scored>) = self
            .store
            .read(invocation, Operation::Sessions, &call)
            .await?;
        let entry = |(character, score): Scored| {
            let character = str::from_utf8(&character).unwrap_or_default();
            // Scores are whole microseconds, which a float holds exactly until the year 2255.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "see above"
            )]
            Entry {
                character: CharacterId::parse(character).ok(),
                score: score as u64,
            }
        };
        Ok(entries.into_iter().map(entry).collect())
    }

    /// Returns the session of each entry; `None` for one that does not exist, or whose keys have another type. One odd
    /// session must not hide the others.
    async fn look_up_each(
        &self,
        invocation: &Invocation,
        user: &UserId,
        entries: &[Entry],
    ) -> Result<Vec<Option<Listed>>, Error> {
        match self.look_up(invocation, user, entries).await {
            Err(error) if error.is_wrong_type() => {}
            found => return found,
        }
        let mut found = Vec::with_capacity(entries.len());
        for entry in entries.chunks(1) {
            match self.look_up(invocation, user, entry).await {
                Ok(mut one) => found.push(one.pop().flatten()),
                Err(error) if error.is_wrong_type() => found.push(None),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Returns the session of each entry, in one round trip; `None` for one that does not exist.
    async fn look_up(
        &self,
        invocation: &Invocation,
        user: &UserId,
        entries: &[Entry],
    ) -> Result<Vec<Option<Listed>>, Error> {
        let characters = entries.iter().filter_map(|entry| entry.character.as_ref());
        let index = UserKeys::new(self.layout, user).sessions;
        let call = characters.fold(Call::reads(&index), |call, character| {
            let keys = self.keys(user, character);
            call.and("HMGET", &keys.meta, &FIELDS)
                .and::<&str>("TTL", &keys.meta, &[])
                .and::<&str>("LLEN", &keys.messages, &[])
                .and("LRANGE", &keys.messages, &[0, 0])
        });
        let replies: Vec<Value> = self
            .store
            .read(invocation, Operation::Sessions, &call)
            .await?;
        let mut replies = replies.into_iter().skip(1);
        let mut found = Vec::with_capacity(entries.len());
        for entry in entries {
            let Some(character) = &entry.character else {
                found.push(None);
                continue;
            };
            let of_one: Vec<Value> = replies.by_ref().take(4).collect();
            let session = from_redis_value(Value::Array(of_one)).map_err(|_| Error::Unexpected)?;
            found.push(listed(character, session));
        }
        Ok(found)
    }
}

/// A member of the sorted set of a user's sessions.
struct Entry {
    /// `None` if it is no id.
    character: Option<CharacterId>,
    /// Its place in the list.
    score: u64,
}

/// The replies for one session of the list: [`FIELDS`], the seconds until it expires, the length of its list, and its
/// newest element.
type Found = (Vec<Option<Vec<u8>>>, i64, i64, Vec<Vec<u8>>);

fn listed(character: &CharacterId, (fields, expires_in, length, newest): Found) -> Option<Listed> {
    if fields.iter().all(Option::is_none) {
        return None;
    }
    let fields = texts(fields);
    let last = newest
        .first()
        .and_then(|element| Message::from_json(element).ok());
    Some(Listed {
        character: character.clone(),
        session: session_of(&fields, length, expires_in),
        last: last.map(|message| LastMessage {
            content: message.content.chars().take(MAX_LAST_CHARACTERS).collect(),
            msg_id: message.msg_id,
            role: message.role,
            timestamp: message.timestamp,
        }),
    })
}
