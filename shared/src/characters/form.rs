//! Parses stored characters. An error names the field that is missing or out of range.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::card::{Card, Unreadable, Warning};
use super::sheet::Sheet;
use crate::ids::CharacterId;

/// Temperatures that upstreams accept.
const TEMPERATURES: RangeInclusive<f64> = 0.0..=2.0;

/// A persona that users talk to.
#[derive(Debug)]
pub struct Character {
    /// Its texts.
    pub persona: Persona,
    /// Sampling temperature from 0 to 2; `None` for the upstream's default.
    pub temperature: Option<f64>,
    /// Nucleus sampling, above 0 and up to 1; `None` for the upstream's default.
    pub top_p: Option<f64>,
    /// Limit of the reply in tokens, at least 1; `None` for the upstream's default.
    pub max_tokens: Option<u32>,
    /// The model to use; `None` for the configured one.
    pub model: Option<String>,
}

/// The texts of a persona.
#[derive(Debug)]
pub enum Persona {
    /// One text, sent to the letter.
    Plain {
        /// The character's name, as the user sees it.
        name: String,
        /// The text that describes the character and begins every prompt.
        system_prompt: String,
    },
    /// A character card.
    Card(Box<Sheet>),
}

/// Why stored bytes are not a valid character. Names a position or a field, never the stored content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes are not a JSON object, or a field appears twice.
    #[error("it is not a JSON object with each field once (line {line}, column {column})")]
    Json {
        /// The line of the first problem, from 1.
        line: usize,
        /// The column of the first problem, from 1.
        column: usize,
    },
    /// A field is missing, or its value is invalid.
    #[error("{field} {expected}")]
    Field {
        /// The name of the field.
        field: &'static str,
        /// The values that the field accepts.
        expected: &'static str,
    },
    /// The bytes are a character card that cannot be read.
    #[error(transparent)]
    Card(#[from] Unreadable),
}

/// The fields as raw JSON, so that an error can name the field.
#[derive(Default, Deserialize)]
struct Form<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    system_prompt: Option<&'a RawValue>,
    #[serde(borrow)]
    temperature: Option<&'a RawValue>,
    #[serde(borrow)]
    top_p: Option<&'a RawValue>,
    #[serde(borrow)]
    max_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
}

/// The model settings of a character.
#[derive(Default)]
struct Settings {
    temperature: Option<f64>,
    top_p: Option<f64>,
    max_tokens: Option<u32>,
    model: Option<String>,
}

impl Character {
    /// Returns the character in stored bytes: a card, or a plain character, whose unknown fields are ignored and whose
    /// settings that are null count as not set. `id` names a card without a name.
    ///
    /// # Errors
    /// The bytes are not a JSON object or a card that cannot be read. Of a plain character, a field is missing or a value
    /// is out of range.
    pub fn from_json(id: &CharacterId, json: &[u8]) -> Result<Self, Malformed> {
        let fields: Result<HashMap<Cow<'_, str>, &RawValue>, _> = serde_json::from_slice(json);
        let is_card = |fields: &HashMap<_, &_>| Card::is_card(|name| fields.get(name).copied());
        match fields {
            Ok(fields) if !is_card(&fields) => Self::plain(json),
            Ok(_) => Ok(Self::of_card(
                id,
                Card::from_json(&String::from_utf8_lossy(json))?,
            )),
            // Other programs write cards that are not valid JSON.
            Err(_) => match Card::from_json(&String::from_utf8_lossy(json)) {
                Ok(card) => Ok(Self::of_card(id, card)),
                Err(_) => Self::plain(json),
            },
        }
    }

