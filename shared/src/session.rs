//! A session: what the memory stores about a user and a character, apart from the messages.

use serde::{Deserialize, Serialize};

use crate::foreign;

/// The state of a session, as a client last set it. A committed turn sets it back to [`State::Active`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// The conversation is going on.
    Active,
    /// The user has left for now.
    Inactive,
    /// The conversation is over.
    Ended,
}

impl State {
    /// All states, for error texts that list them.
    pub const ALL: [Self; 3] = [Self::Active, Self::Inactive, Self::Ended];

    /// Returns the text that is stored in Redis and used in the HTTP API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Inactive => "INACTIVE",
            Self::Ended => "ENDED",
        }
    }

    /// Parses the stored text; returns `None` for any other text. Letter case matters.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A session as the HTTP API returns it. A field that another writer never stored is null rather than invented: the
/// Python service stores no `session_start`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Session {
    /// State of the session, as it was last set.
    pub state: State,
    /// Time of the last committed turn, in Unix seconds.
    pub last_active_at: Option<i64>,
    /// Number of messages committed since the session began, including those trimmed since.
    pub message_count: i64,
    /// Time of the first committed turn, in Unix seconds.
    pub session_start: Option<i64>,
    /// Number of tokens committed since the session began.
    pub total_tokens: i64,
    /// Number of messages stored now.
    pub stored_messages: i64,
    /// Seconds until the session expires; null if another writer stored it without an expiry.
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
