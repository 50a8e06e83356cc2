//! One session: what the memory keeps about a user and a character besides the messages.

use serde::{Deserialize, Serialize};

use crate::foreign;

/// What a client set the session to. A committed turn sets [`State::Active`] again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// The conversation goes on.
    Active,
    /// The user has left for now.
    Inactive,
    /// The conversation is over.
    Ended,
}

impl State {
    /// All states, for messages that list them.
    pub const ALL: [Self; 3] = [Self::Active, Self::Inactive, Self::Ended];

    /// The stored text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Inactive => "INACTIVE",
            Self::Ended => "ENDED",
        }
    }

    /// Reads the stored text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A session as its readers see it. What another writer never stored (the Python service has no `session_start`) is
/// null rather than made up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Session {
    /// What it was last set to.
    pub state: State,
    /// When the last turn was committed, in Unix seconds.
    pub last_active_at: Option<i64>,
    /// Messages committed since the session began, those that were trimmed away included.
    pub message_count: i64,
    /// When the first turn was committed, in Unix seconds.
    pub session_start: Option<i64>,
    /// Tokens committed since the session began.
    pub total_tokens: i64,
    /// Messages in the list now.
    pub stored_messages: i64,
    /// Seconds until the session is forgotten; null if another writer left it without an expiry.
    pub expires_in: Option<i64>,
}

/// Reads a stored figure. Other writers store what their language makes of a number: `4.0`, `1e3`.
#[must_use]
pub fn figure(text: &str) -> Option<i64> {
    foreign::integer_of(text)
}

/// Reads a stored moment in Unix seconds: a figure, or a date and time as text.
#[must_use]
pub fn moment(text: &str) -> Option<i64> {
    foreign::seconds_of(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_reads_back() {
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(state));
        }
        assert_eq!(State::parse("active"), None);
    }
}
