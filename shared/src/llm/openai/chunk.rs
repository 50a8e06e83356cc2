//! Reads one chunk of a stream, or a whole completion, in the shapes that servers send.
//!
//! The usual chunk is read in one pass without copying its text. Rare members stay raw JSON until they are needed.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::finish::{self, Finish};
use super::text::{Content, Text};
use super::usage;
use crate::llm::Usage;

/// The content of one chunk, or of a whole completion.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Chunk<'a> {
    /// Next part of the reply, or the whole of it.
    pub(super) text: Option<Text<'a>>,
    /// Whether the text is a whole message and not the next part.
    pub(super) is_whole: bool,
    /// Whether the chunk contains reasoning beside the text.
    pub(super) has_thought: bool,
    /// End of the reply, if the chunk reports it.
    pub(super) finish: Option<Finish>,
    /// Token counts, if the chunk contains plausible ones.
    pub(super) usage: Option<Usage>,
    /// Error object, if the chunk is one.
    pub(super) error: Option<Value>,
}

/// The data is not a completion chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotAChunk;

#[derive(Deserialize)]
struct Form<'a> {
    #[serde(borrow, default)]
    choices: Option<First<'a>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

/// What the first choice with the index 0, or without one, adds to the chunk. The request asks for one choice only.
struct First<'a>(Option<Chunk<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for First<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Choices;

        impl<'de> Visitor<'de> for Choices {
            type Value = First<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of choices")
            }

            // A list of them would take memory for each chunk.
            fn visit_seq<A: SeqAccess<'de>>(self, mut choices: A) -> Result<Self::Value, A::Error> {
                let mut first = None;
                while let Some(choice) = choices.next_element::<Choice<'de>>()? {
                    if first.is_none() && choice.index.is_none_or(|index| index == 0.0) {
                        first = Some(choice.chunk());
                    }
                }
                Ok(First(first))
            }
        }

        deserializer.deserialize_seq(Choices)
    }
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: Option<f64>,
    #[serde(borrow, default)]
    delta: Option<Message<'a>>,
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
    #[serde(borrow, default)]
    finish_reason: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

impl<'a> Choice<'a> {
    fn chunk(self) -> Chunk<'a> {
        let mut chunk = Chunk {
            usage: self.usage.and_then(|json| usage::read(json.get())),
            finish: self.finish_reason.and_then(|json| {
                let word: String = serde_json::from_str(json.get()).ok()?;
                finish::read(&word)
            }),
            ..Chunk::default()
        };
        if let Some(delta) = self.delta {
            chunk.has_thought = delta.has_thought();
            chunk.text = delta.text();
        }
        if let Some(message) = self.message
            && chunk.text.is_none()
        {
            chunk.has_thought |= message.has_thought();
            chunk.text = message.text();
            chunk.is_whole = true;
        }
        chunk
    }
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: Option<Content<'a>>,
    /// Text with which the model declines; it is the reply.
    #[serde(borrow, default)]
    refusal: Option<Content<'a>>,
    // Reasoning, under the names that upstreams use.
    #[serde(borrow, default)]
    reasoning_content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning_details: Option<&'a RawValue>,
    #[serde(borrow, default)]
    reasoning_text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    thinking: Option<&'a RawValue>,
    #[serde(borrow, default)]
    thinking_blocks: Option<&'a RawValue>,
    #[serde(borrow, default)]
    thought: Option<&'a RawValue>,
}

impl<'a> Message<'a> {
    fn has_thought(&self) -> bool {
        let names = [
            self.reasoning_content,
            self.reasoning,
            self.reasoning_details,
            self.reasoning_text,
            self.thinking,
            self.thinking_blocks,
            self.thought,
        ];
        let says_something =
            |json: &RawValue| !matches!(json.get(), "\"\"" | "[]" | "{}" | "false");
        names.into_iter().flatten().any(says_something)
            || self
                .content
                .as_ref()
                .is_some_and(|content| content.has_thought)
    }

    fn text(self) -> Option<Text<'a>> {
        let said = |content: Option<Content<'a>>| {
            content
                .map(|content| content.text)
                .filter(|text| !text.is_empty())
        };
        said(self.content).or_else(|| said(self.refusal))
    }
}

