//! Bodies of requests: JSON, whose errors name the field.

use std::collections::HashMap;

use http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::Problem;
use super::event::Event;
use super::request::{UserRequest, character, invalid, message_id};
use crate::ids::{CharacterId, MessageId};
use crate::message::is_blank;
use crate::session::State;

const MAX_BODY_BYTES: usize = 64 * 1024;
const MAX_MESSAGE_CHARACTERS: usize = 2_000;
const MAX_NAME_CHARACTERS: usize = 64;
/// Limit of the raw JSON text of `metadata`, in bytes.
const MAX_METADATA_BYTES: usize = 2 * 1024;
/// Limit of nested objects and lists in `metadata`; a common limit of JSON parsers.
const MAX_METADATA_DEPTH: usize = 127;

/// The body of a chat request.
#[derive(Debug)]
pub struct ChatBody {
    /// The character addressed.
    pub character: CharacterId,
    /// The message text: 1 to 2,000 characters (Unicode scalar values), at least one of them visible. `None` to ask the
    /// message again that is replaced.
    pub message: Option<String>,
    /// The stored message whose place the turn takes, with all after it.
    pub replaces: Option<MessageId>,
    /// The user's name, for `{{user}}` in cards: 1 to 64 characters, at least one of them visible.
    pub user_name: Option<String>,
    /// The number of the greeting that the message answers; 0 is the first.
    pub greeting: Option<usize>,
    /// A JSON object of at most 2 KiB, stored verbatim with the message.
    pub metadata: Option<Box<RawValue>>,
}

/// The fields as raw JSON, so that an error can name the field.
#[derive(Deserialize)]
struct ChatForm<'a> {
    #[serde(borrow)]
    character_id: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    replaces: Option<&'a RawValue>,
    #[serde(borrow)]
    user_name: Option<&'a RawValue>,
    #[serde(borrow)]
    greeting: Option<&'a RawValue>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

impl ChatBody {
    /// Parses the body of `request`, and records its character in the invocation.
    ///
    /// # Errors
    /// A [`Problem`] that names the invalid field.
    pub fn parse(request: &UserRequest) -> Result<Self, Problem> {
        let form: ChatForm<'_> = json(&request.request)?;
        let character = character(&text("character_id", form.character_id)?)?;
        request.invocation.note_character(&character);
        let replaces = match form.replaces {
            Some(id) => Some(message_id("replaces", &text("replaces", Some(id))?)?),
            None => None,
        };
        let message = match (form.message, &replaces) {
            (None, Some(_)) => None,
            (message, _) => Some(new_message(message)?),
        };
        let name = |name| user_name(text("user_name", Some(name))?);
        let user_name = form.user_name.map(name).transpose()?;
        let greeting = form.greeting.map(greeting).transpose()?;
        let metadata = form.metadata.map(metadata).transpose()?;
        Ok(Self {
            character,
            message,
            replaces,
            user_name,
            greeting,
            metadata,
        })
    }
}

fn new_message(value: Option<&RawValue>) -> Result<String, Problem> {
    let message = text("message", value)?;
    if is_blank(&message) {
        return Err(invalid("message", "must not be empty"));
    }
    if message.chars().count() > MAX_MESSAGE_CHARACTERS {
        return Err(invalid("message", "must be at most 2000 characters"));
    }
    Ok(message)
}

/// Checks a user's name, from a body or a query.
pub(super) fn user_name(name: String) -> Result<String, Problem> {
    let is_allowed = !is_blank(&name) && name.chars().count() <= MAX_NAME_CHARACTERS;
    if !is_allowed || name.contains(char::is_control) {
        return Err(invalid(
            "user_name",
            "must be 1 to 64 characters, not only white space, and without control characters",
        ));
    }
    Ok(name)
}

fn greeting(value: &RawValue) -> Result<usize, Problem> {
    // JSON has one kind of numbers, so `1.0` is a whole one.
    let number: Option<f64> = serde_json::from_str(value.get()).ok();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number; one above the range of the type becomes its largest, which no greeting has"
    )]
    number
        .filter(|number| number.fract() == 0.0 && *number >= 0.0)
        .map(|number| number as usize)
        .ok_or_else(|| invalid("greeting", "must be a whole number from 0"))
}

/// The body of a request that sets a session's state.
#[derive(Debug)]
pub struct StateBody {
    /// The character of the session.
    pub character: CharacterId,
    /// The state to set.
    pub state: State,
}

#[derive(Deserialize)]
struct StateForm<'a> {
    #[serde(borrow)]
    character_id: Option<&'a RawValue>,
    #[serde(borrow)]
    state: Option<&'a RawValue>,
}