    /// Returns the character of a card. Settings that are not valid are left out, with a warning. `id` names a card
    /// without a name.
    #[must_use]
    pub fn of_card(id: &CharacterId, mut card: Card) -> Self {
        let mut settings = Settings::default();
        if let Some(raw) = card.settings.take() {
            let form = serde_json::from_str::<Form<'_>>(raw.get());
            let mut refused = Vec::new();
            match form {
                Ok(form) if raw.get().starts_with('{') => {
                    settings = Settings::valid(&form, &mut refused)
                }
                Ok(_) | Err(_) => refused.push(("", "is not an object with each field once")),
            }
            let warnings = refused
                .into_iter()
                .map(|(field, expected)| Warning::Setting { field, expected });
            card.warnings.extend(warnings);
        }
        let Settings {
            temperature,
            top_p,
            max_tokens,
            model,
        } = settings;
        Self {
            persona: Persona::Card(Box::new(Sheet::new(id, card))),
            temperature,
            top_p,
            max_tokens,
            model,
        }
    }

    /// Returns the plain character in bytes that are no card.
    ///
    /// # Errors
    /// As [`Character::from_json`].
    pub(crate) fn plain(json: &[u8]) -> Result<Self, Malformed> {
        let form: Form<'_> = serde_json::from_slice(json).map_err(|error| Malformed::Json {
            line: error.line(),
            column: error.column(),
        })?;
        // Serde also accepts a list, as the fields in order.
        if !json.trim_ascii_start().starts_with(b"{") {
            return Err(Malformed::Json { line: 1, column: 1 });
        }
        let persona = Persona::Plain {
            name: required("name", form.name)?,
            system_prompt: required("system_prompt", form.system_prompt)?,
        };
        Ok(Self {
            persona,
            temperature: temperature(&form)?,
            top_p: top_p(&form)?,
            max_tokens: max_tokens(&form)?,
            model: model(&form)?,
        })
    }

    /// Returns the character's name, as the user sees it.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.persona {
            Persona::Plain { name, .. } => name,
            Persona::Card(sheet) => sheet.name(),
        }
    }

    /// Returns the sheet of a character that is a card.
    #[must_use]
    pub fn sheet(&self) -> Option<&Sheet> {
        match &self.persona {
            Persona::Plain { .. } => None,
            Persona::Card(sheet) => Some(sheet),
        }
    }
}

impl Settings {
    /// Returns the valid ones, and adds the others to `refused`, with what is expected of them.
    fn valid(form: &Form<'_>, refused: &mut Vec<(&'static str, &'static str)>) -> Self {
        fn or_refused<T>(
            setting: Result<Option<T>, Malformed>,
            refused: &mut Vec<(&'static str, &'static str)>,
        ) -> Option<T> {
            setting.unwrap_or_else(|problem| {
                if let Malformed::Field { field, expected } = problem {
                    refused.push((field, expected));
                }
                None
            })
        }
        Self {
            temperature: or_refused(temperature(form), refused),
            top_p: or_refused(top_p(form), refused),
            max_tokens: or_refused(max_tokens(form), refused),
            model: or_refused(model(form), refused),
        }
    }
}

fn temperature(form: &Form<'_>) -> Result<Option<f64>, Malformed> {
    let expected = "must be a number from 0 to 2";
    setting("temperature", expected, form.temperature, |value| {
        value
            .as_f64()
            .filter(|number| TEMPERATURES.contains(number))
    })
}

fn top_p(form: &Form<'_>) -> Result<Option<f64>, Malformed> {
    let expected = "must be a number above 0 and up to 1";
    setting("top_p", expected, form.top_p, |value| {
        value
            .as_f64()
            .filter(|number| *number > 0.0 && *number <= 1.0)
    })
}

fn max_tokens(form: &Form<'_>) -> Result<Option<u32>, Malformed> {
    let expected = "must be a whole number from 1 to 4294967295";
    setting("max_tokens", expected, form.max_tokens, whole)
}

fn model(form: &Form<'_>) -> Result<Option<String>, Malformed> {
    setting("model", "must be text", form.model, text)
}

fn required(field: &'static str, raw: Option<&RawValue>) -> Result<String, Malformed> {
    setting(field, "must be text", raw, text)?.ok_or(Malformed::Field {
        field,
        expected: "is required",
    })
}

