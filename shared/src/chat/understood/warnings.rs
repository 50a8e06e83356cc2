//! The warnings about a character: what of it is never in a prompt.
//!
//! A hostile card has hundreds of thousands of faults. Of each kind the first few are named, and the others counted.

use crate::characters::Sheet;
use crate::characters::card::Card;
use crate::characters::lore::{Described, Presence};
use crate::chat::prompt::Part;
use crate::context::Room;
use crate::tokens::{PER_MESSAGE, estimate};

/// Limit of what is named in warnings of one kind, one by one.
const MAX_NAMED: usize = 20;

/// What stands in every prompt, and what of it has room there.
pub(super) struct Fixed<'a> {
    pub(super) parts: &'a [Part],
    /// The tokens of each part.
    pub(super) costs: &'a [u64],
    /// Which of them a prompt has, and what it has room for besides.
    pub(super) room: &'a Room,
    /// The size of the context window in tokens.
    pub(super) max_tokens: u64,
}

/// Returns the warnings of the reader, and those of the lorebook's compiler.
pub(super) fn of_reading(sheet: &Sheet) -> Vec<String> {
    let mut warnings: Vec<String> = sheet.warnings().iter().map(ToString::to_string).collect();
    let card = sheet.card();
    if card.name.trim().is_empty() && card.nickname.is_none() {
        warnings.push("its id stands for the name".to_owned());
    }
    let bad = sheet.lore().keys_without_effect();
    if bad > 0 {
        warnings.push(format!(
            "{bad} keys of the lorebook can never match: they are not valid regular expressions, or beyond the limits"
        ));
    }
    warnings
}

/// Returns warnings about entries that are meant to be used and are in no prompt. `over_budget` are those of the fixed
/// ones that the lorebook's token budget has no room for, by their indices.
pub(super) fn of_useless_entries<'a>(
    sheet: &Sheet,
    described: impl Iterator<Item = Described<'a>>,
    over_budget: &[usize],
) -> Vec<String> {
    let card = sheet.card();
    let never = described
        .filter(|entry| entry.presence == Presence::Unreachable)
        .map(|entry| entry.index);
    let mut warnings = named(
        never,
        |index| {
            let path = card.entry_path(*index);
            format!(
                "{path} is never in a prompt: it is not constant, and has no key that can match"
            )
        },
        |more| format!("{more} more entries of the lorebook are never in a prompt"),
    );
    warnings.extend(named(
        over_budget.iter(),
        |index| {
            let path = card.entry_path(**index);
            format!(
                "{path} exceeds the token_budget of the lorebook and is left out of every prompt"
            )
        },
        |more| format!("{more} more constant entries of the lorebook exceed its token_budget"),
    ));
    warnings
}

/// Returns the warning about a system prompt that no message fits beside.
pub(super) fn no_message_fits(tokens: u64, max_tokens: u64) -> String {
    format!(
        "system_prompt of about {tokens} tokens does not fit into the context window of {max_tokens}: no message to \
         this character can be answered"
    )
}

impl Fixed<'_> {
    /// Returns warnings about the parts that are left out.
    pub(super) fn left_out(&self, sheet: &Sheet) -> Vec<String> {
        let left_out = || {
            let parts = self.parts.iter().zip(self.costs).zip(&self.room.kept);
            parts.filter_map(|(part, kept)| (!kept).then_some(part))
        };
        let fields = left_out().filter_map(|(part, tokens)| match part {
            Part::Field(field) => Some((*field, *tokens)),
            Part::Entry(_) | Part::Example => None,
        });
        let mut warnings: Vec<String> = fields
            .map(|(field, tokens)| self.does_not_fit(field.as_str(), tokens))
            .collect();
        let examples = left_out().filter(|(part, _)| **part == Part::Example);
        let (examples, tokens) = examples.fold((0_usize, 0_u64), |(count, sum), (_, tokens)| {
            (count + 1, sum.saturating_add(*tokens))
        });
        if examples > 0 {
            let max_tokens = self.max_tokens;
            warnings.push(format!(
                "mes_example has {examples} blocks, of about {tokens} tokens together, that do not fit into the \
                 context window of {max_tokens}: they are left out of every prompt"
            ));
        }
        let entries = left_out().filter_map(|(part, tokens)| match part {
            Part::Entry(index) => Some((*index, *tokens)),
            Part::Field(_) | Part::Example => None,
        });
        warnings.extend(named(
            entries,
            |(index, tokens)| self.does_not_fit(&sheet.card().entry_path(*index), *tokens),
            |more| format!("{more} more constant entries of the lorebook do not fit"),
        ));
        warnings
    }

    /// Returns warnings about the entries that no prompt has room for, without those that are fixed.
    pub(super) fn too_large_entries<'a>(
        &self,
        sheet: &Sheet,
        described: impl Iterator<Item = Described<'a>>,
    ) -> Vec<String> {
        let card: &Card = sheet.card();
        let for_turn = self.room.for_turn.saturating_sub(PER_MESSAGE);
        let budget = card.book.token_budget;
        let room = budget.map_or(for_turn, |budget| budget.min(for_turn));
        let too_large = described
            .filter(|entry| entry.presence == Presence::Turn)
            .map(|entry| (entry.index, estimate(entry.content)))
            .filter(|(_, tokens)| *tokens > room);
        named(
            too_large,
            |(index, tokens)| {
                let path = card.entry_path(*index);
                format!(
                    "{path} of about {tokens} tokens does not fit into the {room} that are free for it: it is left out \
                     of every prompt"
                )
            },
            |more| format!("{more} more entries of the lorebook do not fit"),
        )
    }

    /// Returns warnings about the greetings that the model never sees.
    pub(super) fn too_large_greetings(&self, greetings: &[String]) -> Vec<String> {
        let room = self.room.for_history.saturating_sub(PER_MESSAGE);
        let too_large = greetings
            .iter()
            .map(|greeting| estimate(greeting))
            .enumerate()
            .filter(|(_, tokens)| *tokens > 0 && *tokens > room);
        named(
            too_large,
            |(number, tokens)| {
                format!(
                    "greeting {number} of about {tokens} tokens does not fit into the {room} that are free for it: it \
                     is shown and stored, and left out of every prompt"
                )
            },
            |more| format!("{more} more greetings do not fit"),
        )
    }

    /// Returns the tokens of the parts that every prompt has.
    pub(super) fn tokens(&self) -> u64 {
        let parts = self.parts.iter().zip(self.costs).zip(&self.room.kept);
        let kept = parts.filter(|((part, _), kept)| **kept && **part != Part::Example);
        kept.fold(PER_MESSAGE, |sum, ((_, cost), _)| sum.saturating_add(*cost))
    }

    fn does_not_fit(&self, part: &str, tokens: u64) -> String {
        let max_tokens = self.max_tokens;
        format!(
            "{part} of about {tokens} tokens does not fit into the context window of {max_tokens}: it is left out of \
             every prompt"
        )
    }
}

/// Returns a warning about each of the first [`MAX_NAMED`], and one that counts the others.
fn named<T>(
    all: impl Iterator<Item = T>,
    warning: impl Fn(&T) -> String,
    others: impl Fn(usize) -> String,
) -> Vec<String> {
    let mut all = all;
    let first = all.by_ref().take(MAX_NAMED);
    let mut warnings: Vec<String> = first.map(|one| warning(&one)).collect();
    let more = all.count();
    if more > 0 {
        warnings.push(others(more));
    }
    warnings
}
