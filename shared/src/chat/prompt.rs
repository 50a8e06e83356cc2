//! The frame of a prompt: what a character says around the conversation.
//!
//! What is the same in every turn of a session stands before the history. What may change from turn to turn stands behind
//! it, so that consecutive prompts begin alike and the upstream's cache of prompts is of use.

use std::borrow::Cow;
use std::cmp::Reverse;

use super::Ask;
use crate::characters::lore::{self, Placed};
use crate::characters::{Audience, Character, Field, Persona, Sheet};
use crate::context::{Frame, Keep, Past, Place, Text};
use crate::message::{Message, Role};
use crate::tokens::estimate;

/// What the character's part of a prompt depends on, besides what was said before.
#[derive(Clone, Copy)]
pub(super) struct Moment<'a> {
    /// The greeting that the turn answers, if the history does not have it.
    pub(super) greeting: Option<&'a str>,
    /// The greeting that began the session.
    pub(super) greeted_with: lore::Greeting,
    /// The system prompt of cards that have none.
    pub(super) default_prompt: &'a str,
}

/// Returns the number of the character's replies in the whole session. Of the messages that are not known, half are taken
/// for replies; a greeting is none.
fn replies(past: &Past, greeted_with: lore::Greeting) -> u64 {
    let is_greeted = matches!(greeted_with, lore::Greeting::Number(_));
    let older = past.older.saturating_sub(u64::from(is_greeted));
    let is_reply = |message: &&Message| message.role == Role::Assistant && !message.is_greeting();
    let known = past.messages.iter().filter(is_reply).count();
    older / 2 + u64::try_from(known).unwrap_or(u64::MAX)
}

/// Returns the frame of the prompt in which `ask` is asked.
pub(super) fn frame<'a>(
    character: &'a Character,
    ask: &Ask,
    moment: Moment<'a>,
    past: &Past,
) -> Frame<'a> {
    let sheet = match &character.persona {
        Persona::Plain { system_prompt, .. } => return Frame::plain(system_prompt),
        Persona::Card(sheet) => sheet,
    };
    let audience = Audience::new(&ask.user, &ask.character, ask.user_name.as_deref());
    let history = past.messages.iter().rev();
    let history = history.map(|message| message.content.as_str());
    let newest_first = [ask.text()].into_iter().chain(history);
    let newest_first: Vec<&str> = newest_first.chain(moment.greeting).collect();
    let chat = lore::Chat {
        newest_first: &newest_first,
        replies: replies(past, moment.greeted_with),
        greeting: moment.greeted_with,
    };
    let lore = sheet.lore_for(&chat, &audience, &estimate);
    let texts = texts(sheet, &audience, moment.default_prompt, lore).into_iter();
    Frame {
        texts: texts.map(|(_, text)| text).collect(),
        greeting: moment.greeting,
        in_blocks: true,
    }
}

/// A part of a card's prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Field(Field),
    /// An entry of the lorebook, by its place among those that were read.
    Entry(usize),
    Example,
}

/// Returns the texts of a card in their order, each with what it is. Blank ones are left out.
///
/// What is left out first when room is short has the highest number: lore, the lowest priority first, then the scenario,
/// the personality, the description, and what stands behind the history.
pub(super) fn texts<'a>(
    sheet: &'a Sheet,
    audience: &Audience<'_>,
    default_prompt: &str,
    lore: Vec<Placed>,
) -> Vec<(Part, Text<'a>)> {
    let field = |field, place, keep| {
        let text = sheet.text(field, audience, default_prompt);
        (Part::Field(field), Text { text, place, keep })
    };
    let keeps = keeps(&lore);
    let mut lore: Vec<(Placed, Keep)> = lore.into_iter().zip(keeps).collect();
    let mut entries = |place: lore::Place| -> Vec<(Part, Text<'a>)> {
        let is_there = |(placed, _): &mut (Placed, Keep)| placed.place == place;
        let entries = lore.extract_if(.., is_there);
        entries.map(|(placed, keep)| entry(placed, keep)).collect()
    };
    let mut texts = vec![field(Field::SystemPrompt, Place::First, Keep::Always)];
    texts.extend(entries(lore::Place::BeforeChar));
    texts.push(field(Field::Description, Place::First, Keep::Fixed(1)));
    texts.push(field(Field::Personality, Place::First, Keep::Fixed(2)));
    texts.extend(entries(lore::Place::Personality));
    texts.push(field(Field::Scenario, Place::First, Keep::Fixed(3)));
    texts.extend(entries(lore::Place::Scenario));
    texts.extend(entries(lore::Place::AfterChar));
    texts.extend(sheet.examples(audience).into_iter().map(|example| {
        let text = Text {
            text: Cow::Owned(example),
            place: Place::First,
            keep: Keep::Example,
        };
        (Part::Example, text)
    }));
    texts.extend(lore.into_iter().map(|(placed, keep)| entry(placed, keep)));
    texts.push(field(Field::PostHistory, Place::Last, Keep::Fixed(0)));
    texts.retain(|(_, text)| !text.text.is_empty());
    texts
}

/// Returns which entries are left out when room is short, the lowest priority first: fixed ones after all fields, and those
/// of the turn before all that is fixed.
fn keeps(lore: &[Placed]) -> Vec<Keep> {
    const BEHIND_FIELDS: usize = 4;
    let mut by_priority: Vec<usize> = (0..lore.len()).collect();
    by_priority.sort_by_key(|at| lore.get(*at).map(|placed| Reverse(placed.priority)));
    let mut keeps = vec![Keep::Always; lore.len()];
    for (rank, at) in (BEHIND_FIELDS..).zip(by_priority) {
        if let (Some(keep), Some(placed)) = (keeps.get_mut(at), lore.get(at)) {
            *keep = match placed.place {
                lore::Place::Depth(_) | lore::Place::Behind => Keep::Turn(rank),
                lore::Place::BeforeChar
                | lore::Place::AfterChar
                | lore::Place::Personality
                | lore::Place::Scenario => Keep::Fixed(rank),
            };
        }
    }
    keeps
}

fn entry<'a>(placed: Placed, keep: Keep) -> (Part, Text<'a>) {
    let place = match (placed.place, placed.role) {
        (lore::Place::Depth(from_end), role) => Place::Within(from_end, role),
        (lore::Place::Behind, Role::System) => Place::Behind,
        // A message of its own, because it has another author.
        (lore::Place::Behind, role) => Place::Within(1, role),
        (
            lore::Place::BeforeChar
            | lore::Place::AfterChar
            | lore::Place::Personality
            | lore::Place::Scenario,
            _,
        ) => Place::First,
    };
    let text = Text {
        text: Cow::Owned(placed.text),
        place,
        keep,
    };
    (Part::Entry(placed.entry), text)
}
