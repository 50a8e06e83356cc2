//! The lorebook of a card: texts that enter a prompt when the conversation mentions their keys.
//!
//! A lorebook is compiled once for a card and shared by its turns. Entries that are always there and depend on nothing
//! stand in the system prompt. What may come and go from turn to turn stands behind the history instead of before it,
//! so that a prompt begins like the one before, and the upstream's prompt cache holds.
//!
//! Where the specification of cards leaves a choice: keys are found as parts of words, without blanks around the key;
//! they are case-insensitive unless the entry says otherwise; and a lorebook without a scan depth looks at
//! [`SCAN_DEPTH`] messages.

mod build;
mod decorators;
mod keys;
mod needles;
mod patterns;
mod turn;

use std::num::NonZeroU64;

use regex::Regex;

use self::needles::Needles;
use self::turn::Turn;
use super::card::Book;
use crate::message::Role;

/// Messages that are scanned if a lorebook does not say how many: the default of RisuAI, whose author wrote the third
/// version of the specification.
pub const SCAN_DEPTH: usize = 5;
/// Limit in bytes of the texts of all entries in a prompt. Beyond it no further entry enters. A card is smaller than
/// that, but not what macros make of it.
const MAX_TEXT_BYTES: usize = 1 << 24;

/// The entries of a card's lorebook, ready to be selected from.
#[derive(Debug)]
pub struct Lore {
    entries: Vec<Entry>,
    /// The indexes of the fixed entries, the most important first.
    fixed: Vec<usize>,
    /// The lists of keys of all entries.
    lists: Vec<List>,
    /// The keys that are found as they are, with the numbers of their lists.
    exact: Needles,
    /// The keys that are found in any case.
    folded: Needles,
    patterns: Vec<Pattern>,
    token_budget: Option<u64>,
    recursive: bool,
    /// The number of newest messages that some entry scans.
    scanned: usize,
    keys_without_effect: usize,
}

/// What is known of a conversation when its next prompt is built.
#[derive(Debug, Clone, Copy)]
pub struct Chat<'a> {
    /// The texts of the messages, the newest first. The first is the new message.
    pub newest_first: &'a [&'a str],
    /// The number of the character's replies in the whole session. A greeting is not counted.
    pub replies: u64,
    /// The greeting that began the session.
    pub greeting: Greeting,
}

/// What is known of the greeting that began a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    /// Nothing. Entries that ask for a greeting are there as if they did not.
    Unknown,
    /// The session began without one.
    Without,
    /// Its number: 0 for the first message of the card, then the alternate ones.
    Number(usize),
}

/// Which sections about the character a prompt has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sections {
    /// Whether there is one about the character's personality.
    pub personality: bool,
    /// Whether there is one about the scenario.
    pub scenario: bool,
}

/// Whether an entry can be in a prompt, and what decides about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It never is, as its author wants: it is disabled, has no text, or has the decorator `@@dont_activate`.
    Off,
    /// It never is, although it is enabled and has a text: it is not constant, and of the keys that it needs none can
    /// be found.
    Unreachable,
    /// It is in every prompt in the same place, unless the token budget is too small for all fixed entries.
    Fixed,
    /// It may be, as the conversation and the token budget decide from turn to turn, or it moves with the history.
    Turn,
}

/// An entry as the lorebook understands it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Described<'a> {
    /// The index of the entry in the lorebook.
    pub index: usize,
    /// Whether it can be in a prompt, and what decides about it.
    pub presence: Presence,
    /// The content without decorators, with macros that are not expanded. Empty for an entry that is never in a prompt.
    pub content: &'a str,
}

/// The entries that are in every prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fixed {
    /// Those that the prompts have, in their order.
    pub kept: Vec<Placed>,
    /// The indexes of those that no prompt has, because they exceed the token budget or the limit of text. The most
    /// important comes first.
    pub removed: Vec<usize>,
}

/// An entry in a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The index of the entry in the lorebook.
    pub entry: usize,
    /// Where the text stands.
    pub place: Place,
    /// Whether it stays longer than others when room is short: the higher, the longer.
    pub priority: i64,
    /// The author that the prompt names for the text, where it is a message of its own.
    pub role: Role,
    /// The text, with its macros expanded. Not blank.
    pub text: String,
}

/// Where an entry stands in a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Before the description of the character.
    BeforeChar,
    /// After the description of the character.
    AfterChar,
    /// In the section about the character's personality.
    Personality,
    /// In the section about the scenario.
    Scenario,
    /// Before so many of the newest messages: 0 is after the newest, and more than there are is before the oldest.
    Depth(usize),
    /// Behind the history, as what may change from turn to turn.
    Behind,
}

/// An entry, as far as the search for keys does not know it.
#[derive(Debug)]
struct Entry {
    /// The content without decorators.
    content: String,
    /// The texts of its hidden keys, a line each.
    hidden: String,
    presence: Presence,
    /// The number of lists of which a key has to be found.
    lists: usize,
    scan_depth: usize,
    only_after: Option<u64>,
    only_every: Option<NonZeroU64>,
    is_greeting: Option<usize>,
    place: Place,
    role: Role,
    order: i64,
    priority: i64,
}

