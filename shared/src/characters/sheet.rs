//! A card that is ready for prompts: its texts with their macros replaced, its lorebook compiled.

use std::borrow::Cow;

use super::card::{Card, Warning};
use super::lore::{Chat, Fixed, Lore, Placed, Sections};
use super::macros::{Scope, expand};
use crate::ids::{CharacterId, UserId};

/// What `{{user}}` stands for if the client gives no name.
pub const USER: &str = "User";

/// The line before each example of a chat.
const START: &str = "<START>";
/// Most examples that prompts have. A card has a handful.
const MAX_EXAMPLES: usize = 1_000;
/// Longest name that `{{char}}` stands for, in bytes. A text may have any number of these macros.
const MAX_NAME_BYTES: usize = 1_000;

/// Limit of the bytes of all examples together, far more than a prompt has room for. The one that exceeds it is the last.
const MAX_EXAMPLES_BYTES: usize = 1 << 20;
/// Limit of the bytes of all greetings together. A card of greetings alone is smaller, and no response carries more.
const MAX_GREETINGS_BYTES: usize = 6 << 20;

/// A card, ready for prompts. Shared by the turns of all users.
#[derive(Debug)]
pub struct Sheet {
    card: Card,
    lore: Lore,
    /// What `{{char}}` stands for.
    name: String,
    /// The examples of chats, with the line before each but the first that has none.
    examples: Vec<String>,
}

/// Whom a card is used for: what its macros stand for.
#[derive(Debug, Clone)]
pub struct Audience<'a> {
    /// The user's name; `None` for [`USER`].
    pub user_name: Option<&'a str>,
    /// Identifies the session, in which random macros stay the same.
    session: String,
}

impl<'a> Audience<'a> {
    /// Returns the audience in the session of `user` with `character`.
    #[must_use]
    pub fn new(user: &UserId, character: &CharacterId, user_name: Option<&'a str>) -> Self {
        Self {
            user_name,
            // An id may be any text, so its length tells where it ends.
            session: format!(
                "{} {} {}",
                user.as_str().len(),
                user.as_str(),
                character.as_str()
            ),
        }
    }

    /// Returns the audience of a card that is used for no session.
    #[must_use]
    pub fn nobody() -> Self {
        Self {
            user_name: None,
            session: String::new(),
        }
    }
}

/// A text of a card that stands in every prompt, or in every one that has room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The instructions to the model.
    SystemPrompt,
    /// Who the character is.
    Description,
    /// A summary of the character's personality.
    Personality,
    /// The circumstances of the chat.
    Scenario,
    /// Instructions behind the history.
    PostHistory,
}

impl Field {
    /// Returns the name of the field in a card.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SystemPrompt => "system_prompt",
            Self::Description => "description",
            Self::Personality => "personality",
            Self::Scenario => "scenario",
            Self::PostHistory => "post_history_instructions",
        }
    }
}

impl Sheet {
    /// Compiles a card. `id` stands for the name of a card without one.
    pub(super) fn new(id: &CharacterId, mut card: Card) -> Self {
        let given = Some(card.name.trim()).filter(|name| !name.is_empty());
        let nickname = card.nickname.as_deref().map(str::trim);
        let mut name = nickname.or(given).unwrap_or(id.as_str()).to_owned();
        if name.len() > MAX_NAME_BYTES {
            name.truncate(name.floor_char_boundary(MAX_NAME_BYTES));
            card.warnings.push(Warning::LongName);
        }
        let mut examples = examples(&card.mes_example);
        let left_out = examples.len().saturating_sub(MAX_EXAMPLES);
        if left_out > 0 {
            examples.truncate(MAX_EXAMPLES);
            card.warnings.push(Warning::LeftOut {
                path: "mes_example".to_owned(),
                elements: left_out,
            });
        }
        let sections = Sections {
            personality: !card.personality.trim().is_empty(),
            scenario: !card.scenario.trim().is_empty(),
        };
        Self {
            lore: Lore::new(&card.book, &name, sections),
            name,
            examples,
            card,
        }
    }

    /// Returns the character's name: its nickname, else its name, else its id.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the card.
    #[must_use]
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// Returns the lorebook.
    #[must_use]
    pub fn lore(&self) -> &Lore {
        &self.lore
    }

