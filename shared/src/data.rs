//! Everything that is kept about a user, for the user: sessions, turns that are remembered, and what was used of limits.
//!
//! It is read a session at a time while it is sent, because all of it may be more than the memory of a function.

use std::collections::VecDeque;

use crate::config::KeyLayout;
use crate::ids::{CharacterId, TurnId, UserId};
use crate::limits;
use crate::memory::{Erased, Error, Memory};
use crate::message::Message;
use crate::session::Session;
use crate::store::Store;
use crate::telemetry::{Invocation, Operation};
use crate::turns::{StoredTurn, Turns};

/// The rooms that keep something about users. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Data {
    memory: Memory,
    /// `None` if turns are not recorded.
    turns: Option<Turns>,
    /// Where limits are counted.
    store: Store,
    layout: KeyLayout,
}

/// One thing that is kept about a user.
#[derive(Debug)]
pub enum Item {
    /// A session; its messages follow.
    Session(CharacterId, Session),
    /// A stored message of a session.
    Message(CharacterId, Message),
    /// A stored element of a session that is not a message.
    Unreadable(CharacterId, String),
    /// A turn that is remembered.
    Turn(CharacterId, TurnId, StoredTurn),
    /// What was used of a limit: of the turns of a `minute`, or of the tokens of a `day`.
    Limit(&'static str, u64),
    /// Nothing follows: this is everything.
    End(Counts),
    /// Nothing follows: the rest cannot be read at the moment.
    Failed,
}

/// The numbers of things that were exported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Number of sessions.
    pub sessions: u64,
    /// Number of stored messages, including elements that are none.
    pub messages: u64,
    /// Number of turns that are remembered.
    pub turns: u64,
}

impl Data {
    /// Returns the data that these rooms keep. Connects to nothing.
    #[must_use]
    pub fn new(memory: Memory, turns: Option<Turns>, store: Store, layout: KeyLayout) -> Self {
        Self {
            memory,
            turns,
            store,
            layout,
        }
    }

    /// Deletes everything that is kept about a user, as [`Memory::erase`] does.
    ///
    /// # Errors
    /// Redis is unavailable. All that was there at the beginning is deleted, or nothing.
    pub async fn erase(&self, invocation: &Invocation, user: &UserId) -> Result<Erased, Error> {
        self.memory.erase(invocation, user).await
    }

    /// Starts to read everything that is kept about a user.
    ///
    /// # Errors
    /// Redis is unavailable.
    pub async fn export(self, user: UserId, invocation: Invocation) -> Result<Export, Error> {
        let owned = self.memory.owned(&invocation, &user, Operation::Export);
        let owned = owned.await?;
        let sessions = owned.characters().into_iter().map(Step::Session);
        let turns = owned
            .entries()
            .map(|entry| Step::Turn(entry.character, entry.turn));
        Ok(Export {
            data: self,
            user,
            invocation: Some(invocation),
            steps: sessions.chain(turns).chain([Step::Limits]).collect(),
            ready: VecDeque::new(),
            counts: Counts::default(),
        })
    }
}

/// What is read next.
enum Step {
    Session(CharacterId),
    Turn(CharacterId, TurnId),
    Limits,
}

/// Everything that is kept about a user, as it is read.
pub struct Export {
    data: Data,
    user: UserId,
    /// Dropped before the last item is given. `None` after that.
    invocation: Option<Invocation>,
    steps: VecDeque<Step>,
    /// Items that are read and not given yet.
    ready: VecDeque<Item>,
    counts: Counts,
}

impl Export {
    /// Returns the next item, or `None` after the last.
    pub async fn next(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(item);
            }
            let invocation = self.invocation.clone()?;
            let Some(step) = self.steps.pop_front() else {
                self.invocation = None;
                return Some(Item::End(self.counts));
            };
            if self.read(&invocation, step).await.is_err() {
                self.invocation = None;
                return Some(Item::Failed);
            }
        }
    }

    async fn read(&mut self, invocation: &Invocation, step: Step) -> Result<(), Error> {
        let (memory, user) = (&self.data.memory, &self.user);
        match step {
            Step::Session(character) => {
                let kept = memory.stored_session(invocation, user, &character).await?;
                let Some(kept) = kept else { return Ok(()) };
                self.counts.sessions += 1;
                self.counts.messages += u64::try_from(kept.messages.len()).unwrap_or(u64::MAX);
                if let Some(session) = kept.session {
                    self.ready
                        .push_back(Item::Session(character.clone(), session));
                }
                self.ready
                    .extend(kept.messages.into_iter().map(|message| match message {
                        Ok(message) => Item::Message(character.clone(), message),
                        Err(stored) => Item::Unreadable(character.clone(), stored),
                    }));
            }
            Step::Turn(character, turn) => {
                let Some(turns) = &self.data.turns else {
                    return Ok(());
                };
                let record = turns.record(user, &character, turn, None);
                if let Some(remembered) = record.remembered(invocation).await? {
                    self.counts.turns += 1;
                    self.ready
                        .push_back(Item::Turn(character, turn, remembered));
                }
            }
            Step::Limits => {
                let (store, layout) = (&self.data.store, self.data.layout);
                let [turns, tokens] = limits::used(store, layout, invocation, user).await?;
                let used = [("minute", turns), ("day", tokens)];
                let used = used.into_iter().filter(|(_, used)| *used > 0);
                self.ready
                    .extend(used.map(|(window, used)| Item::Limit(window, used)));
            }
        }
        Ok(())
    }
}
