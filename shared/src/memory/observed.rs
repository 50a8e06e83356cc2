//! Memory as one invocation uses it: what each operation took, and how it ended, is noted in the invocation's invocation.
//!
//! Operations are boxed, because a future that is handed on grows with every hand.

use super::{Commit, Error, History, Memory, NewTurn};
use crate::ids::{CharacterId, UserId};
use crate::session::{Session, State};
use crate::telemetry::{CommitResult, Invocation, Operation, Status};

/// Memory, and the invocation of who uses it.
pub struct Observed<'a> {
    memory: &'a Memory,
    invocation: &'a Invocation,
}

impl Memory {
    /// The same memory, for the invocation of `invocation`.
    #[must_use]
    pub fn observed<'a>(&'a self, invocation: &'a Invocation) -> Observed<'a> {
        Observed {
            memory: self,
            invocation,
        }
    }
}

impl Observed<'_> {
    /// [`Memory::load`]
    ///
    /// # Errors
    /// As there.
    pub async fn load(
        &self,
        user: &UserId,
        character: &CharacterId,
        most: usize,
    ) -> Result<History, Error> {
        let load = Box::pin(self.memory.load(user, character, most));
        let history = self
            .of_session(user, character, Operation::Load, load)
            .await;
        if let Ok(history) = &history {
            self.note_stored(history.stored);
        }
        history
    }

    /// [`Memory::commit_turn`]
    ///
    /// # Errors
    /// As there.
    pub async fn commit_turn(
        &self,
        user: &UserId,
        character: &CharacterId,
        turn: &NewTurn,
    ) -> Result<Commit, Error> {
        let commit = Box::pin(self.memory.commit_turn(user, character, turn));
        let commit = self
            .of_session(user, character, Operation::Commit, commit)
            .await;
        let result = match &commit {
            Ok(Commit::Saved) => CommitResult::Saved,
            Ok(Commit::Duplicate) => CommitResult::Duplicate,
            Ok(Commit::Fenced) => CommitResult::Fenced,
            Err(_) => CommitResult::Failed,
        };
        self.invocation
            .note(|figures| figures.commit = Some(result));
        commit
    }

    /// [`Memory::clear`]
    ///
    /// # Errors
    /// As there.
    pub async fn clear(&self, user: &UserId, character: &CharacterId) -> Result<(), Error> {
        let clear = Box::pin(self.memory.clear(user, character));
        self.of_session(user, character, Operation::Clear, clear)
            .await
    }

    /// [`Memory::session`]
    ///
    /// # Errors
    /// As there.
    pub async fn session(
        &self,
        user: &UserId,
        character: &CharacterId,
    ) -> Result<Option<Session>, Error> {
        let session = Box::pin(self.memory.session(user, character));
        self.read_session(user, character, Operation::Session, session)
            .await
    }

    /// [`Memory::set_state`]
    ///
    /// # Errors
    /// As there.
    pub async fn set_state(
        &self,
        user: &UserId,
        character: &CharacterId,
        state: State,
    ) -> Result<Option<Session>, Error> {
        let session = Box::pin(self.memory.set_state(user, character, state));
        self.read_session(user, character, Operation::SetState, session)
            .await
    }

    /// [`Memory::character_json`]
    pub(crate) async fn character_json(&self, id: &CharacterId) -> Result<Option<Vec<u8>>, Error> {
        let json = Box::pin(self.memory.character_json(id));
        self.invocation
            .timed(Operation::Character, Error::status, json)
            .await
    }

    async fn read_session(
        &self,
        user: &UserId,
        character: &CharacterId,
        operation: Operation,
        read: impl Future<Output = Result<Option<Session>, Error>>,
    ) -> Result<Option<Session>, Error> {
        let session = self.of_session(user, character, operation, read).await;
        if let Ok(Some(session)) = &session {
            self.note_stored(usize::try_from(session.stored_messages).unwrap_or(0));
        }
        session
    }

    /// A session has a breaker, in a cluster one of many.
    async fn of_session<T>(
        &self,
        user: &UserId,
        character: &CharacterId,
        operation: Operation,
        run: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let outcome = self.invocation.timed(operation, Error::status, run).await;
        let open = self.memory.breaker_is_open(user, character);
        self.invocation
            .note(|figures| figures.breaker_open = Some(open));
        outcome
    }

    fn note_stored(&self, messages: usize) {
        let messages = u64::try_from(messages).unwrap_or(u64::MAX);
        self.invocation
            .note(|figures| figures.stored_messages = Some(messages));
    }
}

impl Error {
    fn status(&self) -> Status {
        match self {
            Self::Timeout => Status::Timeout,
            Self::BreakerOpen | Self::Redis(_) | Self::NotReplicated | Self::Unexpected => {
                Status::Failure
            }
        }
    }
}
