//! The names of Redis keys. No other module builds one.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::config::KeyLayout;
use crate::ids::{CharacterId, UserId};

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
        let user = utf8_percent_encode(user.as_str(), ENCODED);
        let character = utf8_percent_encode(character.as_str(), ENCODED);
        let prefix = match layout {
            KeyLayout::Plain => format!("chat:{user}:{character}"),
            KeyLayout::Tagged => format!("chat:{{{user}}}:{character}"),
        };
        Self {
            messages: format!("{prefix}:messages"),
            meta: format!("{prefix}:meta"),
            cleared: format!("{prefix}:cleared"),
        }
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
