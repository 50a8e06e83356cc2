//! Lays out a prompt: the conversation, and the instructions at their places around and inside it.

use super::{Place, Text};
use crate::message::{PromptMessage, Role};

/// What stands between two texts of the same message.
const BETWEEN: &str = "\n\n";

/// Returns the messages of a prompt in their order, and how many stand behind the new one.
pub(super) fn laid_out(
    texts: &[Text<'_>],
    mut conversation: Vec<PromptMessage>,
    message: &str,
) -> (Vec<PromptMessage>, usize) {
    conversation.push(PromptMessage::new(Role::User, message));
    let length = conversation.len();
    let mut messages = Vec::with_capacity(length + texts.len() + 2);
    messages.extend(joined(texts, Place::First));
    for (at, said) in conversation.into_iter().enumerate() {
        let from_end = length - at;
        if from_end == 1 {
            messages.extend(joined(texts, Place::Behind));
        }
        // What has a place before the oldest message stands before that one.
        messages.extend(within(texts, |place| {
            place == from_end || (at == 0 && place > from_end)
        }));
        messages.push(said);
    }
    let new = messages.len();
    messages.extend(within(texts, |place| place == 0));
    messages.extend(joined(texts, Place::Last));
    let behind_new = messages.len() - new;
    (messages, behind_new)
}

/// Returns the system message with the texts of one place, or `None` if there are none.
fn joined(texts: &[Text<'_>], place: Place) -> Option<PromptMessage> {
    let mut texts = texts.iter().filter(|text| text.place == place);
    let mut joined = texts.next()?.text.clone().into_owned();
    for text in texts {
        joined.push_str(BETWEEN);
        joined.push_str(&text.text);
    }
    Some(PromptMessage::new(Role::System, joined))
}

/// Returns the messages whose number of messages before the end is meant.
fn within(
    texts: &[Text<'_>],
    is_meant: impl Fn(usize) -> bool,
) -> impl Iterator<Item = PromptMessage> {
    texts.iter().filter_map(move |text| match text.place {
        Place::Within(from_end, role) if is_meant(from_end) => {
            Some(PromptMessage::new(role, text.text.as_ref()))
        }
        Place::First | Place::Behind | Place::Within(..) | Place::Last => None,
    })
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::context::Keep;

    #[test]
    fn each_text_stands_at_its_place() {
        let text = |text: &'static str, place| Text {
            text: Cow::Borrowed(text),
            place,
            keep: Keep::Always,
        };
        let texts = [
            text("last", Place::Last),
            text("0", Place::Within(0, Role::System)),
            text("first", Place::First),
            text("9", Place::Within(9, Role::System)),
            text("2", Place::Within(2, Role::Assistant)),
            text("behind", Place::Behind),
            text("1", Place::Within(1, Role::User)),
            text("second", Place::First),
            text("behind too", Place::Behind),
            text("also 0", Place::Within(0, Role::User)),
        ];
        let said = |role, text| PromptMessage::new(role, text);
        let conversation = vec![said(Role::User, "q"), said(Role::Assistant, "a")];
        let (messages, behind_new) = laid_out(&texts, conversation, "new");
        let contents = messages.iter().map(|message| message.content.as_str());
        let expected = [
            "first\n\nsecond",
            "9",
            "q",
            "2",
            "a",
            "behind\n\nbehind too",
            "1",
            "new",
            "0",
            "also 0",
            "last",
        ];
        assert_eq!(contents.collect::<Vec<_>>(), expected);
        assert_eq!(behind_new, 3);
        assert_eq!(messages[3].role, Role::Assistant);
        let (alone, behind_new) = laid_out(&[], Vec::new(), "new");
        assert_eq!((alone.len(), behind_new), (1, 0));
    }
}
