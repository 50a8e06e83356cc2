//! Identifiers. They are made only by parsing, so whoever holds one holds a valid one.

use std::fmt;

use uuid::Uuid;

/// The longest user or character id, in bytes.
pub const MAX_ID_BYTES: usize = 128;

/// An identifier that is empty or too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {MAX_ID_BYTES} bytes")]
pub struct InvalidId;

fn parse(text: &str) -> Result<Box<str>, InvalidId> {
    if text.is_empty() || text.len() > MAX_ID_BYTES {
        return Err(InvalidId);
    }
    Ok(text.into())
}

/// Whose memory it is: the `sub` of the caller's token, and never anything that a body or a query says.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UserId(Box<str>);

impl UserId {
    /// Takes any text of 1 to [`MAX_ID_BYTES`] bytes.
    ///
    /// # Errors
    /// [`InvalidId`] for an empty or longer text.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        parse(text).map(Self)
    }

    /// The id as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A user id names a person, so it does not reach a log by accident.
impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserId(…)")
    }
}

/// Which character the user talks to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CharacterId(Box<str>);

impl CharacterId {
    /// Takes any text of 1 to [`MAX_ID_BYTES`] bytes.
    ///
    /// # Errors
    /// [`InvalidId`] for an empty or longer text.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        parse(text).map(Self)
    }

    /// The id as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One turn: a message and its reply. Commits are idempotent by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TurnId(Uuid);

impl TurnId {
    /// The length of the text form, in bytes. The commit script counts on it.
    pub const TEXT_BYTES: usize = 36;

    /// A new id. Ids of later turns sort after those of earlier ones.
    #[must_use]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// Reads the text form back.
    ///
    /// # Errors
    /// [`InvalidId`] for anything that is not a UUID.
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
    fn a_turn_id_has_the_length_that_the_commit_script_counts_on() {
        assert_eq!(TurnId::new().to_string().len(), TurnId::TEXT_BYTES);
    }

    #[test]
    fn a_user_id_does_not_print_itself() {
        let id = UserId::parse("alice@example.org").expect("valid");
        assert!(!format!("{id:?}").contains("alice"));
    }
}
