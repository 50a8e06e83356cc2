//! The names of Redis keys. No other module builds one.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::config::KeyLayout;
use crate::ids::{CharacterId, IdempotencyKey, TurnId, UserId};

/// The bytes of an id that are percent-encoded in a key. `:` separates parts, `{` and `}` delimit a cluster's hash
/// tag and `%` begins an encoded byte. All of them are encoded, so no two pairs of ids share a key.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'@')
    .remove(b'|');

/// The keys of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionKeys {
    /// Key of the list of messages, newest at the head.
    pub(crate) messages: String,
    /// Key of the hash with the session's state and figures.
    pub(crate) meta: String,
    /// Key of the string with the mark of the session's last clear.
    pub(crate) cleared: String,
    /// Key of the sorted set of the user's sessions: character ids by last activity.
    pub(crate) sessions: String,
    /// Key of the string with the mark of the last time that the user's data was erased.
    pub(crate) erased: String,
}

impl SessionKeys {
    /// Returns the keys of the session of `user` with `character`.
    pub(crate) fn new(layout: KeyLayout, user: &UserId, character: &CharacterId) -> Self {
        let prefix = session(layout, user, character);
        Self {
            messages: format!("{prefix}:messages"),
            meta: format!("{prefix}:meta"),
            cleared: format!("{prefix}:cleared"),
            sessions: of_user(layout, user, "sessions"),
            erased: of_user(layout, user, "erased"),
        }
    }
}

/// The keys of a user that belong to no session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserKeys {
    /// Key of the sorted set of the user's sessions: character ids by last activity.
    pub(crate) sessions: String,
    /// Key of the sorted set of the user's remembered turns, by the time at which they began. See [`TurnEntry`].
    pub(crate) turns: String,
    /// Key of the string with the mark of the last time that the user's data was erased.
    pub(crate) erased: String,
    /// Key of the string with the turns that the user began in the present minute.
    pub(crate) minute: String,
    /// Key of the string with the tokens that the user's turns took on the present day.
    pub(crate) day: String,
}

impl UserKeys {
    /// Returns the keys of `user`.
    pub(crate) fn new(layout: KeyLayout, user: &UserId) -> Self {
        let key = |part| of_user(layout, user, part);
        Self {
            sessions: key("sessions"),
            turns: key("turns"),
            erased: key("erased"),
            minute: key("limit:minute"),
            day: key("limit:day"),
        }
    }
}

/// The keys of the record of one turn, and of what the user's turns share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TurnKeys {
    /// Key of the hash with the owner's lease, how the turn began and how it ended.
    pub(crate) record: String,
    /// Key of the string with the reply's text so far.
    pub(crate) text: String,
    /// Key of the sorted set of the user's remembered turns, by the time at which they began. See [`TurnEntry`].
    pub(crate) index: String,
    /// Key of the mark of the session's last clear.
    pub(crate) cleared: String,
    /// Key of the mark of the last time that the user's data was erased.
    pub(crate) erased: String,
}

impl TurnKeys {
    /// Returns the keys of a turn of `user` with `character`.
    pub(crate) fn new(
        layout: KeyLayout,
        user: &UserId,
        character: &CharacterId,
        turn: TurnId,
    ) -> Self {
        let prefix = session(layout, user, character);
        let record = format!("{prefix}:turn:{turn}");
        Self {
            text: format!("{record}:text"),
            record,
            index: of_user(layout, user, "turns"),
            cleared: format!("{prefix}:cleared"),
            erased: of_user(layout, user, "erased"),
        }
    }
}

/// A member of the sorted set of a user's remembered turns: everything that the names of the turn's keys consist of. So
/// all of them can be found without looking for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TurnEntry {
    pub(crate) turn: TurnId,
    /// The idempotency key, if the turn has one.
    pub(crate) key: Option<IdempotencyKey>,
    pub(crate) character: CharacterId,
}

