//! The context window: selects the part of a conversation's history that fits beside a new message. Pure functions.
//!
//! Token counts are the stored ones, where they are plausible for the text, or estimates. Nothing is counted exactly
//! here, because this runs before the first byte of the response.

use crate::message::{Message, PromptMessage, Role, is_blank};
use crate::tokens::{PER_MESSAGE, PER_REPLY, estimate, is_believable};

/// The size of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Limit of messages from the history.
    pub max_messages: usize,
    /// Limit of tokens in total: system prompt, history, new message, and the overhead of the chat format.
    pub max_tokens: u64,
}

/// The messages of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The system prompt, then whole turns oldest first, then the new message.
    pub messages: Vec<PromptMessage>,
    /// Number of messages that come from the history.
    pub history_messages: usize,
    /// Whether older turns would still fit: the history ended before a limit was reached.
    pub has_room: bool,
}

/// The text that exceeds the token limit even without any history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooLong {
    /// The system prompt alone exceeds the limit. No message would fit beside it.
    #[error(
        "the character's prompt of about {prompt_tokens} tokens does not fit into the context window"
    )]
    Character {
        /// The estimated number of tokens of the system prompt.
        prompt_tokens: u64,
    },
    /// The new message does not fit beside the system prompt.
    #[error("the new message does not fit into the context window")]
    Message,
}

/// Returns the prompt with the newest whole turns that fit within both limits.
///
/// A whole turn is a user's message and the reply directly behind it. Unpaired messages, messages written by other
/// services, and turns with a blank message are skipped, because some endpoints reject a conversation whose roles do
/// not alternate, or a blank message. The selection ends at the first turn that does not fit: with that turn left out
/// and an older one kept, the model would answer a conversation that never happened.
///
/// # Errors
/// [`TooLong`] if not even the new message fits. It names the text that is too long.
pub fn fit(
    system_prompt: &str,
    history: Vec<Message>,
    message: &str,
    window: Window,
) -> Result<Context, TooLong> {
    let prompt_tokens = estimate(system_prompt);
    let beside_prompt = window
        .max_tokens
        .checked_sub(prompt_tokens.saturating_add(2 * PER_MESSAGE + PER_REPLY))
        // A message has at least one token.
        .filter(|left| *left > 0)
        .ok_or(TooLong::Character { prompt_tokens })?;
    let budget = beside_prompt
        .checked_sub(estimate(message))
        .ok_or(TooLong::Message)?;

    let mut kept: Vec<PromptMessage> = Vec::with_capacity(history.len());
    let mut tokens: u64 = 0;
    let mut has_room = true;
    let mut newest_first = history.into_iter().rev().peekable();
    while let Some(reply) = newest_first.next() {
        let asked = |message: &Message| reply.role == Role::Assistant && message.role == Role::User;
        let Some(question) = newest_first.next_if(asked) else {
            continue;
        };
        if is_blank(&question.content) || is_blank(&reply.content) {
            continue;
        }
        tokens = tokens
            .saturating_add(tokens_of(&question))
            .saturating_add(tokens_of(&reply))
            .saturating_add(2 * PER_MESSAGE);
        if kept.len() + 2 > window.max_messages || tokens > budget {
            has_room = false;
            break;
        }
        kept.extend([reply.into(), question.into()]);
    }

    let history_messages = kept.len();
    has_room &= history_messages + 2 <= window.max_messages;
    let mut messages = Vec::with_capacity(history_messages + 2);
    messages.push(PromptMessage::new(Role::System, system_prompt));
    messages.extend(kept.into_iter().rev());
    messages.push(PromptMessage::new(Role::User, message));
    Ok(Context {
        messages,
        history_messages,
        has_room,
    })
}

