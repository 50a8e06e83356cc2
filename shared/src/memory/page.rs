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

/// Returns the newest whole turns of `messages`, which are oldest first: as many as have `most` messages together, and at
/// least one. `is_all` says whether the conversation has no older message. Returns `None` if the messages do not reach back
/// to the beginning of a turn.
///
/// A turn begins with a message of the user. What other writers stored may begin otherwise: that is the oldest turn.
pub(super) fn newest(mut messages: Vec<Message>, most: usize, is_all: bool) -> Option<Page> {
    let begins_turn = |at: usize| {
        let message = messages.get(at)?;
        (message.role == Role::User || (at == 0 && is_all)).then_some(at)
    };
    let count = messages.len();
    let mut begins = (0..count).rev().filter_map(begins_turn);
    let Some(newest) = begins.next() else {
        return is_all.then_some(Page {
            messages,
            has_more: false,
        });
    };
    let first = begins
        .take_while(|at| count - at <= most)
        .last()
        .unwrap_or(newest);
    Some(Page {
        messages: messages.split_off(first),
        has_more: first > 0 || !is_all,
    })
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

    /// One message for each letter: `u`ser or `a`ssistant. The ids are their places.
    fn messages(roles: &str) -> Vec<Message> {
        roles
            .chars()
            .enumerate()
            .map(|(at, role)| {
                let role = match role {
                    'u' => Role::User,
                    _ => Role::Assistant,
                };
                let mut message = Message::new(role, "x".into(), 0, 1);
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

    proptest! {
        #[test]
        fn pages_together_are_the_conversation(roles in "[ua]{0,30}", most in 1_usize..12) {
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