impl TurnEntry {
    /// Parses a member, or returns `None` if it is none.
    pub(crate) fn parse(member: &str) -> Option<Self> {
        // Neither an id of a turn nor a key has a blank.
        let mut parts = member.splitn(3, ' ');
        let turn = TurnId::parse(parts.next()?).ok()?;
        let key = match parts.next()? {
            "" => None,
            key => Some(IdempotencyKey::parse(key.as_bytes()).ok()?),
        };
        let character = CharacterId::parse(parts.next()?).ok()?;
        Some(Self {
            turn,
            key,
            character,
        })
    }

    /// Returns the names of the turn's record, of its text, and of its idempotency key if it has one.
    pub(crate) fn names(
        &self,
        layout: KeyLayout,
        user: &UserId,
    ) -> (String, String, Option<String>) {
        let keys = TurnKeys::new(layout, user, &self.character, self.turn);
        let key = self.key.as_ref().map(|key| idempotency(layout, user, key));
        (keys.record, keys.text, key)
    }
}

impl fmt::Display for TurnEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.as_ref().map_or("", IdempotencyKey::as_str);
        write!(f, "{} {key} {}", self.turn, self.character.as_str())
    }
}

/// Returns the key of the string that names the turn of an idempotency key.
pub(crate) fn idempotency(layout: KeyLayout, user: &UserId, key: &IdempotencyKey) -> String {
    let key = utf8_percent_encode(key.as_str(), ENCODED);
    of_user(layout, user, &format!("key:{key}"))
}

/// Returns a key of a user that belongs to no session. It begins with `user:` and not with `chat:`, so that no character
/// id can spell it.
fn of_user(layout: KeyLayout, user: &UserId, part: &str) -> String {
    let user = utf8_percent_encode(user.as_str(), ENCODED);
    match layout {
        KeyLayout::Plain => format!("user:{user}:{part}"),
        KeyLayout::Tagged => format!("user:{{{user}}}:{part}"),
    }
}

/// Returns the common beginning of the keys of a session.
fn session(layout: KeyLayout, user: &UserId, character: &CharacterId) -> String {
    let user = utf8_percent_encode(user.as_str(), ENCODED);
    let character = utf8_percent_encode(character.as_str(), ENCODED);
    match layout {
        KeyLayout::Plain => format!("chat:{user}:{character}"),
        KeyLayout::Tagged => format!("chat:{{{user}}}:{character}"),
    }
}

/// Returns the key of a character. It is the same in both layouts.
pub(crate) fn character(id: &CharacterId) -> String {
    format!("character:{}", utf8_percent_encode(id.as_str(), ENCODED))
}