/// A list of keys of an entry. One of them has to be found, or none may be.
#[derive(Debug)]
struct List {
    entry: usize,
    excludes: bool,
}

#[derive(Debug)]
struct Pattern {
    regex: Regex,
    list: u32,
}

impl Lore {
    /// Compiles a lorebook. `char` is the character's name, for which `{{char}}` in a key stands. A decorator that
    /// names a section that is not in `sections` is ignored.
    #[must_use]
    pub fn new(book: &Book, char: &str, sections: Sections) -> Self {
        build::lore(book, char, sections)
    }

    /// Returns the number of entries, whether they are enabled or not.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// Returns the number of keys that can never be found: regular expressions that do not compile, and expressions and
    /// words beyond the limits. Of an entry whose keys are all regular expressions, the first that does not compile
    /// counts, and rules the entry out; its other keys are not looked at.
    #[must_use]
    pub fn keys_without_effect(&self) -> usize {
        self.keys_without_effect
    }

    /// Returns all entries, in the order of the lorebook.
    pub fn described(&self) -> impl Iterator<Item = Described<'_>> {
        let entries = self.entries.iter().enumerate();
        entries.map(|(index, entry)| Described {
            index,
            presence: entry.presence,
            content: &entry.content,
        })
    }

    /// Returns the entries that are in every prompt: constant ones without a condition and without a depth. They take
    /// what they need of the token budget before any other entry does, so that they never come and go. `text` and
    /// `count` are those of [`Self::select`].
    #[must_use]
    pub fn fixed(
        &self,
        text: &dyn Fn(usize, &str) -> String,
        count: &dyn Fn(&str) -> u64,
    ) -> Fixed {
        let (mut kept, _) = self.fixed_by_priority(text, count);
        let removed = self.fixed.get(kept.len()..).unwrap_or_default().to_vec();
        kept.retain(has_text);
        self.sort(&mut kept);
        Fixed { kept, removed }
    }

    /// Returns the entries for the next prompt of a conversation, the fixed ones among them, in their order and within
    /// the token budget. `text` is called with the index of an entry and text of it, and returns the text with its
    /// macros expanded. `count` returns the tokens of a text.
    pub fn select(
        &self,
        chat: &Chat<'_>,
        text: &dyn Fn(usize, &str) -> String,
        count: &dyn Fn(&str) -> u64,
    ) -> Vec<Placed> {
        let (fixed, tokens) = self.fixed_by_priority(text, count);
        let mut chosen = Turn::new(self, chat).chosen(&fixed, text);
        chosen.retain(has_text);
        if let Some(budget) = self.token_budget {
            self.keep_within(budget.saturating_sub(tokens), &mut chosen, count);
        }
        chosen.extend(fixed.into_iter().filter(has_text));
        self.sort(&mut chosen);
        chosen
    }

    /// Returns the fixed entries within the limits, the most important first and the blank ones among them, and the
    /// tokens of them if there is a budget.
    fn fixed_by_priority(
        &self,
        text: &dyn Fn(usize, &str) -> String,
        count: &dyn Fn(&str) -> u64,
    ) -> (Vec<Placed>, u64) {
        let mut kept = Vec::with_capacity(self.fixed.len());
        let (mut tokens, mut bytes): (u64, usize) = (0, 0);
        for index in self.fixed.iter().copied() {
            let Some(entry) = self.entries.get(index) else {
                continue;
            };
            let placed = entry.placed(index, text(index, &entry.content));
            bytes = bytes.saturating_add(placed.text.len());
            if bytes > MAX_TEXT_BYTES {
                break;
            }
            if let Some(budget) = self.token_budget.filter(|_| has_text(&placed)) {
                let more = tokens.saturating_add(count(&placed.text));
                if more > budget {
                    break;
                }
                tokens = more;
            }
            kept.push(placed);
        }
        (kept, tokens)
    }

    /// Removes entries until the rest has at most `budget` tokens: those of the lowest priority first, and of the same
    /// priority the later ones.
    fn keep_within(&self, budget: u64, chosen: &mut Vec<Placed>, count: &dyn Fn(&str) -> u64) {
        let priority = |placed: &Placed| self.entries.get(placed.entry).map(|entry| entry.priority);
        chosen.sort_by_key(|placed| (std::cmp::Reverse(priority(placed)), placed.entry));
        let mut kept = 0;
        let mut tokens: u64 = 0;
        for placed in chosen.iter() {
            tokens = tokens.saturating_add(count(&placed.text));
            if tokens > budget {
                break;
            }
            kept += 1;
        }
        chosen.truncate(kept);
    }

    fn sort(&self, placed: &mut [Placed]) {
        let order = |index: usize| self.entries.get(index).map(|entry| entry.order);
        placed.sort_by_key(|placed| (order(placed.entry), placed.entry));
    }
}

impl Entry {
    fn placed(&self, index: usize, text: String) -> Placed {
        Placed {
            entry: index,
            place: self.place,
            priority: self.priority,
            role: self.role,
            text,
        }
    }
}

fn has_text(placed: &Placed) -> bool {
    !placed.text.trim().is_empty()
}

#[cfg(test)]
mod tests;
