//! The context window: selects the part of a conversation's history that fits beside a new message. Pure functions.
//!
//! Token counts are the stored ones, where they are plausible for the text, or estimates. Nothing is counted exactly
//! here, because this runs before the first byte of the response.

mod history;
mod layout;

use std::borrow::Cow;

use self::history::choose;
use self::layout::laid_out;
use crate::message::{Message, PromptMessage, Role};
use crate::tokens::{PER_MESSAGE, PER_REPLY, estimate};

/// The part of the window that is kept free for what a turn brings along: its message and its lore. An eighth.
const RESERVED_PART: u64 = 8;

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
    pub greeting: Option<&'a str>,
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
    let mut room = Room::new(&frame, estimate(message), window.max_tokens)?;
    let chosen = choose(&frame, past, window.max_messages, room.for_history);
    room.keep_examples(&frame.texts, chosen.left);

    let texts = frame.texts.into_iter().zip(room.kept);
    let texts = texts.filter_map(|(text, kept)| kept.then_some(text));
    let texts: Vec<Text<'_>> = texts.collect();
    let (messages, behind_new) = laid_out(&texts, chosen.conversation, message);
    Ok(Context {
        messages,
        history_messages: chosen.history_messages,
        behind_new,
        has_room: chosen.has_room,
    })
}

/// Which texts of a frame a prompt has, and how many tokens that leaves for the rest of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// For each text, whether the prompt has it. Examples are decided by [`Room::keep_examples`].
    pub kept: Vec<bool>,
    /// Tokens for all texts of the turn.
    pub for_turn: u64,
    /// Tokens for the history, and for the examples beside it.
    pub for_history: u64,
}

impl Room {
    /// Decides about the texts of a frame beside a new message of `message_tokens`.
    ///
    /// # Errors
    /// [`TooLong`] if the message does not fit beside the texts that are never left out.
    pub fn new(frame: &Frame<'_>, message_tokens: u64, max_tokens: u64) -> Result<Self, TooLong> {
        let texts = &frame.texts;
        let always = texts.iter().filter(|text| text.keep == Keep::Always);
        let prompt_tokens = always.map(cost).fold(0, u64::saturating_add);
        let beside_always = max_tokens
            .checked_sub(prompt_tokens.saturating_add(2 * PER_MESSAGE + PER_REPLY))
            // A message has at least one token.
            .filter(|left| *left > 0)
            .ok_or(TooLong::Character { prompt_tokens })?;
        if message_tokens > beside_always {
            return Err(TooLong::Message);
        }
        // What a turn brings along takes this room in every turn, or more if it needs more, so that the beginning of the
        // prompt does not depend on it.
        let reserve = match frame.in_blocks {
            true => (max_tokens / RESERVED_PART).min(beside_always / 2),
            false => 0,
        };
        let reserved = message_tokens.max(reserve);
        let mut kept = vec![true; texts.len()];
        let mut beside_turn = beside_always - reserved;
        keep_within(&mut beside_turn, texts, &mut kept, |keep| {
            matches!(keep, Keep::Fixed(_))
        });
        let for_turn = beside_turn + reserved - message_tokens;
        let mut left = for_turn;
        keep_within(&mut left, texts, &mut kept, |keep| {
            matches!(keep, Keep::Turn(_))
        });
        Ok(Self {
            kept,
            for_turn,
            for_history: beside_turn.min(left),
        })
    }

    /// Decides about the examples, which have these tokens.
    pub fn keep_examples(&mut self, texts: &[Text<'_>], mut tokens: u64) {
        keep_within(&mut tokens, texts, &mut self.kept, |keep| {
            keep == Keep::Example
        });
    }
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

/// Returns the tokens that a text adds to a prompt that has a first and a new message already.
#[must_use]
pub fn cost(text: &Text<'_>) -> u64 {
    let around = match (text.place, text.keep) {
        (Place::First, Keep::Always) => 0,
        // The empty line, and what is lost by rounding each text and not their sum.
        (Place::First, Keep::Fixed(_) | Keep::Turn(_) | Keep::Example) => 2,
        (Place::Behind | Place::Within(..) | Place::Last, _) => PER_MESSAGE,
    };
    estimate(&text.text).saturating_add(around)
}

#[cfg(test)]
mod tests;
