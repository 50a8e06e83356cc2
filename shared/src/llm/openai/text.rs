//! Joins characters that JSON splits over two deltas.
//!
//! JSON escapes a character outside the basic plane as two surrogates (`\ud83d\ude00`). A server that cuts a reply
//! between them sends one surrogate, which UTF-8 cannot encode. serde_json returns such text as bytes in which a
//! surrogate takes three bytes (WTF-8).

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The text of one delta.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Text<'a> {
    /// Text that is valid UTF-8.
    Whole(Cow<'a, str>),
    /// Text with unpaired surrogates, as WTF-8.
    Halved(Vec<u8>),
}

impl Text<'_> {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Whole(text) => text.is_empty(),
            Self::Halved(_) => false,
        }
    }
}

/// The content of one delta, in any shape: a string, or a list of parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Content<'a> {
    /// Text to show to the user.
    pub(super) text: Text<'a>,
    /// Whether a part of the list is reasoning.
    pub(super) has_thought: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Read as bytes, because serde_json rejects unpaired surrogates in strings.
        deserializer.deserialize_bytes(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content<'de>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("text or a list of parts")
    }

    fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<Content<'de>, E> {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => Text::Whole(Cow::Borrowed(text)),
            Err(_) => halved(bytes).ok_or_else(|| E::custom("not UTF-8"))?,
        };
        Ok(Content {
            text,
            has_thought: false,
        })
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Content<'de>, E> {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => Text::Whole(Cow::Owned(text.to_owned())),
            Err(_) => halved(bytes).ok_or_else(|| E::custom("not UTF-8"))?,
        };
        Ok(Content {
            text,
            has_thought: false,
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Content<'de>, A::Error> {
        let mut bytes = Vec::new();
        let mut has_thought = false;
        while let Some(part) = parts.next_element::<&'de RawValue>()? {
            match read_part(part.get()) {
                Some(Part::Text(text)) => match text {
                    Text::Whole(text) => bytes.extend_from_slice(text.as_bytes()),
                    Text::Halved(halves) => bytes.extend_from_slice(&halves),
                },
                Some(Part::Thought) => has_thought = true,
                None => {}
            }
        }
        let text = String::from_utf8(bytes)
            .map(|text| Text::Whole(Cow::Owned(text)))
            .unwrap_or_else(|error| Text::Halved(error.into_bytes()));
        Ok(Content { text, has_thought })
    }
}

enum Part<'a> {
    Text(Text<'a>),
    Thought,
}

/// Returns one part of a list, or `None` if it is neither text nor reasoning.
fn read_part(json: &str) -> Option<Part<'_>> {
    #[derive(Deserialize)]
    struct Form<'a> {
        #[serde(borrow, rename = "type", default)]
        kind: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        text: Option<&'a RawValue>,
        #[serde(borrow, default)]
        refusal: Option<&'a RawValue>,
    }
    let string = |json| {
        let content: Content<'_> = serde_json::from_str(json).ok()?;
        Some(Part::Text(content.text))
    };
    if json.starts_with('"') {
        return string(json);
    }
    let form: Form<'_> = serde_json::from_str(json).ok()?;
    match form.kind.as_deref() {
        None | Some("text" | "output_text" | "text_delta") => string(form.text?.get()),
        Some("refusal") => string(form.refusal?.get()),
        Some("thinking" | "reasoning" | "thinking_delta" | "redacted_thinking") => {
            Some(Part::Thought)
        }
        Some(_) => None,
    }
}

/// Returns the text of bytes that are WTF-8, or `None` if they are not.
fn halved(bytes: &[u8]) -> Option<Text<'static>> {
    let mut rest = bytes;
    while let Err(error) = std::str::from_utf8(rest) {
        let (_, after) = rest.split_at_checked(error.valid_up_to())?;
        half(after)?;
        rest = after.get(3..)?;
    }
    Some(Text::Halved(bytes.to_vec()))
}

/// Returns the surrogate at the start of `bytes`, if there is one.
fn half(bytes: &[u8]) -> Option<u16> {
    match bytes {
        [0xED, second @ 0xA0..=0xBF, third @ 0x80..=0xBF, ..] => {
            Some(0xD000 | (u16::from(second & 0x3F) << 6) | u16::from(third & 0x3F))
        }
        _ => None,
    }
}

/// Joins surrogates across deltas. A surrogate without its other half becomes U+FFFD.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    /// High surrogate at the end of the last delta, waiting for its other half.
    first: Option<u16>,
}