impl StateBody {
    /// Parses the body of `request`, and records its character in the invocation.
    ///
    /// # Errors
    /// A [`Problem`] that names the invalid field.
    pub fn parse(request: &UserRequest) -> Result<Self, Problem> {
        let form: StateForm<'_> = json(&request.request)?;
        let character = character(&text("character_id", form.character_id)?)?;
        request.invocation.note_character(&character);
        Ok(Self {
            character,
            state: State::parse(&text("state", form.state)?)
                .ok_or_else(|| invalid("state", "must be ACTIVE, INACTIVE or ENDED"))?,
        })
    }
}

fn json<'a, T: Deserialize<'a>>(request: &'a Event) -> Result<T, Problem> {
    let bytes = request.body.as_slice();
    if bytes.len() > MAX_BODY_BYTES {
        return Err(Problem::PayloadTooLarge);
    }
    if !is_json(request) {
        return Err(Problem::UnsupportedMediaType);
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|_| Problem::InvalidJson("the body is not UTF-8".to_owned()))?;
    // Serde also accepts an array, as the fields in order.
    let is_object = text.trim_start().starts_with('{');
    match serde_json::from_str(text) {
        Ok(form) if is_object => Ok(form),
        Err(error) if !error.is_data() => Err(Problem::InvalidJson(format!(
            "the body is not valid JSON (line {}, column {})",
            error.line(),
            error.column()
        ))),
        // A field that appears twice is rejected, because either value may be the intended one.
        Err(_) if is_object => Err(Problem::InvalidRequest(
            "the body has a field twice".to_owned(),
        )),
        Ok(_) | Err(_) => Err(Problem::InvalidRequest(
            "the body must be a JSON object".to_owned(),
        )),
    }
}

fn is_json(request: &Event) -> bool {
    let content_type = request
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media_type = content_type
        .and_then(|value| value.split(';').next())
        .unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

fn text(field: &'static str, value: Option<&RawValue>) -> Result<String, Problem> {
    let value = value.ok_or_else(|| invalid(field, "is required"))?;
    serde_json::from_str(value.get()).map_err(|error| match error.classify() {
        Category::Data => invalid(field, "must be text"),
        // Half of a surrogate pair, for example.
        Category::Syntax | Category::Eof | Category::Io => {
            Problem::InvalidJson(format!("{field}: is not valid JSON text"))
        }
    })
}

fn metadata(value: &RawValue) -> Result<Box<RawValue>, Problem> {
    if value.get().len() > MAX_METADATA_BYTES {
        return Err(invalid("metadata", "must be at most 2 KiB"));
    }
    if !value.get().starts_with('{') {
        return Err(invalid("metadata", "must be a JSON object"));
    }
    if !is_readable(value, MAX_METADATA_DEPTH) {
        return Err(Problem::InvalidJson(
            "metadata: is not valid JSON, or nested too deeply".to_owned(),
        ));
    }
    Ok(value.to_owned())
}

/// Returns whether other parsers can read JSON that is stored raw: no half surrogate pairs, and at most `depth`
/// nested objects and lists. Numbers may have any size.
fn is_readable(value: &RawValue, depth: usize) -> bool {
    let json = value.get();
    let below = depth.checked_sub(1);
    let is_below = |value: &RawValue| below.is_some_and(|depth| is_readable(value, depth));
    if json.starts_with('{') {
        serde_json::from_str::<HashMap<String, &RawValue>>(json)
            .is_ok_and(|members| below.is_some() && members.into_values().all(is_below))
    } else if json.starts_with('[') {
        serde_json::from_str::<Vec<&RawValue>>(json)
            .is_ok_and(|elements| below.is_some() && elements.into_iter().all(is_below))
    } else if json.starts_with('"') {
        serde_json::from_str::<String>(json).is_ok()
    } else {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_greeting_is_whole_however_it_is_written() {
        let read = |json: &str| greeting(&RawValue::from_string(json.to_owned()).expect("JSON"));
        for (json, expected) in [("0", 0), ("-0", 0), ("2", 2), ("2.0", 2), ("1e1", 10)] {
            assert_eq!(read(json), Ok(expected), "{json}");
        }
        // The largest is more than any character has.
        assert_eq!(read("1e300"), Ok(usize::MAX));
        let expected = invalid("greeting", "must be a whole number from 0");
        for json in ["-1", "0.5", "\"0\"", "true", "[0]", "1e999"] {
            assert_eq!(read(json), Err(expected.clone()), "{json}");
        }
    }

    #[test]
    fn a_name_of_a_user_is_visible_and_has_no_control_characters() {
        let longest = "雨".repeat(MAX_NAME_CHARACTERS);
        for name in ["小雨", "O'Neill {{char}}", longest.as_str()] {
            assert_eq!(user_name(name.to_owned()), Ok(name.to_owned()));
        }
        let too_long = format!("{longest}雨");
        for name in [
            "",
            " \u{3000}",
            "\u{200b}",
            "a\nb",
            "a\u{85}",
            too_long.as_str(),
        ] {
            assert!(user_name(name.to_owned()).is_err(), "{name:?}");
        }
    }
}
