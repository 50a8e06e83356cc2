//! Stores a turn: the only way in which messages are added.

use super::{Began, Error, Memory, scripts, warn_evicted};
use crate::ids::{CharacterId, MessageId, TurnId, UserId};
use crate::message::Message;
use crate::record::Closing;
use crate::store::{Call, Value};
use crate::telemetry::{CommitResult, Invocation, Operation};

/// A user's message and its reply, stored together or not at all.
#[derive(Debug)]
pub struct NewTurn {
    /// The turn's id. Committing it again stores nothing, for 10 minutes or until 127 later turns are stored.
    pub id: TurnId,
    /// When the turn began.
    pub began: Began,
    /// The stored message of the user whose place the turn takes, with all after it.
    pub replaces: Option<MessageId>,
    /// The greeting that the turn answers. It is stored before the turn if the session is empty.
    pub greeting: Option<Message>,
    /// The user's message.
    pub user: Message,
    /// The character's reply.
    pub assistant: Message,
}

/// The outcome of a commit to which Redis replied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// This commit stored the turn.
    Saved,
    /// An earlier attempt, whose reply was lost, stored the turn.
    Duplicate,
    /// The turn is not stored: the session was cleared, or the user's data erased, after the turn began.
    Fenced,
    /// The turn is not stored: another turn has its idempotency key, or the message that it replaces is gone.
    Conflict,
    /// The turn is not stored: its record was closed because the lease of its process had run out.
    Lost,
}

impl Commit {
    /// Returns whether the turn is in Redis.
    #[must_use]
    pub fn is_saved(self) -> bool {
        match self {
            Self::Saved | Self::Duplicate => true,
            Self::Fenced | Self::Conflict | Self::Lost => false,
        }
    }
}

impl Memory {
    /// Stores a turn, unless it is stored already or the session was cleared after the turn began.
    ///
    /// # Errors
    /// Memory is unavailable. The turn is then either not stored, or stored once by an attempt whose reply was lost.
    pub async fn commit_turn(
        &self,
        invocation: &Invocation,
        user: &UserId,
        character: &CharacterId,
        turn: &NewTurn,
    ) -> Result<Commit, Error> {
        self.commit_and_close(invocation, user, character, turn, None)
            .await
    }

    /// As [`Memory::commit_turn`], and closes the turn's record in the same step, whatever comes of the commit.
    ///
    /// # Errors
    /// Memory is unavailable. The turn is then either not stored, or stored once by an attempt whose reply was lost.
    pub(crate) async fn commit_and_close(
        &self,
        invocation: &Invocation,
        user: &UserId,
        character: &CharacterId,
        turn: &NewTurn,
        closing: Option<&Closing>,
    ) -> Result<Commit, Error> {
        let keys = self.keys(user, character);
        let id = turn.id.to_string();
        let messages = [&turn.user, &turn.assistant];
        let tokens: i64 = messages
            .iter()
            .map(|message| message.token_count.max(0))
            .fold(0, i64::saturating_add);
        let messages = messages.map(Message::to_json);
        let greeting = turn
            .greeting
            .as_ref()
            .map_or(String::new(), Message::to_json);
        let greeting_tokens = turn
            .greeting
            .as_ref()
            .map_or(0, |greeting| greeting.token_count.max(0));
        let commit = |until: u64| {
            let call = Call::script(
                &scripts::COMMIT,
                [
                    &keys.messages,
                    &keys.meta,
                    &keys.cleared,
                    &keys.sessions,
                    &keys.erased,
                ],
            )
            .arg(&id)
            .arg(turn.began.redis_micros)
            .arg(self.max_messages)
            .arg(self.ttl_seconds)
            .arg(tokens)
            .arg(until)
            .arg(turn.began.cleared())
            .arg(turn.began.erased())
            .arg(character.as_str())
            .arg(turn.replaces.as_ref().map_or("", MessageId::as_str))
            .arg(&greeting)
            .arg(greeting_tokens);
            let call = match closing {
                Some(closing) => closing.add_to(call),
                None => call,
            };
            call.arg(&messages)
        };
        let answer: Result<String, Error> = self
            .store
            .write_to_replicas(
                invocation,
                Operation::Commit,
                &keys.messages,
                is_stored,
                &commit,
            )
            .await;
        let commit = answer.and_then(|answer| {
            let mut words = answer.split(':');
            let commit = match words.next() {
                Some("saved") => Commit::Saved,
                Some("duplicate") => Commit::Duplicate,
                Some("fenced") => Commit::Fenced,
                Some("conflict") => Commit::Conflict,
                Some("lost") => Commit::Lost,
                _ => return Err(Error::Unexpected),
            };
            words.for_each(warn);
            Ok(commit)
        });
        let result = match &commit {
            Ok(Commit::Saved) => CommitResult::Saved,
            Ok(Commit::Duplicate) => CommitResult::Duplicate,
            Ok(Commit::Fenced) => CommitResult::Fenced,
            Ok(Commit::Conflict) => CommitResult::Conflict,
            Ok(Commit::Lost) => CommitResult::Lost,
            Err(_) => CommitResult::Failed,
        };
        invocation.note(|figures| figures.commit = Some(result));
        commit
    }
}

/// Returns whether the reply of the commit script means that the turn is in Redis.
fn is_stored(reply: &Value) -> bool {
    match reply {
        Value::BulkString(word) => word.starts_with(b"saved") || word == b"duplicate",
        _ => false,
    }
}

/// Logs a notice of the commit script.
fn warn(notice: &str) {
    match notice.strip_prefix("ahead=") {
        Some(seconds) => tracing::warn!(
            seconds,
            "the mark of a clear is ahead of Redis's clock and was ignored"
        ),
        None => warn_evicted(notice),
    }
}
