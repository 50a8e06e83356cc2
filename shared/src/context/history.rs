//! Chooses the part of the history that a prompt has: the newest whole turns, and of a card's history whole blocks of them.

use super::{Frame, Past};
use crate::message::{Message, PromptMessage, Role, is_blank};
use crate::tokens::{PER_MESSAGE, estimate, is_believable};

/// Turns that a block leaves, however long they are, and turns of which it need not leave more.
const FEW_TURNS: usize = 3;
const MANY_TURNS: usize = 8;

/// The part of the history that is in a prompt.
pub(super) struct Chosen {
    /// The messages, oldest first.
    pub(super) conversation: Vec<PromptMessage>,
    pub(super) history_messages: usize,
    /// Tokens that are left beside the turns that fit, including those that are left out because a block of them is; none if
    /// a turn did not fit because of its tokens.
    pub(super) left: u64,
    pub(super) has_room: bool,
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
pub(super) fn choose(frame: &Frame<'_>, past: Past, max_messages: usize, budget: u64) -> Chosen {
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
    let mut conversation: Vec<PromptMessage> = Vec::with_capacity(count + 1);
    conversation.extend(greeting.map(PromptMessage::from));
    for turn in turns {
        conversation.extend([turn.reply.into(), turn.question.into()]);
        conversation.extend(turn.greeting.map(PromptMessage::from));
    }
    let history_messages = conversation.len();
    if history_messages == 0
        && let Some(text) = frame.greeting
    {
        tokens = estimate(text).saturating_add(PER_MESSAGE);
        if tokens <= budget {
            conversation.push(PromptMessage::new(Role::Assistant, text));
        }
    }
    conversation.reverse();
    Chosen {
        conversation,
        history_messages,
        left: match is_full {
            true => 0,
            false => budget.saturating_sub(tokens),
        },
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

/// Returns the stored token count of a message, or an estimate if the stored count is not plausible for the text.
pub(super) fn tokens_of(message: &Message) -> u64 {
    u64::try_from(message.token_count)
        .ok()
        .filter(|count| is_believable(*count, &message.content))
        .unwrap_or_else(|| estimate(&message.content))
}
