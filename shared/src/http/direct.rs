//! Events without a route: from callers with the IAM right to invoke a function. An answer is a JSON object, and so is a
//! refusal: the problem document that HTTP would have as its body.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use lambda_http::Body;
use lambda_runtime::Context;
use serde::Serialize;
use serde_json::value::RawValue;

use super::request::{character, invalid};
use super::{Answer, Problem, ok};
use crate::characters::card::decoded_base64;
use crate::characters::{Listed, StoredCharacter};
use crate::chat::Understood;
use crate::ids::CharacterId;
use crate::telemetry::{Invocation, Telemetry};

/// Most ids in one answer, unless the event says less.
const MAX_LISTED: usize = 1_000;

/// What an operator does with stored characters.
#[derive(Debug)]
pub enum CharacterCommand {
    /// Stores the character in a file: PNG, CHARX or JSON.
    Put {
        /// The id to store it under.
        id: CharacterId,
        /// The bytes of the file.
        file: Vec<u8>,
    },
    /// Reads a stored character.
    Get(CharacterId),
    /// Deletes a stored character.
    Delete(CharacterId),
    /// Lists the ids of stored characters.
    List {
        /// The text after which the list begins: the `next` of an earlier answer.
        after: Option<String>,
        /// Most ids to return.
        most: usize,
    },
}

impl CharacterCommand {
    /// Reads an event, and records its character in the invocation.
    ///
    /// # Errors
    /// A [`Problem`] that names the invalid field.
    fn parse(event: &RawValue, invocation: &Invocation) -> Result<Self, Problem> {
        let fields: BTreeMap<String, &RawValue> = serde_json::from_str(event.get())
            .map_err(|_| Problem::InvalidRequest("the event must be a JSON object".to_owned()))?;
        let field = |name: &str| fields.get(name).copied().filter(|raw| raw.get() != "null");
        let text = |name: &'static str| {
            let parse = |raw: &RawValue| {
                serde_json::from_str::<String>(raw.get()).map_err(|_| invalid(name, "must be text"))
            };
            field(name).map(parse).transpose()
        };
        let id = || {
            let id = text("character_id")?.ok_or_else(|| invalid("character_id", "is required"))?;
            let id = character(&id)?;
            invocation.note_character(&id);
            Ok::<_, Problem>(id)
        };
        match text("action")?.as_deref() {
            Some("put") => Ok(Self::Put {
                id: id()?,
                file: file(field("card").ok_or_else(|| invalid("card", "is required"))?)?,
            }),
            Some("get") => Ok(Self::Get(id()?)),
            Some("delete") => Ok(Self::Delete(id()?)),
            Some("list") => {
                let limit = field("limit").map(|raw| serde_json::from_str::<usize>(raw.get()));
                let most = match limit {
                    None => MAX_LISTED,
                    Some(Ok(most)) if (1..=MAX_LISTED).contains(&most) => most,
                    Some(_) => return Err(invalid("limit", "must be a number from 1 to 1000")),
                };
                Ok(Self::List {
                    after: text("after")?,
                    most,
                })
            }
            _ => Err(invalid("action", "must be put, get, delete or list")),
        }
    }
}

/// Returns the bytes of a card: of a JSON object to the letter, or of a file in base64.
fn file(card: &RawValue) -> Result<Vec<u8>, Problem> {
    if card.get().starts_with('{') {
        return Ok(card.get().as_bytes().to_vec());
    }
    let expected = || invalid("card", "must be a JSON object, or a file in base64");
    let text: String = serde_json::from_str(card.get()).map_err(|_| expected())?;
    decoded_base64(text.as_bytes()).ok_or_else(expected)
}

/// Starts the record of an invocation.
pub(super) fn begin(telemetry: &Telemetry, context: &Context) -> Invocation {
    telemetry.begin("INVOKE", context.request_id.clone(), None)
}

/// Returns the answer to one event, even if its route fails or panics.
pub(super) async fn answer<F>(
    event: &RawValue,
    invocation: &Invocation,
    route: impl FnOnce(CharacterCommand) -> F,
) -> Box<RawValue>
where
    F: Future<Output = Result<Answer, Problem>>,
{
    let outcome = async { route(CharacterCommand::parse(event, invocation)?).await };
    // A panic cannot leave partial changes here: a route shares no state with this function.
    let outcome = AssertUnwindSafe(outcome).catch_unwind().await;
    let answer = outcome
        .unwrap_or(Err(Problem::Internal))
        .unwrap_or_else(Problem::into_answer);
    invocation.note(|figures| figures.status = Some(answer.status().as_u16()));
    let body = match answer.into_body() {
        Body::Text(body) => body,
        _ => String::new(),
    };
    RawValue::from_string(body).unwrap_or_default()
}

