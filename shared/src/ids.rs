//! Identifiers. Each is made only by parsing, so a value of these types is always valid.

use std::fmt;

use uuid::Uuid;

/// The longest user or character id, in bytes of UTF-8.
pub const MAX_ID_BYTES: usize = 128;

/// The error for text that is not a valid identifier: empty, too long, or not a UUID where one is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {MAX_ID_BYTES} bytes")]
pub struct InvalidId;

fn parse(text: &str) -> Result<Box<str>, InvalidId> {
    if text.is_empty() || text.len() > MAX_ID_BYTES {
        return Err(InvalidId);
    }
    Ok(text.into())
}

/// The user that a request is made for: the `sub` claim of the caller's token, never a value from a body, a query or a
/// path.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UserId(Box<str>);

impl UserId {
    /// Parses an id: any text of 1 to [`MAX_ID_BYTES`] bytes.
    ///
    /// # Errors
    /// Returns [`InvalidId`] if `text` is empty or longer.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        parse(text).map(Self)
    }

    /// Returns the id exactly as it was parsed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Hides the id: it may name a person, and must not reach a log by accident.
impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserId(…)")
    }
}

/// The id of the character that the user talks to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CharacterId(Box<str>);

impl CharacterId {
    /// Parses an id: any text of 1 to [`MAX_ID_BYTES`] bytes.
    ///
    /// # Errors
    /// Returns [`InvalidId`] if `text` is empty or longer.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        parse(text).map(Self)
    }

    /// Returns the id exactly as it was parsed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The id of one turn, that is a message and its reply. A commit is idempotent by this id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TurnId(Uuid);

impl TurnId {
    /// Returns a new id: a UUID of version 7, so ids sort by the time at which they were made.
    #[must_use]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// Parses the text form, a UUID.
    ///
    /// # Errors
    /// Returns [`InvalidId`] if `text` is not a UUID.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidId)
    }
}

impl Default for TurnId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for TurnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_1_to_128_bytes() {
        assert_eq!(CharacterId::parse(""), Err(InvalidId));
        assert!(CharacterId::parse(&"a".repeat(128)).is_ok());
        assert_eq!(CharacterId::parse(&"a".repeat(129)), Err(InvalidId));
        // 43 ideographs are 129 bytes: the limit is bytes, because keys are.
        assert_eq!(CharacterId::parse(&"灵".repeat(43)), Err(InvalidId));
        assert!(UserId::parse("a:{b}%").is_ok());
    }

    #[test]
    fn a_turn_id_has_the_length_that_the_commit_script_relies_on() {
        assert_eq!(TurnId::new().to_string().len(), 36);
    }

    #[test]
    fn a_user_id_does_not_print_itself() {
        let id = UserId::parse("alice@example.org").expect("valid");
        assert!(!format!("{id:?}").contains("alice"));
    }
}