    /// Returns what was not understood of the card.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.card.warnings
    }

    /// Returns a text with its macros replaced, without surrounding white space. `default_prompt` takes the place of a
    /// system prompt that is blank, and of `{{original}}` in another one.
    #[must_use]
    pub fn text(
        &self,
        field: Field,
        audience: &Audience<'_>,
        default_prompt: &str,
    ) -> Cow<'_, str> {
        let card = &self.card;
        let text = match field {
            Field::SystemPrompt => {
                let original = self.expanded(default_prompt, audience, "", "default_system_prompt");
                let own = card.system_prompt.trim();
                if own.is_empty() {
                    return Cow::Owned(original.trim().to_owned());
                }
                let expanded = self.expanded(own, audience, &original, field.as_str());
                return Cow::Owned(expanded.trim().to_owned());
            }
            Field::Description => &card.description,
            Field::Personality => &card.personality,
            Field::Scenario => &card.scenario,
            Field::PostHistory => &card.post_history_instructions,
        };
        trimmed(self.expanded(text, audience, "", field.as_str()))
    }

    /// Returns the examples of chats, each with the line before it, up to 1 MiB.
    #[must_use]
    pub fn examples(&self, audience: &Audience<'_>) -> Vec<String> {
        let mut bytes_left = MAX_EXAMPLES_BYTES;
        let examples = self.examples.iter().enumerate();
        let expanded = examples.map_while(|(number, example)| {
            (bytes_left > 0).then(|| {
                let place = format!("mes_example {number}");
                let text = trimmed(self.expanded(example, audience, "", &place)).into_owned();
                bytes_left = bytes_left.saturating_sub(text.len());
                text
            })
        });
        expanded.collect()
    }

    /// Returns the number of greetings, including blank ones.
    #[must_use]
    pub fn greetings(&self) -> usize {
        self.card.greetings().count()
    }

    /// Returns a greeting: 0 is the first. `None` if there is none of this number, or it is blank.
    #[must_use]
    pub fn greeting(&self, number: usize, audience: &Audience<'_>) -> Option<String> {
        let text = self.card.greetings().nth(number)?;
        Some(self.greeting_of(number, text, audience)).filter(|text| !text.is_empty())
    }

    /// Returns all greetings, so that each has its number as its index. Blank ones are empty, and so are those behind
    /// the first 6 MiB, which do not fit into a response.
    #[must_use]
    pub fn greetings_for(&self, audience: &Audience<'_>) -> Vec<String> {
        let mut bytes_left = MAX_GREETINGS_BYTES;
        let greetings = self.card.greetings().enumerate();
        let greetings = greetings.map(|(number, text)| {
            if bytes_left == 0 {
                return String::new();
            }
            let text = self.greeting_of(number, text, audience);
            bytes_left = bytes_left.saturating_sub(text.len());
            text
        });
        greetings.collect()
    }

    fn greeting_of(&self, number: usize, text: &str, audience: &Audience<'_>) -> String {
        let text = self.expanded(text, audience, "", &format!("greeting {number}"));
        text.trim().to_owned()
    }

    /// Returns the entries of the lorebook that are in every prompt. `count` returns the tokens of a text.
    #[must_use]
    pub fn fixed_lore(&self, audience: &Audience<'_>, count: &dyn Fn(&str) -> u64) -> Fixed {
        self.lore
            .fixed(&|entry, text| self.entry(entry, text, audience), count)
    }

    /// Returns the entries of the lorebook for the next prompt. `count` returns the tokens of a text.
    #[must_use]
    pub fn lore_for(
        &self,
        chat: &Chat<'_>,
        audience: &Audience<'_>,
        count: &dyn Fn(&str) -> u64,
    ) -> Vec<Placed> {
        if self.lore.entries() == 0 {
            return Vec::new();
        }
        self.lore.select(
            chat,
            &|entry, text| self.entry(entry, text, audience),
            count,
        )
    }

    fn entry(&self, entry: usize, text: &str, audience: &Audience<'_>) -> String {
        let text = self.expanded(text, audience, "", &format!("entry {entry}"));
        text.trim().to_owned()
    }

    fn expanded<'t>(
        &self,
        text: &'t str,
        audience: &Audience<'_>,
        original: &str,
        place: &str,
    ) -> Cow<'t, str> {
        let scope = Scope {
            char: &self.name,
            user: audience.user_name.unwrap_or(USER),
            original,
            session: &audience.session,
        };
        expand(text, &scope, place)
    }
}

