//! A message, as Redis stores it and as an upstream receives it.
//!
//! Other writers share the stored form (the Python service that this one replaces), so reading is lenient: a field
//! that is missing or invalid gets a default. Only an element without a role or without content is not a message.
//! Messages that this service wrote parse at once; others take a second, slower parser.

mod blank;

use std::collections::HashMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

pub use self::blank::is_blank;
use crate::foreign;

/// The author of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The user.
    User,
    /// The character.
    Assistant,
    /// Instructions, from neither of the two.
    System,
}

impl Role {
    /// Returns the role that `word` names, in any case.
    fn parse(word: &str) -> Option<Self> {
        match word.trim().to_ascii_lowercase().as_str() {
            "user" => Some(Self::User),
            "assistant" => Some(Self::Assistant),
            "system" => Some(Self::System),
            _ => None,
        }
    }
}

/// A stored message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Message {
    /// The message's unique id; empty if another writer stored none.
    #[serde(default)]
    pub msg_id: String,
    /// The author of the message.
    pub role: Role,
    /// The text of the message.
    pub content: String,
    /// When the message was written, in Unix seconds; 0 if another writer stored no valid time.
    #[serde(default)]
    pub timestamp: i64,
    /// The number of tokens of the text. Other writers store 0 or invalid counts, so readers check it with
    /// [`crate::tokens::is_believable`].
    #[serde(default)]
    pub token_count: i64,
    /// A JSON object, stored verbatim, so that numbers too large for Rust types survive; `None` for null.
    #[serde(default, deserialize_with = "raw")]
    pub metadata: Option<Box<RawValue>>,
}

impl Message {
    /// Returns a message with a new id and no metadata. `timestamp` is in Unix seconds.
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

    /// Returns the character's greeting of this number, as the first message of a session. Its metadata is the number: 0 is
    /// the card's first. The scripts know the form too.
    #[must_use]
    pub fn greeting(number: usize, content: String, timestamp: i64, token_count: i64) -> Self {
        let metadata = RawValue::from_string(format!(r#"{{"greeting":{number}}}"#));
        Self {
            metadata: metadata.ok(),
            ..Self::new(Role::Assistant, content, timestamp, token_count)
        }
    }

    /// Returns whether the message is a greeting: the character's words before the first message of the user. It belongs
    /// to the turn that follows it.
    #[must_use]
    pub fn is_greeting(&self) -> bool {
        // Other writers may have a field of this name too.
        let number = |raw: &RawValue| -> Option<u64> {
            let rest = raw.get().strip_prefix(r#"{"greeting":"#)?;
            rest.strip_suffix('}')?.parse().ok()
        };
        self.role == Role::Assistant && self.metadata.as_deref().and_then(number).is_some()
    }

    /// Returns the message as the JSON element that the list stores.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings, integers and raw JSON cannot fail to serialize. Readers would skip an empty element.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Returns the message in an element of the list.
    ///
    /// # Errors
    /// The element is not valid JSON even after repair, or has no role or no content. The error names a position and
    /// a type, never the content.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        // Text that is checked as a whole is read faster than one that is checked string by string.
        str::from_utf8(json)
            .ok()
            .and_then(|json| serde_json::from_str(json).ok())
            .map_or_else(|| Self::from_foreign_json(json), Ok)
    }

    /// Returns the message in an element that another writer stored: JSON that `serde` rejects, fields that appear
    /// twice (the last one wins, as in Python), and fields of another type.
    fn from_foreign_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        let json = foreign::mended(&foreign::text(json));
        let mut fields: HashMap<String, Box<RawValue>> = serde_json::from_str(&json)?;
        let value = |name: &str| {
            let raw = fields.get(name).map_or("null", |raw| raw.get());
            serde_json::from_str::<Value>(raw).unwrap_or_default()
        };
        let role = value("role")
            .as_str()
            .and_then(Role::parse)
            .ok_or_else(|| serde::de::Error::missing_field("role"))?;
        if !fields.contains_key("content") {
            return Err(serde::de::Error::missing_field("content"));
        }
        Ok(Self {
            msg_id: text(&value("msg_id")).unwrap_or_default(),
            role,
            content: text(&value("content"))
                .ok_or_else(|| serde::de::Error::custom("content is not text"))?,
            timestamp: foreign::seconds(&value("timestamp")).unwrap_or(0),
            token_count: foreign::integer(&value("token_count")).unwrap_or(0),
            metadata: fields
                .remove("metadata")
                .filter(|metadata| is_object(metadata)),
        })
    }
}

/// A message as an upstream receives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PromptMessage {
    /// The author of a message.
    pub role: Role,
    /// The text of the message.
    pub content: String,
    /// The author's name, if one is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl PromptMessage {
    /// Returns a message without a name.
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

/// Reads a value as raw JSON that other parsers can read too. Half of a surrogate pair is valid in the JSON grammar,
/// but many parsers reject it.
fn raw<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    let raw = Option::<Box<RawValue>>::deserialize(deserializer)?;
    Ok(raw
        .map(foreign::readable)
        .filter(|metadata| is_object(metadata)))
}

