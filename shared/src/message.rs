//! One message, as Redis stores it and as an upstream is sent it.
//!
//! The stored form is shared with other writers (the Python service that this one replaces), so reading is lenient:
//! fields that are missing, null or of another numeric type get a default. Only a message without a role or without
//! content is not a message.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The person.
    User,
    /// The character.
    Assistant,
    /// Neither: instructions.
    System,
}

/// A stored message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Message {
    /// Unique among messages; empty where another writer gave none.
    #[serde(default, deserialize_with = "null_is_default")]
    pub msg_id: String,
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub content: String,
    /// When, in Unix seconds; 0 where another writer gave none.
    #[serde(default, deserialize_with = "integer")]
    pub timestamp: i64,
    /// Its length in tokens. Other writers leave 0 or nonsense, so readers treat what is not positive as unknown.
    #[serde(default, deserialize_with = "integer")]
    pub token_count: i64,
    /// An object or null, kept to the letter: numbers that no Rust type holds survive.
    #[serde(default)]
    pub metadata: Option<Box<RawValue>>,
}

impl Message {
    /// A message with a new id and no metadata.
    #[must_use]
    pub fn new(role: Role, content: String, timestamp: i64, token_count: i64) -> Self {
        Self {
            msg_id: Uuid::now_v7().hyphenated().to_string(),
            role,
            content,
            timestamp,
            token_count,
            metadata: None,
        }
    }

    /// The element as the list stores it.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings, integers and raw JSON cannot fail to serialize; an empty element would be skipped by every reader.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads an element of the list.
    ///
    /// # Errors
    /// When it is not JSON, or has no role or no content. The error names a place and a type, never the content.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

/// A message as an upstream is sent it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PromptMessage {
    /// Who speaks.
    pub role: Role,
    /// What was said.
    pub content: String,
    /// The speaker's name, where one is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl PromptMessage {
    /// A message without a name.
    #[must_use]
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            name: None,
        }
    }
}

impl From<Message> for PromptMessage {
    fn from(message: Message) -> Self {
        Self::new(message.role, message.content)
    }
}

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Any JSON number becomes an integer, saturating; anything else becomes 0.
fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let number = match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Number(number) => number,
        _ => return Ok(0),
    };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "`as` from a float saturates, and that is what is wanted"
    )]
    Ok(number
        .as_i64()
        .or_else(|| number.as_u64().map(|_| i64::MAX))
        .or_else(|| number.as_f64().map(|float| float as i64))
        .unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Elements that the Python service wrote, to the letter.
    const FROM_PYTHON: [&str; 2] = [
        r#"{"msg_id":"3f8e1c9a-52b7-4d0e-9a63-0c6f3b7d21ab","role":"user","content":"你好，<|endoftext|> \"小雨\"\n","timestamp":1732430000,"token_count":12,"metadata":null}"#,
        r#"{"msg_id":"b0c4a9de-1f6e-4b8e-8a35-6f0f35a4d7c2","role":"assistant","content":"你好呀！","timestamp":1732430003,"token_count":5,"metadata":{"mood":"calm","score":0.75}}"#,
    ];

    #[test]
    fn elements_of_the_python_service_are_read() {
        let [user, assistant] =
            FROM_PYTHON.map(|json| Message::from_json(json.as_bytes()).expect("readable"));
        assert_eq!(user.role, Role::User);
        assert_eq!(user.content, "你好，<|endoftext|> \"小雨\"\n");
        assert_eq!((user.timestamp, user.token_count), (1_732_430_000, 12));
        assert!(user.metadata.is_none());
        assert_eq!(assistant.role, Role::Assistant);
        assert_eq!(
            assistant.metadata.expect("an object").get(),
            r#"{"mood":"calm","score":0.75}"#
        );
    }

    #[test]
    fn what_is_written_has_every_field_in_the_order_of_the_contract() {
        let json = Message::new(Role::User, "hi".into(), 7, 1).to_json();
        let message = Message::from_json(json.as_bytes()).expect("readable");
        assert_eq!(
            json,
            format!(
                r#"{{"msg_id":"{}","role":"user","content":"hi","timestamp":7,"token_count":1,"metadata":null}}"#,
                message.msg_id
            )
        );
    }

    #[test]
    fn missing_and_odd_optional_fields_get_defaults() {
        let message =
            Message::from_json(br#"{"role":"user","content":"x","timestamp":1.9,"token_count":null,"msg_id":null,"extra":[1]}"#)
                .expect("readable");
        assert_eq!(
            (
                message.msg_id.as_str(),
                message.timestamp,
                message.token_count
            ),
            ("", 1, 0)
        );
        let huge = Message::from_json(
            br#"{"role":"user","content":"x","token_count":18446744073709551615}"#,
        );
        assert_eq!(huge.expect("readable").token_count, i64::MAX);
    }

    #[test]
    fn without_role_or_content_it_is_no_message() {
        for json in [
            r#"{"content":"x"}"#,
            r#"{"role":"user"}"#,
            r#"{"role":"tool","content":"x"}"#,
            "[]",
            "",
            "\u{0}",
        ] {
            assert!(Message::from_json(json.as_bytes()).is_err(), "{json}");
        }
    }

    #[test]
    fn metadata_survives_to_the_digit() {
        let mut message = Message::new(Role::User, "x".into(), 0, 0);
        let raw = r#"{"n":12345678901234567890123.000}"#;
        message.metadata = Some(RawValue::from_string(raw.into()).expect("json"));
        let back = Message::from_json(message.to_json().as_bytes()).expect("readable");
        assert_eq!(back.metadata.expect("kept").get(), raw);
    }
}