/// Key of the sorted set of the ids of stored characters, all with the score 0. The ids in other keys of characters have
/// no colon, because it is encoded.
pub(crate) const CHARACTERS: &str = "character::ids";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(layout: KeyLayout, user: &str, character: &str) -> SessionKeys {
        let user = UserId::parse(user).expect("a valid id");
        let character = CharacterId::parse(character).expect("a valid id");
        SessionKeys::new(layout, &user, &character)
    }

    #[test]
    fn the_literal_keys_are_the_contract() {
        let plain = keys(KeyLayout::Plain, "user_123", "char_456");
        assert_eq!(plain.messages, "chat:user_123:char_456:messages");
        assert_eq!(plain.meta, "chat:user_123:char_456:meta");
        assert_eq!(plain.cleared, "chat:user_123:char_456:cleared");
        let tagged = keys(KeyLayout::Tagged, "user_123", "char_456");
        assert_eq!(tagged.messages, "chat:{user_123}:char_456:messages");
        assert_eq!(tagged.meta, "chat:{user_123}:char_456:meta");
        assert_eq!(tagged.cleared, "chat:{user_123}:char_456:cleared");
        let odd = keys(KeyLayout::Plain, "a:b{c}%", "auth0|x@y.z-灵");
        assert_eq!(
            odd.messages,
            "chat:a%3Ab%7Bc%7D%25:auth0|x@y.z-%E7%81%B5:messages"
        );
        assert_eq!(
            character(&CharacterId::parse("灵:1").expect("valid")),
            "character:%E7%81%B5%3A1"
        );
    }

    #[test]
    fn the_literal_keys_of_a_turn_are_the_contract() {
        let user = UserId::parse("user_123").expect("valid");
        let character = CharacterId::parse("char_456").expect("valid");
        let id = "01234567-89ab-7cde-8f01-23456789abcd";
        let turn = TurnId::parse(id).expect("a UUID");
        let key = IdempotencyKey::parse(b"a:{b}").expect("valid");
        for (layout, name) in [
            (KeyLayout::Plain, "user_123"),
            (KeyLayout::Tagged, "{user_123}"),
        ] {
            let keys = TurnKeys::new(layout, &user, &character, turn);
            assert_eq!(keys.record, format!("chat:{name}:char_456:turn:{id}"));
            assert_eq!(keys.text, format!("chat:{name}:char_456:turn:{id}:text"));
            assert_eq!(keys.index, format!("user:{name}:turns"));
            assert_eq!(keys.cleared, format!("chat:{name}:char_456:cleared"));
            assert_eq!(keys.erased, format!("user:{name}:erased"));
            assert_eq!(
                idempotency(layout, &user, &key),
                format!("user:{name}:key:a%3A%7Bb%7D")
            );
        }
    }

    #[test]
    fn the_literal_keys_of_a_user_are_the_contract() {
        let user = UserId::parse("user:123").expect("valid");
        for (layout, name) in [
            (KeyLayout::Plain, "user%3A123"),
            (KeyLayout::Tagged, "{user%3A123}"),
        ] {
            let keys = UserKeys::new(layout, &user);
            assert_eq!(keys.sessions, format!("user:{name}:sessions"));
            assert_eq!(keys.turns, format!("user:{name}:turns"));
            assert_eq!(keys.erased, format!("user:{name}:erased"));
            assert_eq!(keys.minute, format!("user:{name}:limit:minute"));
            assert_eq!(keys.day, format!("user:{name}:limit:day"));
        }
    }

    #[test]
    fn an_entry_reads_back_and_names_all_keys_of_its_turn() {
        let user = UserId::parse("u").expect("valid");
        let turn = TurnId::new();
        for key in [None, Some("a:b")] {
            let entry = TurnEntry {
                turn,
                key: key.map(|key| IdempotencyKey::parse(key.as_bytes()).expect("valid")),
                character: CharacterId::parse("a character").expect("valid"),
            };
            assert_eq!(TurnEntry::parse(&entry.to_string()), Some(entry.clone()));
            let names = entry.names(KeyLayout::Plain, &user);
            let record = format!("chat:u:a%20character:turn:{turn}");
            let text = format!("{record}:text");
            let key = entry.key.as_ref().map(|_| "user:u:key:a%3Ab".to_owned());
            assert_eq!(names, (record, text, key));
        }
        for member in [
            "",
            "x",
            &format!("{turn}"),
            &format!("{turn} k"),
            &format!("{turn}  "),
        ] {
            assert_eq!(TurnEntry::parse(member), None, "{member}");
        }
    }

    proptest! {
        #[test]
        fn no_two_pairs_of_ids_share_a_key(
            a in ("[a:{}%]{1,4}", "[a:{}%]{1,4}"),
            b in ("[a:{}%]{1,4}", "[a:{}%]{1,4}"),
        ) {
            for layout in [KeyLayout::Plain, KeyLayout::Tagged] {
                let same = keys(layout, &a.0, &a.1) == keys(layout, &b.0, &b.1);
                prop_assert_eq!(same, a == b);
            }
        }

        #[test]
        fn the_hash_tag_is_the_whole_user(user in "\\PC{1,20}", character in "\\PC{1,20}") {
            let key = keys(KeyLayout::Tagged, &user, &character).messages;
            prop_assert_eq!(key.matches('{').count(), 1);
            prop_assert_eq!(key.matches('}').count(), 1);
        }
    }
}
