//! What a client reads of a session: its figures, and its messages.

use super::page::{self, Page};
use super::{Error, Memory, newest, parsed, record_stored, scripts, warn_evicted};
use crate::ids::{CharacterId, MessageId, UserId};
use crate::message::Message;
use crate::session::{self, Session, State};
use crate::store::Call;
use crate::telemetry::{Invocation, Operation};

/// Elements that are read beyond a page, to see where its oldest turn begins and whether there is more.
const BEYOND: usize = 2;
impl Memory {
    /// Returns the newest messages of a session in whole turns, at most `most` unless a turn is longer. With `before`, only
    /// what is older than that message; `None` if there is no such message. A session that does not exist has no messages.
    ///
    /// # Errors
    /// Memory is unavailable.
    pub async fn messages(
        &self,
        invocation: &Invocation,
        user: &UserId,
        character: &CharacterId,
        most: usize,
        before: Option<&MessageId>,
    ) -> Result<Option<Page>, Error> {
        let Some(before) = before else {
            let read = most.saturating_add(BEYOND);
            let (messages, is_all) = self.elements(invocation, user, character, read).await?;
            if let Some(page) = page::newest(messages, most, is_all) {
                return Ok(Some(page));
            }
            let (messages, _) = self
                .elements(invocation, user, character, usize::MAX)
                .await?;
            return Ok(page::newest(messages, most, true));
        };
        let (mut messages, _) = self
            .elements(invocation, user, character, usize::MAX)
            .await?;
        if !page::cut_before(&mut messages, before) {
            return Ok(None);
        }
        Ok(page::newest(messages, most, true))
    }

    /// Returns the newest `most` messages of a session, oldest first, and whether these are all.
    async fn elements(
        &self,
        invocation: &Invocation,
        user: &UserId,
        character: &CharacterId,
        most: usize,
    ) -> Result<(Vec<Message>, bool), Error> {
        let key = self.keys(user, character).messages;
        let call = Call::reads(&key).and("LRANGE", &key, &newest(most));
        let (_, elements): ((u64, u64), Vec<Vec<u8>>) = self
            .store
            .read(invocation, Operation::History, &call)
            .await?;
        let messages = parsed(&elements);
        let skipped = elements.len() - messages.len();
        if skipped > 0 {
            tracing::warn!(skipped, "stored elements could not be read as messages");
        }
        Ok((messages, elements.len() < most))
    }

    /// Returns a session, or `None` if it does not exist.
    ///
    /// # Errors
    /// Memory is unavailable.
    pub async fn session(
        &self,
        invocation: &Invocation,
        user: &UserId,
        character: &CharacterId,
    ) -> Result<Option<Session>, Error> {
        let keys = self.keys(user, character);
        let call = Call::script(
            &scripts::SESSION,
            [&keys.messages, &keys.meta, &keys.cleared],
        )
        .arg("");
        let fields = self
            .store
            .read(invocation, Operation::Session, &call)
            .await?;
        Ok(read_session(invocation, fields))
    }
}

/// The fields of `…:meta` that make a session.
pub(super) const FIELDS: [&str; 5] = [
    "state",
    "last_active_at",
    "message_count",
    "session_start",
    "total_tokens",
];

/// Returns stored fields as text. Bytes that are not UTF-8 make no sense in any of them.
pub(super) fn texts(fields: Vec<Option<Vec<u8>>>) -> Vec<Option<String>> {
    let text = |field: Vec<u8>| String::from_utf8_lossy(&field).into_owned();
    fields.into_iter().map(|field| field.map(text)).collect()
}

/// Returns the session from the reply of the session script, and records the length of its list.
pub(super) fn read_session(
    invocation: &Invocation,
    fields: Option<Vec<Option<String>>>,
) -> Option<Session> {
    let fields = fields?;
    let number = |index: usize| {
        let field = fields.get(index).and_then(Option::as_deref);
        field.and_then(session::figure)
    };
    let stored_messages = number(5).unwrap_or(0);
    record_stored(invocation, u64::try_from(stored_messages).unwrap_or(0));
    if stored_messages == 0 && number(7).is_some_and(|stored| stored > 0) {
        warn_evicted("no_messages");
    }
    let expires_in = number(6).unwrap_or(-1);
    Some(session_of(&fields, stored_messages, expires_in))
}

/// Returns the session from [`FIELDS`], the length of its list, and the seconds until it expires, negative for never.
pub(super) fn session_of(
    fields: &[Option<String>],
    stored_messages: i64,
    expires_in: i64,
) -> Session {
    let field = |index: usize| fields.get(index).and_then(Option::as_deref);
    let figure = |index| field(index).and_then(session::figure);
    let moment = |index| field(index).and_then(session::moment);
    Session {
        state: field(0).and_then(State::parse).unwrap_or(State::Active),
        last_active_at: moment(1),
        message_count: figure(2).unwrap_or(0).max(0),
        session_start: moment(3),
        total_tokens: figure(4).unwrap_or(0).max(0),
        stored_messages,
        expires_in: (expires_in >= 0).then_some(expires_in),
    }
}