#[derive(Serialize)]
struct PutOf<'a> {
    character_id: &'a str,
    #[serde(flatten)]
    understood: &'a Understood,
}

/// Returns the answer to a character that is stored.
#[must_use]
pub fn put(id: &CharacterId, understood: &Understood) -> Answer {
    ok(&PutOf {
        character_id: id.as_str(),
        understood,
    })
}

#[derive(Serialize)]
struct StoredOf<'a> {
    character_id: &'a str,
    is_sample: bool,
    card: Cow<'a, RawValue>,
}

/// Returns the answer with a character as it is stored. JSON that other parsers cannot read is in a text.
#[must_use]
pub fn stored_character(id: &CharacterId, stored: &StoredCharacter) -> Answer {
    let text = String::from_utf8_lossy(&stored.json);
    let raw = serde_json::from_str::<&RawValue>(&text).map(Cow::Borrowed);
    let in_text = || serde_json::value::to_raw_value(&text).unwrap_or_default();
    ok(&StoredOf {
        character_id: id.as_str(),
        is_sample: stored.is_sample,
        card: raw.unwrap_or_else(|_| Cow::Owned(in_text())),
    })
}

#[derive(Serialize)]
struct DeletedOf<'a> {
    character_id: &'a str,
    deleted: bool,
}

/// Returns the answer to a deletion. `deleted` says whether there was a character.
#[must_use]
pub fn deleted_character(id: &CharacterId, deleted: bool) -> Answer {
    ok(&DeletedOf {
        character_id: id.as_str(),
        deleted,
    })
}

#[derive(Serialize)]
struct Characters<'a> {
    characters: Vec<&'a str>,
    next: Option<&'a str>,
}

/// Returns the answer with ids of stored characters.
#[must_use]
pub fn characters(listed: &Listed) -> Answer {
    ok(&Characters {
        characters: listed.ids.iter().map(CharacterId::as_str).collect(),
        next: listed.next.as_deref(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(event: &str) -> Result<CharacterCommand, String> {
        let event = RawValue::from_string(event.to_owned()).expect("JSON");
        CharacterCommand::parse(&event, &Invocation::detached()).map_err(|problem| match problem {
            Problem::InvalidRequest(detail) => detail,
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn a_card_is_an_object_to_the_letter_or_a_file_in_base64() {
        let file = |card: &str| {
            let event = format!(r#"{{"action":"put","character_id":"mira","card":{card}}}"#);
            match parse(&event) {
                Ok(CharacterCommand::Put { file, .. }) => String::from_utf8(file).expect("text"),
                other => format!("{other:?}"),
            }
        };
        let object = "{ \"n\": 1.0e2,\n\"n\":1 }";
        assert_eq!(file(object), object);
        assert_eq!(file(r#""e3\n0-\r\nPz8""#), "{}>??");
    }

    #[test]
    fn what_is_wrong_with_an_event_is_named() {
        for (event, expected) in [
            ("[]", "the event must be a JSON object"),
            ("{}", "action: must be put, get, delete or list"),
            (r#"{"action":7}"#, "action: must be text"),
            (r#"{"action":"get"}"#, "character_id: is required"),
            (
                r#"{"action":"put","character_id":"m"}"#,
                "card: is required",
            ),
            (
                r#"{"action":"put","character_id":"m","card":[]}"#,
                "card: must be a JSON object, or a file in base64",
            ),
            (
                r#"{"action":"put","character_id":"m","card":"?"}"#,
                "card: must be a JSON object, or a file in base64",
            ),
            (
                r#"{"action":"list","limit":0}"#,
                "limit: must be a number from 1 to 1000",
            ),
        ] {
            assert_eq!(parse(event).expect_err(event), expected);
        }
        assert!(parse(r#"{"action":"get","character_id":""}"#).is_err());
        assert!(parse(r#"{"action":"list","limit":5,"after":"mira"}"#).is_ok());
    }
}