/// Splits a text at `<START>`, in any case. Each example keeps that line; the first may have none.
fn examples(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut begins = 0;
    for (at, _) in text.match_indices('<') {
        let after = at + START.len();
        let is_start = text
            .get(at..after)
            .is_some_and(|word| word.eq_ignore_ascii_case(START));
        if is_start {
            blocks.extend(text.get(begins..at));
            begins = after;
        }
    }
    blocks.extend(text.get(begins..));
    let blocks = blocks.into_iter().map(str::trim).enumerate();
    let blocks = blocks.filter(|(_, block)| !block.is_empty());
    let with_line = blocks.map(|(number, block)| match number {
        0 => block.to_owned(),
        _ => format!("{START}\n{block}"),
    });
    with_line.collect()
}

fn trimmed(text: Cow<'_, str>) -> Cow<'_, str> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
        Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet(json: &str) -> Sheet {
        let id = CharacterId::parse("mira").expect("an id");
        Sheet::new(&id, Card::from_json(json).expect("a card"))
    }

    fn alice() -> Audience<'static> {
        let id = CharacterId::parse("mira").expect("an id");
        Audience::new(&UserId::parse("alice").expect("an id"), &id, Some("Alice"))
    }

    #[test]
    fn a_card_without_a_name_is_called_by_its_id() {
        for (fields, name) in [
            (r#""name":" Mira ""#, "Mira"),
            (r#""name":"Mira Stone","nickname":"Mi""#, "Mi"),
            (r#""name":"Mira","nickname":" ""#, "Mira"),
            (r#""name":" ""#, "mira"),
            (r#""tags":[]"#, "mira"),
        ] {
            let card = sheet(&format!(
                r#"{{"spec":"chara_card_v3","data":{{{fields}}}}}"#
            ));
            assert_eq!(card.name(), name, "{fields}");
        }
    }

    #[test]
    fn the_default_prompt_stands_for_a_blank_one_and_for_original() {
        for (own, expected) in [
            ("", "You are Mira for Alice."),
            (" \\n", "You are Mira for Alice."),
            ("Be brief.", "Be brief."),
            (
                "{{original}} Be brief.",
                "You are Mira for Alice. Be brief.",
            ),
        ] {
            let card = sheet(&format!(
                r#"{{"data":{{"name":"Mira","system_prompt":"{own}"}}}}"#
            ));
            let text = card.text(
                Field::SystemPrompt,
                &alice(),
                " You are {{char}} for {{user}}. ",
            );
            assert_eq!(text.replace("  ", " "), expected, "{own}");
        }
    }

    #[test]
    fn examples_are_split_at_their_start() {
        let card = sheet(
            r#"{"data":{"name":"Mira","mes_example":"{{char}}: before\n<START>\n{{user}}: a\n<start>\n\n<Start>{{char}}: b < c\n"}}"#,
        );
        assert_eq!(
            card.examples(&alice()),
            ["Mira: before", "<START>\nAlice: a", "<START>\nMira: b < c"]
        );
    }

    #[test]
    fn greetings_keep_their_numbers() {
        let card = sheet(
            r#"{"data":{"name":"Mira","first_mes":"Hi {{user}}","alternate_greetings":[""," Good evening "]}}"#,
        );
        let greeting = |number| card.greeting(number, &alice());
        assert_eq!(card.greetings(), 3);
        assert_eq!(greeting(0).as_deref(), Some("Hi Alice"));
        assert_eq!(greeting(1), None);
        assert_eq!(greeting(2).as_deref(), Some("Good evening"));
        assert_eq!(greeting(3), None);
        assert_eq!(
            card.greetings_for(&alice()),
            ["Hi Alice", "", "Good evening"]
        );
    }

    #[test]
    fn examples_that_repeat_a_long_name_do_not_fill_the_memory() {
        let name = "x".repeat(1 << 20);
        let examples = format!("<START>{}", "{{char}}".repeat(100)).repeat(900);
        let card = serde_json::json!({"data": {"name": name, "mes_example": examples}});
        let examples = sheet(&card.to_string()).examples(&alice());
        let bytes: usize = examples.iter().map(String::len).sum();
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
    }

    #[test]
    fn greetings_that_repeat_a_long_name_do_not_fill_the_memory() {
        let name = "x".repeat(1 << 20);
        let greetings = vec!["{{char}}"; 20_000];
        let card = serde_json::json!({"data": {"name": name, "alternate_greetings": greetings}});
        let greetings = sheet(&card.to_string()).greetings_for(&alice());
        assert_eq!(greetings.len(), 20_001);
        let bytes: usize = greetings.iter().map(String::len).sum();
        assert!((6 << 20..8 << 20).contains(&bytes), "{bytes}");
    }
}
