//! The context window: selects the part of a conversation's history that fits beside a new message. Pure functions.
//!
//! Token counts are the stored ones, where they are plausible for the text, or estimates. Nothing is counted exactly
//! here, because this runs before the first byte of the response.

use std::borrow::Cow;

use crate::message::{Message, PromptMessage, Role, is_blank};
use crate::tokens::{PER_MESSAGE, PER_REPLY, estimate, is_believable};

/// What stands between two texts of the same message.
const BETWEEN: &str = "\n\n";
/// The part of the window that is kept free for what a turn brings along: its message and its lore. An eighth.
const RESERVED_PART: u64 = 8;
/// Turns that a block leaves, however long they are, and turns of which it need not leave more.
const FEW_TURNS: usize = 3;
const MANY_TURNS: usize = 8;

/// The size of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Limit of messages from the history.
    pub max_messages: usize,
    /// Limit of tokens in total: instructions, history, new message, and the overhead of the chat format.
    pub max_tokens: u64,
}

/// A text of the instructions, which stand around the conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text<'a> {
    /// The text.
    pub text: Cow<'a, str>,
    /// Where it stands. Texts of the same message stand in the order in which they are given.
    pub place: Place,
    /// Whether it may be left out.
    pub keep: Keep,
}

/// Where a text of the instructions stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the system message that begins the prompt.
    First,
    /// In the system message between the history and the new message. What changes from turn to turn belongs there, so
    /// that consecutive prompts begin alike and a provider's cache of prompts is of use.
    Behind,
    /// In a message of its own, this number of messages before the end of the conversation; 0 is behind the new message.
    Within(usize, Role),
    /// In a system message of its own, at the very end.
    Last,
}

/// Whether a text may be left out. Lower ones are kept longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// The prompt is refused if the text does not fit.
    Always,
    /// The text is the same in every turn, and is left out of all of them if it does not fit beside such texts with lower
    /// numbers. The history is left out for it.
    Fixed(usize),
    /// The text is of this turn, and is left out if it does not fit beside the fixed ones and those with lower numbers.
    /// The history is left out for it.
    Turn(usize),
    /// The text is the same in every turn, and is left out if it does not fit beside the history.
    Example,
}

/// What surrounds the history in a prompt.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The instructions.
    pub texts: Vec<Text<'a>>,
    /// What the character said before the first message of the user, if the history does not have it.
    pub greeting: Option<String>,
    /// Whether older turns are left out several at a time, so that the prompts of the turns in between begin alike.
    pub in_blocks: bool,
}

impl<'a> Frame<'a> {
    /// Returns the frame of a character that has a system prompt and nothing else.
    #[must_use]
    pub fn plain(system_prompt: &'a str) -> Self {
        Self {
            texts: vec![Text {
                text: Cow::Borrowed(system_prompt),
                place: Place::First,
                keep: Keep::Always,
            }],
            ..Self::default()
        }
    }
}

/// What was said before the new message.
#[derive(Debug, Default)]
pub struct Past {
    /// The newest messages, oldest first.
    pub messages: Vec<Message>,
    /// The number of messages of the session that came before these.
    pub older: u64,
}

/// The messages of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The system prompt, then whole turns oldest first, then the new message, with the other instructions at their places.
    pub messages: Vec<PromptMessage>,
    /// Number of messages that come from the history.
    pub history_messages: usize,
    /// Number of messages behind the new message of the user.
    pub behind_new: usize,
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
/// A whole turn is a user's message and the reply directly behind it, and the greeting directly before it. Unpaired
/// messages, messages written by other services, and turns with a blank message are skipped, because some endpoints reject
/// a conversation whose roles do not alternate, or a blank message. The selection ends at the first turn that does not fit:
/// with that turn left out and an older one kept, the model would answer a conversation that never happened.
///
/// # Errors
/// [`TooLong`] if not even the new message fits. It names the text that is too long.
pub fn fit(
    frame: Frame<'_>,
    past: Past,
    message: &str,
    window: Window,
) -> Result<Context, TooLong> {
    let of_turn = estimate(message);
    let beside_always = beside(&frame.texts, message, window.max_tokens)? + of_turn;
    // What a turn brings along takes this room in every turn, or more if it needs more, so that the beginning of the
    // prompt does not depend on it.
    let reserve = match frame.in_blocks {
        true => (window.max_tokens / RESERVED_PART).min(beside_always / 2),
        false => 0,
    };
    let reserved = of_turn.max(reserve);
    let mut kept = vec![true; frame.texts.len()];
    let mut beside_turn = beside_always - reserved;
    keep_within(&mut beside_turn, &frame.texts, &mut kept, |keep| {
        matches!(keep, Keep::Fixed(_))
    });
    let mut for_turn = beside_turn + reserved - of_turn;
    keep_within(&mut for_turn, &frame.texts, &mut kept, |keep| {
        matches!(keep, Keep::Turn(_))
    });
    let for_history = beside_turn.min(for_turn);
    let chosen = choose(&frame, past, window.max_messages, for_history);
    let mut for_examples = match chosen.is_full {
        true => 0,
        false => for_history.saturating_sub(chosen.fitting_tokens),
    };
    keep_within(&mut for_examples, &frame.texts, &mut kept, |keep| {
        keep == Keep::Example
    });

    let texts = frame.texts.into_iter().zip(kept);
    let texts = texts.filter_map(|(text, kept)| kept.then_some(text));
    let (messages, behind_new) = laid_out(texts.collect(), chosen.conversation, message);
    Ok(Context {
        messages,
        history_messages: chosen.history_messages,
        behind_new,
        has_room: chosen.has_room,
    })
}

