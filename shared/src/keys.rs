//! The names of Redis keys. No other module builds one.

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
    /// Key of the string with the time of the last clear, in Unix microseconds on Redis's clock.
    pub(crate) cleared: String,
}

impl SessionKeys {
    /// Returns the keys of the session of `user` with `character`.
    pub(crate) fn new(layout: KeyLayout, user: &UserId, character: &CharacterId) -> Self {
        let prefix = session(layout, user, character);
        Self {
            messages: format!("{prefix}:messages"),
            meta: format!("{prefix}:meta"),
            cleared: format!("{prefix}:cleared"),
        }
    }
}

/// The keys of the record of one turn, and of what its session shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TurnKeys {
    /// Key of the hash with the owner's lease, how the turn began and how it ended.
    pub(crate) record: String,
    /// Key of the string with the reply's text so far.
    pub(crate) text: String,
    /// Key of the sorted set of the session's remembered turns, by the time at which they began.
    pub(crate) index: String,
    /// Key of the mark of the session's last clear.
    pub(crate) cleared: String,
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
            index: format!("{prefix}:turns"),
            cleared: format!("{prefix}:cleared"),
        }
    }
}

/// Returns the key of the sorted set of the turns of a session that are remembered.
pub(crate) fn turns(layout: KeyLayout, user: &UserId, character: &CharacterId) -> String {
    format!("{}:turns", session(layout, user, character))
}

/// Returns the key of the string that names the turn of an idempotency key. It begins with `user:` and not with
/// `chat:`, so that no character id can spell it.
pub(crate) fn idempotency(layout: KeyLayout, user: &UserId, key: &IdempotencyKey) -> String {
    let user = utf8_percent_encode(user.as_str(), ENCODED);
    let key = utf8_percent_encode(key.as_str(), ENCODED);
    match layout {
        KeyLayout::Plain => format!("user:{user}:key:{key}"),
        KeyLayout::Tagged => format!("user:{{{user}}}:key:{key}"),
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
            assert_eq!(keys.index, format!("chat:{name}:char_456:turns"));
            assert_eq!(keys.index, turns(layout, &user, &character));
            assert_eq!(keys.cleared, format!("chat:{name}:char_456:cleared"));
            assert_eq!(
                idempotency(layout, &user, &key),
                format!("user:{name}:key:a%3A%7Bb%7D")
            );
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
