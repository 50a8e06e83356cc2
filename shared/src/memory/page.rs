//! Pages of a conversation: pure functions.

use crate::ids::MessageId;
use crate::message::{Message, Role};

/// A part of a conversation, in whole turns.
#[derive(Debug)]
pub struct Page {
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// Whether there are older messages.
    pub has_more: bool,
}

/// Most bytes of text in a page: a function's whole response has 6 MB at most, and text that is escaped grows.
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// Returns the newest whole turns of `messages`, which are oldest first: as many as have `most` messages together, and at
/// least one. `is_all` says whether the conversation has no older message. Returns `None` if the messages do not reach back
/// to the beginning of such a page.
///
/// A turn begins with a message of the user, or with the greeting before it. What other writers stored may begin otherwise:
/// that is the oldest turn. And it may have no id: a page goes on to a turn whose first message has one, because the next
/// page is asked for by it.
pub(super) fn newest(mut messages: Vec<Message>, most: usize, is_all: bool) -> Option<Page> {
    let (mut first, mut count, mut bytes) = (None, 0, 0);
    for (at, message) in messages.iter().enumerate().rev() {
        count += 1;
        bytes += message.content.len();
        if first.is_some() && (count > most || bytes > MAX_BYTES) {
            break;
        }
        let is_oldest = at == 0 && is_all;
        let before = at.checked_sub(1).and_then(|before| messages.get(before));
        let is_greeted = before.is_some_and(Message::is_greeting);
        let begins = match message.role {
            Role::User => !is_greeted,
            Role::Assistant | Role::System => message.is_greeting(),
        };
        if is_oldest || (begins && !message.msg_id.is_empty()) {
            first = Some(at);
        }
    }
    match first {
        Some(first) => Some(Page {
            messages: messages.split_off(first),
            has_more: first > 0 || !is_all,
        }),
        None => is_all.then_some(Page {
            messages,
            has_more: false,
        }),
    }
}

/// Removes a message and all after it. Returns whether it was there.
pub(super) fn cut_before(messages: &mut Vec<Message>, id: &MessageId) -> bool {
    let at = messages
        .iter()
        .position(|message| message.msg_id == id.as_str());
    if let Some(at) = at {
        messages.truncate(at);
    }
    at.is_some()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One message for each letter: `u`ser, `a`ssistant or `g`reeting. The ids are their places.
    fn messages(roles: &str) -> Vec<Message> {
        roles
            .chars()
            .enumerate()
            .map(|(at, role)| {
                let mut message = match role {
                    'u' => Message::new(Role::User, "x".into(), 0, 1),
                    'g' => Message::greeting(0, "x".into(), 0, 1),
                    _ => Message::new(Role::Assistant, "x".into(), 0, 1),
                };
                message.msg_id = at.to_string();
                message
            })
            .collect()
    }

    #[test]
    fn a_page_is_whole_turns_and_at_least_one() {
        for (roles, most, is_all, count, has_more) in [
            ("", 50, true, 0, false),
            ("uaua", 50, true, 4, false),
            ("uaua", 4, true, 4, false),
            ("uaua", 3, true, 2, true),
            ("uaua", 1, true, 2, true),
            ("ua", 1, true, 2, false),
            ("aua", 3, true, 3, false),
            ("aua", 2, true, 2, true),
            ("uu", 1, true, 1, true),
            ("gua", 1, true, 3, false),
            ("guaua", 2, true, 2, true),
            ("guaua", 4, true, 2, true),
            ("guaua", 5, true, 5, false),
            ("g", 1, true, 1, false),
            ("ua", 50, false, 2, true),
            ("aua", 50, false, 2, true),
        ] {
            let page = newest(messages(roles), most, is_all).expect("a turn begins");
            assert_eq!(page.messages.len(), count, "{roles} {most}");
            assert_eq!(page.has_more, has_more, "{roles} {most}");
        }
        assert!(newest(messages("aa"), 50, false).is_none());
        assert!(newest(Vec::new(), 50, false).is_none());
    }

    #[test]
    fn a_page_of_long_messages_ends_early() {
        let mut long = messages("uauaua");
        for message in &mut long {
            message.content = "x".repeat(MAX_BYTES / 3);
        }
        let page = newest(long, 100, true).expect("a turn begins");
        assert_eq!((page.messages.len(), page.has_more), (2, true));
    }

    #[test]
    fn a_page_begins_with_a_message_that_has_an_id() {
        let mut odd = messages("uauaua");
        odd[4].msg_id.clear();
        let page = newest(odd.clone(), 2, true).expect("a turn begins");
        assert_eq!((page.messages.len(), page.has_more), (4, true));
        odd[0].msg_id.clear();
        odd[2].msg_id.clear();
        let page = newest(odd.clone(), 2, true).expect("a turn begins");
        assert_eq!((page.messages.len(), page.has_more), (6, false));
        assert!(newest(odd, 2, false).is_none());
    }

    proptest! {
        #[test]
        fn pages_together_are_the_conversation(roles in "g?[ua]{0,30}", most in 1_usize..12) {
            let all = messages(&roles);
            let mut read: Vec<Message> = Vec::new();
            loop {
                let mut older = all.clone();
                if let Some(first) = read.first() {
                    let id = MessageId::parse(&first.msg_id).expect("an id");
                    prop_assert!(cut_before(&mut older, &id));
                }
                let page = newest(older, most, true).expect("all are read");
                let begins = page.messages.first().map(|message| message.role);
                prop_assert!(begins == Some(Role::User) || !page.has_more);
                // Where a page of one turn follows, it begins with the greeting.
                prop_assert!(page.has_more || roles.is_empty() || page.messages.first().map(|message| message.msg_id.as_str()) == Some("0"));
                read.splice(0..0, page.messages);
                if !page.has_more {
                    break;
                }
            }
            let ids = |messages: &[Message]| {
                messages.iter().map(|message| message.msg_id.clone()).collect::<Vec<_>>()
            };
            prop_assert_eq!(ids(&read), ids(&all));
        }
    }
}
