//! What the service has understood of a character that an operator stores. However large the character is, it has a few
//! kilobytes.

mod warnings;

use serde::Serialize;

use self::warnings::Fixed;
use super::prompt::{Part, texts};
use crate::characters::card::{self, Card, Spec, Unreadable};
use crate::characters::{Audience, Character, Field, Malformed, Persona, Sheet};
use crate::config::ContextConfig;
use crate::context::{self, Frame, Room, TooLong};
use crate::ids::CharacterId;
use crate::tokens::{PER_MESSAGE, PER_REPLY, estimate};

/// Limit of the characters of the name that are repeated.
const MAX_NAME_CHARS: usize = 200;

/// What the service has understood of a character, and what it costs.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Understood {
    /// The name, as `{{char}}` stands for it; the beginning of a very long one.
    pub name: String,
    /// `chara_card_v1`, `chara_card_v2`, `chara_card_v3` or `plain`.
    pub spec: &'static str,
    /// The fields that prompts and greetings consist of, without those that are blank.
    pub fields: Vec<&'static str>,
    /// The number of entries in the lorebook, whether they are enabled or not.
    pub lore_entries: usize,
    /// The number of greetings, without blank ones.
    pub greetings: usize,
    /// An estimate of the tokens that every prompt has before the user says anything, without examples of chats.
    pub fixed_tokens: u64,
    /// What is ignored or read differently, and what does not fit into the context window. Of many of a kind the first
    /// are named and the others counted.
    pub warnings: Vec<String>,
}

impl Understood {
    /// Reads a file: a card in PNG, CHARX or JSON, or a plain character in JSON. Returns the text to store, which is to
    /// the letter the file's, and what is understood of it.
    ///
    /// # Errors
    /// The file holds neither.
    pub fn read(
        id: &CharacterId,
        file: &[u8],
        config: &ContextConfig,
    ) -> Result<(String, Self), Malformed> {
        match Card::read(file) {
            Ok((text, card)) => {
                let spec = match card.spec {
                    Spec::V1 => "chara_card_v1",
                    Spec::V2 => "chara_card_v2",
                    Spec::V3 => "chara_card_v3",
                };
                let character = Character::of_card(id, card);
                let understood = character
                    .sheet()
                    .map(|sheet| Self::of_card(spec, sheet, config));
                let understood = understood.ok_or(Unreadable::NotACard)?;
                Ok((text, understood))
            }
            Err(Unreadable::NotACard) => match card::json_object(file) {
                Some(json) => Self::of_plain(json, config),
                // It is in a PNG or CHARX, which plain characters have no use for.
                None => Err(Unreadable::NotACard.into()),
            },
            Err(problem) => Err(problem.into()),
        }
    }

    fn of_plain(json: &[u8], config: &ContextConfig) -> Result<(String, Self), Malformed> {
        let character = match Character::plain(json) {
            Err(Malformed::Field {
                field: "name" | "system_prompt",
                ..
            }) => return Err(Unreadable::NotACard.into()),
            plain => plain?,
        };
        let text = String::from_utf8_lossy(json).into_owned();
        let prompt = match &character.persona {
            Persona::Plain { system_prompt, .. } => system_prompt.as_str(),
            Persona::Card(_) => "",
        };
        let fixed_tokens = estimate(prompt) + PER_MESSAGE;
        let too_long = fixed_tokens + PER_MESSAGE + PER_REPLY >= config.max_tokens;
        let understood = Self {
            name: shortened(character.name()),
            spec: "plain",
            fields: vec!["system_prompt"],
            lore_entries: 0,
            greetings: 0,
            fixed_tokens,
            warnings: too_long
                .then(|| warnings::no_message_fits(fixed_tokens, config.max_tokens))
                .into_iter()
                .collect(),
        };
        Ok((text, understood))
    }

    fn of_card(spec: &'static str, sheet: &Sheet, config: &ContextConfig) -> Self {
        let audience = Audience::nobody();
        let lore = sheet.fixed_lore(&audience, &estimate);
        let parts = texts(sheet, &audience, &config.default_system_prompt, lore.kept);
        let (parts, texts): (Vec<Part>, Vec<_>) = parts.into_iter().unzip();
        let costs: Vec<u64> = texts.iter().map(context::cost).collect();
        let greetings = sheet.greetings_for(&audience);
        let frame = Frame {
            texts,
            in_blocks: true,
            ..Frame::default()
        };
        let room = Room::new(&frame, 0, config.max_tokens).map(|mut room| {
            room.keep_examples(&frame.texts, room.for_history);
            room
        });

        let mut warnings = warnings::of_reading(sheet);
        warnings.extend(warnings::of_useless_entries(
            sheet,
            sheet.lore().described(),
            &lore.removed,
        ));
        let fixed_tokens = match room {
            Ok(room) => {
                let fixed = Fixed {
                    parts: &parts,
                    costs: &costs,
                    room: &room,
                    max_tokens: config.max_tokens,
                };
                warnings.extend(fixed.left_out(sheet));
                warnings.extend(fixed.too_large_entries(sheet, sheet.lore().described()));
                warnings.extend(fixed.too_large_greetings(&greetings));
                fixed.tokens()
            }
            Err(TooLong::Character { prompt_tokens }) => {
                warnings.push(warnings::no_message_fits(prompt_tokens, config.max_tokens));
                prompt_tokens + PER_MESSAGE
            }
            // A message of no tokens fits wherever the character does.
            Err(TooLong::Message) => 0,
        };
        Self {
            name: shortened(sheet.name()),
            spec,
            fields: fields(sheet),
            lore_entries: sheet.lore().entries(),
            greetings: greetings.iter().filter(|text| !text.is_empty()).count(),
            fixed_tokens,
            warnings,
        }
    }
}

/// Returns the beginning of a name, the whole one if it is no longer than [`MAX_NAME_CHARS`].
fn shortened(name: &str) -> String {
    let end = name.char_indices().nth(MAX_NAME_CHARS);
    match end.and_then(|(end, _)| name.get(..end)) {
        Some(beginning) => format!("{beginning}…"),
        None => name.to_owned(),
    }
}

/// Returns the names of the fields of a card that are used and not blank.
fn fields(sheet: &Sheet) -> Vec<&'static str> {
    let card = sheet.card();
    let greetings = card.alternate_greetings.iter().map(String::as_str);
    let is_there = |text: &str| !text.trim().is_empty();
    [
        (Field::SystemPrompt.as_str(), is_there(&card.system_prompt)),
        (Field::Description.as_str(), is_there(&card.description)),
        (Field::Personality.as_str(), is_there(&card.personality)),
        (Field::Scenario.as_str(), is_there(&card.scenario)),
        ("mes_example", is_there(&card.mes_example)),
        (
            Field::PostHistory.as_str(),
            is_there(&card.post_history_instructions),
        ),
        ("first_mes", is_there(&card.first_mes)),
        ("alternate_greetings", greetings.into_iter().any(is_there)),
        ("character_book", sheet.lore().entries() > 0),
    ]
    .into_iter()
    .filter_map(|(name, is_used)| is_used.then_some(name))
    .collect()
}

#[cfg(test)]
mod tests;