/// Returns whether metadata is what it has to be. Other writers store anything.
fn is_object(metadata: &RawValue) -> bool {
    metadata.get().starts_with('{')
}

/// Returns a string as it is, an empty string for null, and a number as its digits; `None` for other types.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Elements as the Python service wrote them, verbatim.
    const FROM_PYTHON: [&str; 2] = [
        r#"{"msg_id":"3f8e1c9a-52b7-4d0e-9a63-0c6f3b7d21ab","role":"user","content":"你好，<|endoftext|> \"小雨\"\n","timestamp":1732430000,"token_count":12,"metadata":null}"#,
        r#"{"msg_id":"b0c4a9de-1f6e-4b8e-8a35-6f0f35a4d7c2","role":"assistant","content":"你好呀！","timestamp":1732430003,"token_count":5,"metadata":{"mood":"calm","score":0.75}}"#,
    ];

    #[test]
    fn a_greeting_is_known_by_its_metadata() {
        let greeting = Message::greeting(2, "hello".into(), 5, 1);
        assert!(greeting.is_greeting());
        let read = Message::from_json(greeting.to_json().as_bytes()).expect("readable");
        assert!(read.is_greeting());
        assert_eq!(read.metadata.expect("metadata").get(), r#"{"greeting":2}"#);
        let said = |role: &str, metadata: &str| {
            let json = format!(r#"{{"role":"{role}","content":"x","metadata":{metadata}}}"#);
            Message::from_json(json.as_bytes()).expect("readable")
        };
        assert!(!said("user", r#"{"greeting":0}"#).is_greeting());
        for metadata in [
            "null",
            "{}",
            r#"{"greeting":null}"#,
            r#"{"greeting":"0"}"#,
            r#"{"greeting": 0}"#,
            r#"{"greeting":0,"mood":"calm"}"#,
        ] {
            assert!(!said("assistant", metadata).is_greeting(), "{metadata}");
        }
    }

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
            r#"{"role":"user","content":["x"]}"#,
            r#"{"role":"user","content":"cut of"#,
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
    fn what_python_wrote_is_read_field_by_field() {
        let json = r#"{"msg_id": 42, "role": "USER", "content": "a\ud83d b", "timestamp": "2024-11-24T06:33:20",
            "token_count": "7.0", "metadata": {"score": NaN, "far": -Infinity, "half": "\ude00"}, "x": 1, "x": 2}"#;
        let message = Message::from_json(json.as_bytes()).expect("readable");
        assert_eq!(
            (
                message.msg_id.as_str(),
                message.role,
                message.content.as_str()
            ),
            ("42", Role::User, "a\u{FFFD} b")
        );
        assert_eq!((message.timestamp, message.token_count), (1_732_430_000, 7));
        assert_eq!(
            message.metadata.as_ref().expect("kept").get(),
            "{\"score\": null, \"far\": null, \"half\": \"\u{FFFD}\"}"
        );
        serde_json::from_str::<Value>(&message.to_json()).expect("valid JSON");
    }

    #[test]
    fn one_odd_field_costs_no_other() {
        for (odd, content) in [
            (r#""content":"x","metadata":{"n":NaN}"#, "x"),
            (r#""content":"x","metadata":NaN"#, "x"),
            (r#""content":"x","msg_id":7"#, "x"),
            (r#""content":"x","msg_id":{"$oid":"1"}"#, "x"),
            (r#""content":"x","token_count":1e999"#, "x"),
            (r#""content":"x","token_count":"many","timestamp":[]"#, "x"),
            (r#""content":"x","content":"y""#, "y"),
            (r#""content":null"#, ""),
            (r#""content":5"#, "5"),
            (r#""content":"x","extra":"\udc00""#, "x"),
            ("\"content\":\"x\ny\"", "x\ny"),
        ] {
            let json = format!(r#"{{"role":"assistant",{odd}}}"#);
            let message = Message::from_json(json.as_bytes())
                .unwrap_or_else(|error| panic!("{error}: {odd}"));
            assert_eq!(
                (message.role, message.content.as_str()),
                (Role::Assistant, content),
                "{odd}"
            );
            serde_json::from_str::<Value>(&message.to_json()).expect("valid JSON");
        }
        let invalid = Message::from_json(b"\xEF\xBB\xBF{\"role\":\"user\",\"content\":\"a\xFFb\"}");
        assert_eq!(invalid.expect("readable").content, "a\u{FFFD}b");
    }

    #[test]
    fn half_a_pair_in_metadata_alone_is_mended() {
        let json =
            r#"{"role":"user","content":"x","metadata":{"half":"\ud83d","whole":"\ud83d\ude00"}}"#;
        let metadata = Message::from_json(json.as_bytes())
            .expect("readable")
            .metadata;
        assert_eq!(
            metadata.expect("kept").get(),
            "{\"half\":\"\u{FFFD}\",\"whole\":\"\\ud83d\\ude00\"}"
        );
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
