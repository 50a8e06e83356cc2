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

/// The id of a stored message. Other writers choose their own, so it is any text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MessageId(Box<str>);

impl MessageId {
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

    /// Parses the text form: a UUID with hyphens, in lower case.
    ///
    /// # Errors
    /// Returns [`InvalidId`] for any other text. Other spellings of a UUID are refused, so that one turn has one id.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let id = Uuid::try_parse(text).map(Self).map_err(|_| InvalidId)?;
        if id.to_string() == text {
            Ok(id)
        } else {
            Err(InvalidId)
        }
    }

    /// Returns the id of the message of the user that the turn answers: the turn's, with the last bit flipped. So every
    /// reader of the turn knows it before the message is stored. It is not the turn's own, because logs name turns, and
    /// no message.
    #[must_use]
    pub fn message_id(self) -> String {
        Self(Uuid::from_u128(self.0.as_u128() ^ 1)).to_string()
    }

    /// Returns the id of the turn's reply as a message: the turn's, with the last bit but one flipped.
    #[must_use]
    pub fn reply_id(self) -> String {
        Self(Uuid::from_u128(self.0.as_u128() ^ 2)).to_string()
    }
}

/// The longest idempotency key, in characters.
pub const MAX_KEY_LENGTH: usize = 255;

/// The error for text that is not a valid idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to {MAX_KEY_LENGTH} visible ASCII characters")]
pub struct InvalidKey;

/// The key by which a client marks repeated requests for one turn: the header `Idempotency-Key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(Box<str>);

impl IdempotencyKey {
    /// Parses the value of the header: visible ASCII characters, without the one pair of double quotes that may enclose
    /// them.
    ///
    /// # Errors
    /// Returns [`InvalidKey`] if there are none or too many characters, or others than visible ASCII characters.
    pub fn parse(value: &[u8]) -> Result<Self, InvalidKey> {
        let quoted = value
            .strip_prefix(b"\"")
            .and_then(|value| value.strip_suffix(b"\""));
        let key = quoted.unwrap_or(value);
        let is_valid =
            (1..=MAX_KEY_LENGTH).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
        match std::str::from_utf8(key) {
            Ok(key) if is_valid => Ok(Self(key.into())),
            _ => Err(InvalidKey),
        }
    }

    /// Returns the key without the quotes that enclosed it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
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
    fn a_key_is_1_to_255_visible_ascii_characters_with_or_without_quotes() {
        let parse = |value: &str| {
            IdempotencyKey::parse(value.as_bytes()).map(|key| key.as_str().to_owned())
        };
        for (value, key) in [
            ("a", "a"),
            ("\"a\"", "a"),
            ("\"\"a\"\"", "\"a\""),
            ("\"", "\""),
            ("\"a", "\"a"),
            ("{a:b}%~", "{a:b}%~"),
        ] {
            assert_eq!(parse(value).as_deref(), Ok(key));
        }
        assert!(parse(&"a".repeat(255)).is_ok());
        assert!(parse(&format!("\"{}\"", "a".repeat(255))).is_ok());
        for value in ["", "\"\"", "a b", "\u{7f}", "é", "a\n", &"a".repeat(256)] {
            assert_eq!(parse(value), Err(InvalidKey), "{value:?}");
        }
    }

    #[test]
    fn a_turn_id_has_the_length_that_the_commit_script_relies_on() {
        assert_eq!(TurnId::new().to_string().len(), 36);
    }

    #[test]
    fn the_ids_of_a_turn_and_of_its_messages_differ_in_a_bit() {
        for (turn, message, reply) in [("90", "91", "92"), ("ff", "fe", "fd")] {
            let id = |last| format!("01234567-89ab-7cde-8f01-23456789ab{last}");
            let turn = TurnId::parse(&id(turn)).expect("a UUID");
            assert_eq!(turn.message_id(), id(message));
            assert_eq!(turn.reply_id(), id(reply));
        }
    }

    #[test]
    fn a_user_id_does_not_print_itself() {
        let id = UserId::parse("alice@example.org").expect("valid");
        assert!(!format!("{id:?}").contains("alice"));
    }
}