/// Returns the stored token count of a message, or an estimate if the stored count is not plausible for the text.
fn tokens_of(message: &Message) -> u64 {
    u64::try_from(message.token_count)
        .ok()
        .filter(|count| is_believable(*count, &message.content))
        .unwrap_or_else(|| estimate(&message.content))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(max_messages: usize, max_tokens: u64) -> Window {
        Window {
            max_messages,
            max_tokens,
        }
    }

    fn said(role: Role, content: &str, token_count: i64) -> Message {
        Message::new(role, content.into(), 0, token_count)
    }

    /// Returns `count` turns whose messages have `tokens` tokens each, and at least as many bytes.
    fn turns(count: usize, tokens: usize) -> Vec<Message> {
        let long = |text: String| format!("{text:.<tokens$}");
        let counted = i64::try_from(tokens).expect("small");
        (0..count)
            .flat_map(|n| {
                [
                    said(Role::User, &long(format!("q{n}")), counted),
                    said(Role::Assistant, &long(format!("a{n}")), counted),
                ]
            })
            .collect()
    }

    fn contents(context: &Context) -> Vec<&str> {
        context
            .messages
            .iter()
            .map(|message| message.content.as_str())
            .collect()
    }

    #[test]
    fn system_prompt_then_turns_oldest_first_then_the_new_message() {
        let context = fit("s", turns(2, 1), "new", limits(50, 1_000)).expect("fits");
        assert_eq!(contents(&context), ["s", "q0", "a0", "q1", "a1", "new"]);
        assert_eq!(context.history_messages, 4);
    }

    #[test]
    fn the_message_limit_keeps_whole_turns() {
        let context = fit("s", turns(3, 1), "new", limits(3, 1_000)).expect("fits");
        assert_eq!(contents(&context), ["s", "q2", "a2", "new"]);
        let context = fit("s", turns(3, 1), "new", limits(0, 1_000)).expect("fits");
        assert_eq!(context.history_messages, 0);
    }

    #[test]
    fn the_token_limit_counts_everything() {
        // The format adds 10 tokens for the system prompt, the new message and the reply. A turn has 2 × (6 + 4) =
        // 20.
        for (max_tokens, kept) in [(30, 2), (29, 0), (50, 4), (49, 2)] {
            let context = fit("", turns(2, 6), "", limits(50, max_tokens)).expect("fits");
            assert_eq!(context.history_messages, kept, "{max_tokens}");
        }
        // The prompt's 15 tokens push the older turn out.
        let context = fit("一二三四五六七八九十", turns(2, 6), "", limits(50, 50)).expect("fits");
        assert_eq!(context.history_messages, 2);
    }

    #[test]
    fn a_turn_larger_than_the_budget_is_left_out_and_ends_the_choice() {
        let mut history = turns(1, 1);
        let big = "字".repeat(1_000);
        history.push(said(Role::User, &big, 1_500));
        history.push(said(Role::Assistant, &big, 1_500));
        history.extend(turns(1, 1));
        let context = fit("s", history, "new", limits(50, 1_000)).expect("fits");
        assert_eq!(contents(&context), ["s", "q0", "a0", "new"]);
        assert!(!context.has_room);
    }

    #[test]
    fn a_turn_with_a_blank_message_is_passed_over() {
        for (question, reply) in [("q", "\n\n"), ("\u{200B}", "a"), ("q", "")] {
            let mut history = turns(1, 1);
            history.push(said(Role::User, question, 1));
            history.push(said(Role::Assistant, reply, 1));
            history.extend(turns(1, 1));
            let context = fit("s", history, "new", limits(50, 1_000)).expect("fits");
            assert_eq!(contents(&context), ["s", "q0", "a0", "q0", "a0", "new"]);
        }
    }

    #[test]
    fn there_is_room_until_a_limit_is_reached() {
        for (history, max_messages, max_tokens, has_room) in [
            (turns(0, 1), 50, 1_000, true),
            (turns(24, 1), 50, 1_000, true),
            (turns(25, 1), 50, 1_000, false),
            (turns(25, 1), 51, 1_000, false),
            (turns(26, 1), 50, 1_000, false),
            (turns(2, 6), 50, 50, true),
            (turns(2, 6), 50, 49, false),
            (turns(0, 1), 0, 1_000, false),
        ] {
            let context = fit("", history, "", limits(max_messages, max_tokens)).expect("fits");
            assert_eq!(context.has_room, has_room, "{max_messages}, {max_tokens}");
        }
        let notes = vec![said(Role::System, "note", 1); 50];
        let context = fit("", notes, "", limits(50, 1_000)).expect("fits");
        assert!(context.has_room);
    }

    #[test]
    fn a_list_that_begins_with_a_reply_loses_it() {
        let mut history = vec![
            said(Role::Assistant, "orphan", 1),
            said(Role::System, "note", 1),
        ];
        history.extend(turns(1, 1));
        let context = fit("s", history, "new", limits(50, 1_000)).expect("fits");
        assert_eq!(contents(&context), ["s", "q0", "a0", "new"]);
    }

    #[test]
    fn a_question_that_was_never_answered_is_left_out() {
        let mut history = turns(1, 1);
        history.push(said(Role::User, "unanswered", 1));
        let context = fit("s", history, "new", limits(50, 1_000)).expect("fits");
        assert_eq!(contents(&context), ["s", "q0", "a0", "new"]);
    }

    #[test]
    fn half_turns_in_the_middle_are_passed_over() {
        let mut history = turns(1, 1);
        history.push(said(Role::Assistant, "orphan", 1));
        history.push(said(Role::System, "note", 1));
        history.push(said(Role::User, "unanswered", 1));
        history.push(said(Role::User, "q1", 1));
        history.push(said(Role::Assistant, "a1", 1));
        let context = fit("s", history, "new", limits(50, 1_000)).expect("fits");
        assert_eq!(contents(&context), ["s", "q0", "a0", "q1", "a1", "new"]);
    }

    #[test]
    fn counts_that_make_no_sense_are_estimated() {
        for count in [0, -1, i64::MIN, 9, 301, 21_000, i64::MAX] {
            let history = vec![
                said(Role::User, &"字".repeat(100), count),
                said(Role::Assistant, "b", count),
            ];
            let context = fit("", history.clone(), "", limits(50, 10 + 150 + 8)).expect("fits");
            assert_eq!(context.history_messages, 2);
            let context = fit("", history, "", limits(50, 10 + 150 + 7)).expect("fits");
            assert_eq!(context.history_messages, 0);
        }
    }

    #[test]
    fn two_million_tokens_of_history_break_nothing() {
        let context = fit("s", turns(25, 40_000), "new", limits(50, 20_000)).expect("fits");
        assert_eq!(context.history_messages, 0);
    }

    #[test]
    fn one_impossible_count_neither_empties_the_history_nor_lifts_the_limit() {
        let mut history = turns(3, 2);
        history[3].token_count = 21_000;
        history[4].token_count = i64::MAX;
        let context = fit("s", history, "new", limits(50, 1_000)).expect("fits");
        assert_eq!(context.history_messages, 6);

        let long = "字".repeat(6_000);
        for count in [0, 1, -1] {
            let history: Vec<Message> = (0..10)
                .flat_map(|_| {
                    [
                        said(Role::User, "q", 1),
                        said(Role::Assistant, &long, count),
                    ]
                })
                .collect();
            let context = fit("s", history, "new", limits(50, 20_000)).expect("fits");
            assert_eq!(context.history_messages, 4, "{count}");
        }
    }

    #[test]
    fn the_limit_holds_for_every_script() {
        for script in ["한", "か", "ж", "ก", "ع", "ह", "Ａ", "🙂", "ა", "𠀀"] {
            let text = script.repeat(2_000);
            let history: Vec<Message> = (0..25)
                .flat_map(|_| [said(Role::User, &text, 0), said(Role::Assistant, &text, 0)])
                .collect();
            let context = fit("s", history, "new", limits(50, 20_000)).expect("fits");
            // At half a token per character, the lowest figure here, 20 messages fit.
            assert!(
                context.history_messages <= 20,
                "{script}: {}",
                context.history_messages
            );
        }
    }

    #[test]
    fn a_message_that_cannot_fit_is_refused() {
        assert_eq!(
            fit("s", vec![], &"字".repeat(100), limits(50, 100)),
            Err(TooLong::Message)
        );
    }

    #[test]
    fn a_prompt_that_leaves_no_room_for_any_message_is_what_is_blamed() {
        let prompt = "字".repeat(100);
        for (max_tokens, expected) in [
            (1, Err(TooLong::Character { prompt_tokens: 150 })),
            (160, Err(TooLong::Character { prompt_tokens: 150 })),
            (161, Ok(())),
        ] {
            let fitted = fit(&prompt, vec![], "a", limits(50, max_tokens)).map(|_| ());
            assert_eq!(fitted, expected, "{max_tokens}");
        }
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let role =
            prop_oneof![3 => Just(Role::User), 3 => Just(Role::Assistant), 1 => Just(Role::System)];
        let count = prop_oneof![-10_i64..200, Just(i64::MAX), Just(i64::MIN)];
        (role, "[a字 ]{0,40}", count).prop_map(|(role, content, count)| said(role, &content, count))
    }

    proptest! {
        #[test]
        fn no_context_exceeds_its_limits_and_every_one_is_well_formed(
            history in proptest::collection::vec(any_message(), 0..60),
            system in "[a字]{0,30}",
            message in "[a字]{1,30}",
            max_messages in 0_usize..60,
            max_tokens in 1_u64..2_000,
        ) {
            let Ok(context) = fit(&system, history.clone(), &message, limits(max_messages, max_tokens)) else {
                prop_assert!(estimate(&system) + estimate(&message).max(1) + 10 > max_tokens);
                return Ok(());
            };
            let (first, rest) = context.messages.split_first().expect("a system prompt");
            let (last, kept) = rest.split_last().expect("a new message");
            prop_assert_eq!((first.role, first.content.as_str()), (Role::System, system.as_str()));
            prop_assert_eq!((last.role, last.content.as_str()), (Role::User, message.as_str()));
            prop_assert_eq!(kept.len(), context.history_messages);
            prop_assert!(kept.len() <= max_messages);
            for turn in kept.chunks(2) {
                prop_assert_eq!(turn.iter().map(|message| message.role).collect::<Vec<_>>(), [Role::User, Role::Assistant]);
            }
            // Every kept turn is in the history, in this order, and together they are within the limit.
            let mut said = history.windows(2).filter(|pair| pair[0].role == Role::User && pair[1].role == Role::Assistant);
            let mut tokens = estimate(&system) + estimate(&message) + 10;
            for turn in kept.chunks(2) {
                let found = said.find(|pair| pair[0].content == turn[0].content && pair[1].content == turn[1].content);
                prop_assert!(found.is_some());
            }
            let newest: Vec<_> = history
                .windows(2)
                .filter(|pair| pair[0].role == Role::User && pair[1].role == Role::Assistant)
                .filter(|pair| !pair.iter().any(|message| is_blank(&message.content)))
                .collect();
            for pair in newest.iter().rev().take(kept.len() / 2) {
                tokens += tokens_of(&pair[0]) + tokens_of(&pair[1]) + 2 * PER_MESSAGE;
            }
            prop_assert!(tokens <= max_tokens);
        }
    }
}