/// Returns which of the texts are in the prompt of a session without a history, in which the new message is short.
///
/// # Errors
/// [`TooLong::Character`] if not even the texts fit that are never left out.
pub fn fitting(texts: &[Text<'_>], window: Window) -> Result<Vec<bool>, TooLong> {
    let mut left = beside(texts, "", window.max_tokens)?;
    let mut kept = vec![true; texts.len()];
    for is_meant in [
        |keep| matches!(keep, Keep::Fixed(_)),
        |keep| matches!(keep, Keep::Turn(_)),
        |keep| keep == Keep::Example,
    ] {
        keep_within(&mut left, texts, &mut kept, is_meant);
    }
    Ok(kept)
}

/// Keeps the meant texts that fit, in the order of [`Keep`], and takes their tokens from those that are left.
fn keep_within(
    left: &mut u64,
    texts: &[Text<'_>],
    kept: &mut [bool],
    is_meant: impl Fn(Keep) -> bool,
) {
    let mut meant: Vec<_> = texts.iter().zip(kept).collect();
    meant.retain(|(text, _)| is_meant(text.keep));
    meant.sort_by_key(|(text, _)| text.keep);
    for (text, kept) in meant {
        let fits = left.checked_sub(cost(text));
        *kept = fits.is_some();
        *left = fits.unwrap_or(*left);
    }
}

/// Returns the tokens that remain beside the texts that are never left out, and the new message.
fn beside(texts: &[Text<'_>], message: &str, max_tokens: u64) -> Result<u64, TooLong> {
    let always = texts.iter().filter(|text| text.keep == Keep::Always);
    let prompt_tokens = always.map(cost).fold(0, u64::saturating_add);
    let beside_prompt = max_tokens
        .checked_sub(prompt_tokens.saturating_add(2 * PER_MESSAGE + PER_REPLY))
        // A message has at least one token.
        .filter(|left| *left > 0)
        .ok_or(TooLong::Character { prompt_tokens })?;
    beside_prompt
        .checked_sub(estimate(message))
        .ok_or(TooLong::Message)
}

/// Returns the tokens that a text adds to a prompt that has a first and a new message already.
#[must_use]
pub fn cost(text: &Text<'_>) -> u64 {
    let around = match (text.place, text.keep) {
        (Place::First, Keep::Always) => 0,
        // The empty line.
        (Place::First, Keep::Fixed(_) | Keep::Turn(_) | Keep::Example) => 1,
        (Place::Behind | Place::Within(..) | Place::Last, _) => PER_MESSAGE,
    };
    estimate(&text.text).saturating_add(around)
}

/// The part of the history that is in a prompt.
struct Chosen {
    /// The messages, oldest first.
    conversation: Vec<PromptMessage>,
    history_messages: usize,
    /// Tokens of the turns that fit, including those that are left out because a block of them is.
    fitting_tokens: u64,
    /// Whether a turn did not fit because of its tokens.
    is_full: bool,
    has_room: bool,
}

/// A turn of the history that fits.
struct Fitting {
    reply: Message,
    question: Message,
    /// The greeting before it.
    greeting: Option<Message>,
    /// Its number in the session, from 0.
    number: u64,
}

/// Returns the newest whole turns of the history that fit, oldest first.
fn choose(frame: &Frame<'_>, past: Past, max_messages: usize, budget: u64) -> Chosen {
    let mut turns: Vec<Fitting> = Vec::with_capacity(past.messages.len() / 2);
    let (mut count, mut tokens, mut is_full, mut is_cut) = (0, 0_u64, false, false);
    let with = |tokens: u64, message: &Message| {
        let message = tokens_of(message).saturating_add(PER_MESSAGE);
        tokens.saturating_add(message)
    };
    let mut newest_first = past.messages.into_iter().enumerate().rev().peekable();
    // A turn that takes the place of the first one has its greeting.
    let mut greeting = newest_first
        .next_if(|(_, message)| message.is_greeting())
        .map(|(_, message)| message);
    if let Some(stored) = &greeting {
        tokens = with(tokens, stored);
    }
    while let Some((_, reply)) = newest_first.next() {
        let asked = |(_, message): &(usize, Message)| {
            reply.role == Role::Assistant && message.role == Role::User
        };
        let Some((place, question)) = newest_first.next_if(asked) else {
            continue;
        };
        if is_blank(&question.content) || is_blank(&reply.content) {
            continue;
        }
        let greeting = newest_first.next_if(|(_, message)| message.is_greeting());
        let greeting = greeting.map(|(_, message)| message);
        let with_turn = [&reply, &question]
            .into_iter()
            .chain(&greeting)
            .fold(tokens, with);
        let with_messages = count + 2 + usize::from(greeting.is_some());
        is_full = with_turn > budget;
        if is_full || with_messages > max_messages {
            is_cut = true;
            break;
        }
        (tokens, count) = (with_turn, with_messages);
        turns.push(Fitting {
            reply,
            question,
            greeting,
            number: past
                .older
                .saturating_add(u64::try_from(place).unwrap_or(u64::MAX))
                / 2,
        });
    }
    let has_room = !is_cut && count + 2 <= max_messages;
    if frame.in_blocks && (is_cut || past.older > 0) {
        turns.truncate(in_block(&turns));
    }
    if tokens > budget {
        greeting = None;
    }
    let unstored = frame.greeting.as_ref().filter(|greeting| {
        turns.is_empty() && estimate(greeting).saturating_add(PER_MESSAGE) <= budget
    });
    let mut conversation: Vec<PromptMessage> = Vec::with_capacity(count + 1);
    conversation.extend(greeting.map(PromptMessage::from));
    for turn in turns {
        conversation.extend([turn.reply.into(), turn.question.into()]);
        conversation.extend(turn.greeting.map(PromptMessage::from));
    }
    let history_messages = conversation.len();
    if history_messages == 0 {
        conversation
            .extend(unstored.map(|text| PromptMessage::new(Role::Assistant, text.as_str())));
    }
    conversation.reverse();
    Chosen {
        conversation,
        history_messages,
        fitting_tokens: tokens,
        is_full,
        has_room,
    }
}

/// Returns how many of the turns that fit are sent, so that several prompts in a row begin with the same turn. The turns
/// are given newest first.
///
/// Of the turns at which a prompt may begin, that one is taken whose number can be halved most often. As the session grows,
/// the turns that may begin a prompt move on, and it stays the best of them for long. A prompt may begin at any turn that
/// leaves half of those that fit, but [`MANY_TURNS`] are enough and [`FEW_TURNS`] stay.
fn in_block(turns: &[Fitting]) -> usize {
    let least = turns.len().div_ceil(2).clamp(FEW_TURNS, MANY_TURNS);
    let candidates = turns.iter().enumerate().skip(least - 1);
    candidates
        .max_by_key(|(_, turn)| turn.number.trailing_zeros())
        .map_or(turns.len(), |(at, _)| at + 1)
}

/// Returns the messages of a prompt in their order, and how many stand behind the new one.
fn laid_out(
    texts: Vec<Text<'_>>,
    conversation: Vec<PromptMessage>,
    message: &str,
) -> (Vec<PromptMessage>, usize) {
    let mut messages = Vec::with_capacity(conversation.len() + texts.len() + 2);
    if texts.iter().any(|text| text.place == Place::First) {
        messages.push(PromptMessage::new(
            Role::System,
            joined(&texts, Place::First),
        ));
    }
    let begins = messages.len();
    messages.extend(conversation);
    messages.push(PromptMessage::new(Role::User, message));
    let length = messages.len();
    let behind = joined(&texts, Place::Behind);
    let behind = (!behind.is_empty()).then(|| (1, PromptMessage::new(Role::System, behind)));
    let within = texts.iter().filter_map(|text| match text.place {
        Place::Within(from_end, role) => {
            Some((from_end, PromptMessage::new(role, text.text.as_ref())))
        }
        Place::First | Place::Behind | Place::Last => None,
    });
    let mut inserted: Vec<(usize, PromptMessage)> = behind.into_iter().chain(within).collect();
    // What stands nearest to the end is inserted first, so that the other places do not change.
    inserted.sort_by_key(|(from_end, _)| *from_end);
    for group in inserted.chunk_by(|(one, _), (other, _)| one == other) {
        let from_end = group.first().map_or(0, |(from_end, _)| *from_end);
        let at = length.saturating_sub(from_end).max(begins);
        messages.splice(at..at, group.iter().map(|(_, message)| message.clone()));
    }
    let last = joined(&texts, Place::Last);
    let last_is_empty = last.is_empty();
    if !last_is_empty {
        messages.push(PromptMessage::new(Role::System, last));
    }
    let is_behind = |text: &&Text<'_>| matches!(text.place, Place::Within(0, _));
    let behind_new = texts.iter().filter(is_behind).count() + usize::from(!last_is_empty);
    (messages, behind_new)
}

/// Returns the texts of one place as one text.
fn joined(texts: &[Text<'_>], place: Place) -> String {
    let mut joined = String::new();
    for text in texts.iter().filter(|text| text.place == place) {
        if !joined.is_empty() {
            joined.push_str(BETWEEN);
        }
        joined.push_str(&text.text);
    }
    joined
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

    /// Fits a message beside a plain system prompt.
    fn fit(
        system_prompt: &str,
        messages: Vec<Message>,
        message: &str,
        window: Window,
    ) -> Result<Context, TooLong> {
        let past = Past {
            messages,
            ..Past::default()
        };
        super::fit(Frame::plain(system_prompt), past, message, window)
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

    /// Whole turns of a session, of which the newest are known, and how many there were before them.
    fn session(turns_before: usize, known: usize) -> Past {
        let of_turn = |n: usize| {
            [
                said(Role::User, &format!("q{n}"), 1),
                said(Role::Assistant, &format!("a{n}"), 1),
            ]
        };
        let total = turns_before + known;
        Past {
            messages: (turns_before..total).flat_map(of_turn).collect(),
            older: u64::try_from(2 * turns_before).expect("few"),
        }
    }

    fn in_blocks() -> Frame<'static> {
        Frame {
            in_blocks: true,
            ..Frame::plain("s")
        }
    }

    /// Returns the first messages of the history in the prompts of a session, each once.
    fn beginnings(turns: usize, past: impl Fn(usize) -> Past, window: Window) -> Vec<String> {
        let mut beginnings = Vec::new();
        for total in 1..=turns {
            let context = super::fit(in_blocks(), past(total), "new", window).expect("fits");
            beginnings.push(contents(&context)[1].to_owned());
        }
        beginnings.dedup();
        beginnings
    }

    #[test]
    fn history_is_left_out_in_blocks() {
        let newest = |total: usize| session(total - total.min(25), total.min(25));
        let found = beginnings(60, newest, limits(50, 1_000));
        assert_eq!(found, ["q0", "q16", "q32", "q48"]);
        for total in 1..=60 {
            let context = super::fit(in_blocks(), newest(total), "new", limits(50, 1_000));
            let turns = context.expect("fits").history_messages / 2;
            assert!((total.min(8)..=25).contains(&turns), "{total}: {turns}");
        }
    }

    /// Turns of many sizes, of which some ten fit: the prompt begins with another one about every fourth turn, and never
    /// with an earlier one.
    #[test]
    fn blocks_of_turns_of_any_size_move_on_only() {
        let sizes = [30, 120, 60, 10, 200, 45, 80, 150, 20, 90];
        let history = |total: usize| Past {
            messages: (0..total)
                .flat_map(|n| {
                    let long = |text: String| format!("{text:.<220}");
                    let tokens = sizes[n * 7 % sizes.len()];
                    [
                        said(Role::User, &long(format!("q{n:02}")), tokens),
                        said(Role::Assistant, &long(format!("a{n:02}")), 20),
                    ]
                })
                .collect(),
            older: 0,
        };
        let found = beginnings(60, history, limits(200, 1_500));
        assert!(found.is_sorted(), "{found:?}");
        assert!(found.len() <= 15, "{found:?}");
    }

    #[test]
    fn a_session_that_fits_is_sent_whole() {
        let context = super::fit(in_blocks(), session(0, 3), "new", limits(50, 1_000));
        assert_eq!(context.expect("fits").history_messages, 6);
    }

    #[test]
    fn the_beginning_does_not_depend_on_the_lore_of_the_turn() {
        let text = |text: String, place, keep| Text {
            text: Cow::Owned(text),
            place,
            keep,
        };
        let prompt = |lore: usize, message: &str| {
            let mut frame = in_blocks();
            frame
                .texts
                .push(text("e".repeat(400), Place::First, Keep::Example));
            frame
                .texts
                .push(text("l".repeat(lore), Place::Behind, Keep::Turn(0)));
            let window = limits(50, 800);
            super::fit(frame, session(0, 20), message, window).expect("fits")
        };
        let first = prompt(1, "a");
        for (lore, message) in [(150, "a"), (1, &*"m".repeat(150)), (100, "bbbbbbbbbb")] {
            let other = prompt(lore, message);
            assert_eq!(other.messages[..20], first.messages[..20], "{lore}");
        }
    }

    #[test]
    fn a_greeting_goes_with_the_first_turn() {
        let greeting = || Message::greeting(0, "hello".into(), 0, 1);
        for (max_messages, expected) in [
            (5, ["hello", "q0", "a0", "q1", "a1", "new"].as_slice()),
            (4, &["q1", "a1", "new"]),
        ] {
            let mut past = session(0, 2);
            past.messages.insert(0, greeting());
            let context = super::fit(Frame::plain("s"), past, "new", limits(max_messages, 1_000));
            assert_eq!(contents(&context.expect("fits"))[1..], *expected);
        }
        let alone = Past {
            messages: vec![greeting()],
            ..Past::default()
        };
        let context = super::fit(Frame::plain("s"), alone, "new", limits(5, 1_000)).expect("fits");
        assert_eq!(contents(&context), ["s", "hello", "new"]);
        assert_eq!(context.history_messages, 1);
    }

    fn any_text() -> impl Strategy<Value = Text<'static>> {
        let role = prop_oneof![Just(Role::System), Just(Role::User), Just(Role::Assistant)];
        let place = prop_oneof![
            Just(Place::First),
            Just(Place::Behind),
            (0_usize..9, role).prop_map(|(from_end, role)| Place::Within(from_end, role)),
            Just(Place::Last),
        ];
        let keep = prop_oneof![
            (0_usize..5).prop_map(Keep::Fixed),
            (0_usize..5).prop_map(Keep::Turn),
            Just(Keep::Example)
        ];
        ("[a字]{1,60}", place, keep).prop_map(|(text, place, keep)| Text {
            text: Cow::Owned(text),
            place,
            keep,
        })
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let role =
            prop_oneof![3 => Just(Role::User), 3 => Just(Role::Assistant), 1 => Just(Role::System)];
        let count = prop_oneof![-10_i64..200, Just(i64::MAX), Just(i64::MIN)];
        (role, "[a字 ]{0,40}", count).prop_map(|(role, content, count)| said(role, &content, count))
    }

    proptest! {
        #[test]
        fn no_prompt_of_a_card_exceeds_its_limits(
            more in proptest::collection::vec(any_text(), 0..9),
            known in 0_usize..30,
            turns_before in 0_usize..40,
            greeting in proptest::option::of("[a字]{1,40}"),
            max_messages in 0_usize..60,
            max_tokens in 12_u64..900,
        ) {
            let mut frame = Frame { greeting, in_blocks: true, ..Frame::plain("s") };
            frame.texts.extend(more);
            let past = session(turns_before, known);
            let context = super::fit(frame, past, "new", limits(max_messages, max_tokens)).expect("fits");
            prop_assert!(context.history_messages <= max_messages);
            let tokens: u64 = context.messages.iter().map(|message| estimate(&message.content) + PER_MESSAGE).sum();
            prop_assert!(tokens + PER_REPLY <= max_tokens + 1, "{} {:?}", tokens, context.messages);
            prop_assert_eq!(context.messages[0].role, Role::System);
            prop_assert_eq!(context.messages.iter().filter(|message| message.content == "new").count(), 1);
            // The history is whole turns, oldest first, up to the newest.
            let is_turn = |text: &&str| {
                let number = text.strip_prefix(['q', 'a']).unwrap_or_default();
                !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
            };
            let kept: Vec<&str> = contents(&context).into_iter().filter(is_turn).collect();
            let total = turns_before + known;
            let expected: Vec<String> = (total - kept.len() / 2..total).flat_map(|n| [format!("q{n}"), format!("a{n}")]).collect();
            prop_assert_eq!(kept, expected);
        }

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