impl Joiner {
    /// Returns the text that a delta adds. A high surrogate at its end is kept for the next delta.
    pub(super) fn join<'a>(&mut self, text: Text<'a>) -> Cow<'a, str> {
        let bytes = match &text {
            Text::Whole(_) if self.first.is_none() || text.is_empty() => {
                let Text::Whole(text) = text else {
                    return Cow::Borrowed("");
                };
                return text;
            }
            Text::Whole(text) => text.as_bytes(),
            Text::Halved(bytes) => bytes,
        };
        let mut joined = String::with_capacity(bytes.len() + 3);
        let mut rest = bytes;
        loop {
            let (valid, invalid) = match std::str::from_utf8(rest) {
                Ok(valid) => (valid, &[][..]),
                Err(error) => {
                    let (valid, invalid) = rest.split_at(error.valid_up_to());
                    (std::str::from_utf8(valid).unwrap_or_default(), invalid)
                }
            };
            if !valid.is_empty() {
                joined.extend(self.finish());
                joined.push_str(valid);
            }
            let Some(half) = half(invalid) else {
                return Cow::Owned(joined);
            };
            self.push(half, &mut joined);
            rest = invalid.get(3..).unwrap_or_default();
        }
    }

    /// Returns U+FFFD if a high surrogate is left without its other half.
    pub(super) fn finish(&mut self) -> Option<char> {
        self.first.take().map(|_| char::REPLACEMENT_CHARACTER)
    }

    fn push(&mut self, half: u16, joined: &mut String) {
        if (0xD800..0xDC00).contains(&half) {
            joined.extend(self.finish());
            self.first = Some(half);
            return;
        }
        let halves = self.first.take().into_iter().chain([half]);
        let character = char::decode_utf16(halves)
            .map(|decoded| decoded.unwrap_or(char::REPLACEMENT_CHARACTER));
        joined.extend(character);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(json: &str) -> Result<Content<'_>, serde_json::Error> {
        serde_json::from_str(json)
    }

    fn joined(deltas: &[&str]) -> String {
        let mut joiner = Joiner::default();
        let mut text = String::new();
        for json in deltas {
            text.push_str(&joiner.join(read(json).expect("readable").text));
        }
        text.extend(joiner.finish());
        text
    }

    #[test]
    fn halves_in_two_deltas_are_one_character() {
        assert_eq!(joined(&[r#""a\ud83d""#, r#""\ude00b""#]), "a😀b");
        assert_eq!(joined(&[r#""a\ud83d""#, r#""""#, r#""\ude00b""#]), "a😀b");
        assert_eq!(joined(&[r#""\ud83d\ude00""#]), "😀");
        assert_eq!(
            joined(&[r#"[{"type":"text","text":"a\ud83d"}]"#, r#"["\ude00"]"#]),
            "a😀"
        );
    }

    #[test]
    fn a_half_that_finds_no_other_is_replaced() {
        assert_eq!(joined(&[r#""a\ud83d""#]), "a\u{FFFD}");
        assert_eq!(joined(&[r#""a\ud83d""#, r#""b""#]), "a\u{FFFD}b");
        assert_eq!(joined(&[r#""\ude00b""#]), "\u{FFFD}b");
        assert_eq!(joined(&[r#""\ud83d\ud83d\ude00""#]), "\u{FFFD}😀");
        assert_eq!(
            joined(&[r#""\ude00\ud83d""#, r#""\ud83d""#]),
            "\u{FFFD}\u{FFFD}\u{FFFD}"
        );
    }

    #[test]
    fn of_a_list_text_is_text_and_thinking_is_thought() {
        let content = read(
            r#"[{"type":"thinking","thinking":[{"type":"text","text":"no"}]},{"type":"text","text":"你"},
               {"type":"image_url","image_url":{}},null,7,{"text":"好"},"。",{"type":"refusal","refusal":"！"},
               {"type":"text","text":{"value":"no"}}]"#,
        )
        .expect("readable");
        assert!(content.has_thought);
        assert_eq!(content.text, Text::Whole("你好。！".into()));
    }

    #[test]
    fn what_is_neither_text_nor_a_list_is_refused() {
        for json in ["7", "true", "{}", "\"a"] {
            read(json).expect_err(json);
        }
    }

    proptest! {
        #[test]
        fn any_splitting_of_the_halves_joins_the_same(
            units in proptest::collection::vec(prop_oneof![0xD83C_u16..0xD840, 0xDC00_u16..0xDC04, Just(0x61_u16)], 0..20),
            cuts in proptest::collection::vec(any::<bool>(), 20),
        ) {
            let mut deltas = vec![String::new()];
            for (unit, cut) in units.iter().zip(cuts) {
                if cut {
                    deltas.push(String::new());
                }
                let delta = deltas.last_mut().expect("one");
                delta.push_str(&format!("\\u{unit:04x}"));
            }
            let deltas: Vec<String> = deltas.iter().map(|delta| format!("\"{delta}\"")).collect();
            let deltas: Vec<&str> = deltas.iter().map(String::as_str).collect();
            prop_assert_eq!(joined(&deltas), String::from_utf16_lossy(&units));
        }
    }
}