impl<'a> Chunk<'a> {
    /// Reads the data of an event, or a whole body.
    ///
    /// # Errors
    /// The data is not UTF-8, not a JSON object, or not an object that can be part of a completion.
    pub(super) fn read(data: &'a [u8]) -> Result<Self, NotAChunk> {
        // Checking the text as a whole is faster than checking each string.
        let data = str::from_utf8(data).map_err(|_| NotAChunk)?;
        // The derived readers accept a list in place of an object, and a list is not a chunk.
        if !data.trim_ascii_start().starts_with('{') {
            return Err(NotAChunk);
        }
        let form: Form<'a> = serde_json::from_str(data).map_err(|_| NotAChunk)?;
        let usage = form.usage.and_then(|json| usage::read(json.get()));
        let error = form
            .error
            .and_then(|json| serde_json::from_str(json.get()).ok());
        let mut chunk = match form.choices {
            Some(First(chunk)) => chunk.unwrap_or_default(),
            None if error.is_none() && usage.is_none() => Self {
                error: flat_error(data),
                ..Self::default()
            },
            None => Self::default(),
        };
        chunk.usage = usage.or(chunk.usage);
        chunk.error = error.or(chunk.error);
        Ok(chunk)
    }
}

/// Returns an error whose fields are at the top level, as old versions of vLLM and some gateways send it.
fn flat_error(data: &str) -> Option<Value> {
    let object: Value = serde_json::from_str(data).ok()?;
    let has = |name: &str| object.get(name).is_some_and(|value| !value.is_null());
    let is_error = has("message") && (has("code") || object.get("object")? == "error");
    is_error.then_some(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Chunk<'_> {
        Chunk::read(json.as_bytes()).expect("a chunk")
    }

    fn text(json: &str) -> Option<String> {
        match read(json).text? {
            Text::Whole(text) => Some(text.into_owned()),
            Text::Halved(_) => panic!("no halves are in it"),
        }
    }

    #[test]
    fn thought_has_many_names_and_an_empty_one_is_none() {
        for name in [
            "reasoning_content",
            "reasoning",
            "reasoning_text",
            "thinking",
            "thought",
        ] {
            let thought = |value: &str| {
                let delta = format!(r#"{{"content":"","{name}":{value}}}"#);
                let json = format!(r#"{{"choices":[{{"delta":{delta}}}]}}"#);
                let chunk = read(&json);
                assert_eq!(chunk.text, None);
                chunk.has_thought
            };
            assert!(thought("\"hm\"") && thought("\"\\ud83d\""), "{name}");
            assert!(!thought("\"\"") && !thought("null"), "{name}");
        }
        let details = r#"{"choices":[{"delta":{"reasoning_details":[{"type":"reasoning.text","text":"hm"}]}}]}"#;
        assert!(read(details).has_thought);
        assert!(!read(r#"{"choices":[{"delta":{"reasoning_details":[]}}]}"#).has_thought);
    }

    #[test]
    fn a_refusal_is_text_and_so_is_a_message() {
        assert_eq!(
            text(r#"{"choices":[{"delta":{"content":null,"refusal":"不"}}]}"#).as_deref(),
            Some("不")
        );
        let whole = r#"{"choices":[{"index":0,"message":{"content":"好"},"finish_reason":"stop"}],"usage":{"completion_tokens":1}}"#;
        assert_eq!(text(whole).as_deref(), Some("好"));
        assert!(read(whole).is_whole);
    }

    #[test]
    fn the_usage_may_be_in_the_choice_and_the_word_for_the_end_of_another_type() {
        let chunk = read(
            r#"{"choices":[{"index":0.0,"delta":{},"finish_reason":7,"usage":{"completion_tokens":3}}]}"#,
        );
        assert_eq!(
            chunk.usage.and_then(|usage| usage.completion_tokens),
            Some(3)
        );
        assert_eq!(chunk.finish, None);
    }

    #[test]
    fn an_error_may_lie_at_the_top() {
        assert!(
            read(r#"{"object":"error","message":"no","code":400}"#)
                .error
                .is_some()
        );
        assert!(read(r#"{"error":"no"}"#).error.is_some());
        assert!(read(r#"{"error":null,"choices":[]}"#).error.is_none());
        assert!(read("{}").error.is_none());
    }
}