fn setting<T>(
    field: &'static str,
    expected: &'static str,
    raw: Option<&RawValue>,
    read: impl FnOnce(&Value) -> Option<T>,
) -> Result<Option<T>, Malformed> {
    let Some(raw) = raw else {
        return Ok(None);
    };
    // A number that is too large for any type, and half of a surrogate pair, are not valid values.
    let value = serde_json::from_str::<Value>(raw.get()).ok();
    value
        .as_ref()
        .and_then(read)
        .map(Some)
        .ok_or(Malformed::Field { field, expected })
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// Returns the whole number in `value`, from 1. Python and JavaScript may write it as `256.0`.
fn whole(value: &Value) -> Option<u32> {
    let number = value.as_f64()?;
    let is_whole = number.fract() == 0.0 && (1.0..=f64::from(u32::MAX)).contains(&number);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number within the range of the type"
    )]
    is_whole.then_some(number as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &[u8]) -> Result<Character, Malformed> {
        Character::from_json(&CharacterId::parse("mira").expect("an id"), json)
    }

    fn with(fields: &str) -> Result<Character, Malformed> {
        let json = format!(r#"{{"name":"n","system_prompt":"p"{fields}}}"#);
        of(json.as_bytes())
    }

    #[test]
    fn settings_within_their_ranges_are_taken() {
        for (fields, temperature, top_p, max_tokens) in [
            ("", None, None, None),
            (
                r#","temperature":null,"top_p":null,"max_tokens":null,"model":null"#,
                None,
                None,
                None,
            ),
            (
                r#","temperature":0,"top_p":1,"max_tokens":256.0"#,
                Some(0.0),
                Some(1.0),
                Some(256),
            ),
            (
                r#","temperature":2.0,"top_p":0.01,"max_tokens":1"#,
                Some(2.0),
                Some(0.01),
                Some(1),
            ),
            (
                r#","max_tokens":2.56e2,"unknown":[1e999]"#,
                None,
                None,
                Some(256),
            ),
            (r#","max_tokens":4294967295"#, None, None, Some(u32::MAX)),
        ] {
            let character = with(fields).expect(fields);
            assert_eq!(
                (character.temperature, character.top_p, character.max_tokens),
                (temperature, top_p, max_tokens),
                "{fields}"
            );
        }
    }

    #[test]
    fn a_setting_out_of_its_range_is_refused_by_name() {
        for (field, values) in [
            (
                "temperature",
                ["99", "-0.1", "2.0001", "1e999", "\"0.7\"", "[]"],
            ),
            ("top_p", ["0", "-1", "1.1", "1e999", "\"1\"", "true"]),
            (
                "max_tokens",
                ["0", "-1", "256.5", "4294967296", "1e999", "\"256\""],
            ),
            ("model", ["1", "[]", "{}", "true", "\"\\ud83d\"", "0.5"]),
        ] {
            for value in values {
                let refused = with(&format!(r#","{field}":{value}"#));
                let Err(Malformed::Field { field: named, .. }) = refused else {
                    panic!("{field}: {value}: {refused:?}");
                };
                assert_eq!(named, field, "{value}");
            }
        }
    }

    #[test]
    fn what_is_no_character_is_refused() {
        for (json, expected) in [
            (r#"{"name":"n"}"#, "system_prompt is required"),
            (r#"{"system_prompt":"p"}"#, "name is required"),
            (
                r#"{"name":"n","system_prompt":null}"#,
                "system_prompt is required",
            ),
            (r#"{"name":5,"system_prompt":"p"}"#, "name must be text"),
        ] {
            let error = of(json.as_bytes()).expect_err(json);
            assert_eq!(error.to_string(), expected);
        }
        for json in [
            "",
            "null",
            "{",
            "[]",
            r#"["n","p",1,1,1,"m"]"#,
            r#"{"name":"a","name":"b"}"#,
        ] {
            let error = of(json.as_bytes()).expect_err(json);
            assert!(matches!(error, Malformed::Json { .. }), "{json}: {error}");
        }
    }
}
