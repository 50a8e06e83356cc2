//! Parses the JSON of a card, also what Python calls JSON, in one pass: the objects with a card's fields become lists
//! of fields, whose values stay raw until a reader asks for them. Depth and the number of elements are bounded here.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use memchr::memchr2;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;

use super::problems::Unreadable;
use crate::foreign;

/// Limit of nested lists and objects. Serde parses no more than these.
pub(super) const MAX_DEPTH: usize = 127;
/// Limit of the elements of a list that are read. It bounds the memory of 5 MB of empty elements.
pub(super) const MAX_ELEMENTS: usize = 20_000;

/// The fields whose objects and lists are parsed in the same pass as the object that has them.
const NESTED: [&str; 3] = ["data", "character_book", "entries"];

/// Returns what `read` makes of the fields of the object in `json`. What Python writes is mended in a copy.
///
/// # Errors
/// The text is not a JSON object, it is nested too deep, or the error of `read`.
pub(super) fn parse<T>(
    json: &str,
    read: impl FnOnce(Fields<'_>) -> Result<T, Unreadable>,
) -> Result<T, Unreadable> {
    let has_unicode_escapes = scan(json)?;
    // Half of a surrogate pair is no syntax error, but no text either.
    if !has_unicode_escapes && let Ok(fields) = serde_json::from_str(json) {
        return read(fields);
    }
    let mended = foreign::mended(json);
    match serde_json::from_str(&mended) {
        Ok(fields) => read(fields),
        Err(error) if error.is_data() => Err(Unreadable::NotAnObject),
        Err(error) => Err(Unreadable::NotJson {
            line: error.line(),
            column: error.column(),
        }),
    }
}

/// Returns whether strings in `json` have escapes of UTF-16 code units.
///
/// # Errors
/// Lists and objects are nested deeper than [`MAX_DEPTH`]. Serde skips values of any depth, and other readers of the
/// stored text do not.
fn scan(json: &str) -> Result<bool, Unreadable> {
    let (mut depth, mut has_unicode_escapes, mut rest) = (0_usize, false, json.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'{' | b'[' if depth == MAX_DEPTH => return Err(Unreadable::TooDeep),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => rest = after_string(after, &mut has_unicode_escapes),
            _ => {}
        }
    }
    Ok(has_unicode_escapes)
}

/// Returns what follows the string whose opening quote stands before `rest`.
fn after_string<'a>(mut rest: &'a [u8], has_unicode_escapes: &mut bool) -> &'a [u8] {
    while let Some(at) = memchr2(b'"', b'\\', rest) {
        match rest.get(at..).unwrap_or_default() {
            [b'\\', escaped, after @ ..] => {
                *has_unicode_escapes |= *escaped == b'u';
                rest = after;
            }
            [_, after @ ..] => return after,
            [] => break,
        }
    }
    &[]
}

/// A value in the JSON of a card.
pub(super) enum Node<'a> {
    /// The raw value of a field with any name but those that are parsed at once.
    Raw(&'a RawValue),
    /// An object.
    Object(Fields<'a>),
    /// A list.
    List(Elements<Self>),
    /// A text, a number or a boolean where an object or a list belongs.
    Other,
    /// Null.
    Null,
}

impl<'a> Node<'a> {
    /// Returns the raw value of a field that is not parsed at once.
    pub(super) fn raw(&self) -> Option<&'a RawValue> {
        match self {
            Self::Raw(raw) => Some(raw),
            Self::Object(_) | Self::List(_) | Self::Other | Self::Null => None,
        }
    }

    /// Returns the fields of an object that is parsed at once.
    pub(super) fn object(&self) -> Option<&Fields<'a>> {
        match self {
            Self::Object(fields) => Some(fields),
            Self::Raw(_) | Self::List(_) | Self::Other | Self::Null => None,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        match self {
            Self::Raw(raw) => raw.get() == "null",
            Self::Null => true,
            Self::Object(_) | Self::List(_) | Self::Other => false,
        }
    }
}

/// Parses an object or a list at once.
impl<'de> Deserialize<'de> for Node<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Node<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("any value")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Fields::collect(map).map(Node::Object)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                Elements::collect(list).map(Node::List)
            }

            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(Node::Null)
            }

            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Node::Other)
            }

            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Node::Other)
            }

            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Node::Other)
            }

            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Node::Other)
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<Self::Value, E> {
                Ok(Node::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// The fields of an object, in the order of the text.
pub(super) struct Fields<'a>(Vec<(Cow<'a, str>, Node<'a>)>);

impl<'a> Fields<'a> {
    /// Returns the fields of the object in a raw value; `None` if it is another value.
    pub(super) fn parse(raw: &'a RawValue) -> Option<Self> {
        serde_json::from_str(raw.get()).ok()
    }

    fn collect<A: MapAccess<'a>>(mut map: A) -> Result<Self, A::Error> {
        let mut fields = Vec::new();
        while let Some(Name(name)) = map.next_key()? {
            let value = if NESTED.contains(&name.as_ref()) {
                map.next_value()?
            } else {
                Node::Raw(map.next_value()?)
            };
            fields.push((name, value));
        }
        Ok(Self(fields))
    }

    /// Returns a field. Of a field that appears several times the last one counts, as in Python and JavaScript.
    pub(super) fn get(&self, name: &str) -> Option<&Node<'a>> {
        let mut last_first = self.0.iter().rev();
        last_first.find_map(|(field, value)| (field == name).then_some(value))
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Fields::collect(map)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// The name of a field, borrowed where it has no escape.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a name")
            }

            fn visit_borrowed_str<E: de::Error>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// The elements of a list, at most [`MAX_ELEMENTS`] of them, and the number of those left out.
pub(super) struct Elements<T> {
    pub(super) kept: Vec<T>,
    pub(super) left_out: usize,
}

impl<'a> Elements<&'a RawValue> {
    /// Returns the raw elements of the list in a raw value; `None` if it is another value.
    pub(super) fn parse(raw: &'a RawValue) -> Option<Self> {
        serde_json::from_str(raw.get()).ok()
    }
}

impl<'n, 'a> Elements<&'n Node<'a>> {
    /// Returns the values of a list or of an object. Of a field that appears several times only the last value counts.
    pub(super) fn of(node: &'n Node<'a>) -> Option<Self> {
        match node {
            Node::List(list) => Some(Self {
                kept: list.kept.iter().collect(),
                left_out: list.left_out,
            }),
            Node::Object(Fields(fields)) => {
                let mut seen = HashSet::with_capacity(fields.len());
                let mut kept: Vec<_> = fields
                    .iter()
                    .rev()
                    .filter(|(field, _)| seen.insert(field.as_ref()))
                    .map(|(_, value)| value)
                    .collect();
                kept.reverse();
                let left_out = kept.len().saturating_sub(MAX_ELEMENTS);
                kept.truncate(MAX_ELEMENTS);
                Some(Self { kept, left_out })
            }
            Node::Raw(_) | Node::Other | Node::Null => None,
        }
    }
}

impl<'de, T: Deserialize<'de>> Elements<T> {
    fn collect<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let (mut kept, mut left_out) = (Vec::new(), 0);
        while kept.len() < MAX_ELEMENTS {
            let Some(element) = list.next_element()? else {
                return Ok(Self { kept, left_out });
            };
            kept.push(element);
        }
        while list.next_element::<IgnoredAny>()?.is_some() {
            left_out += 1;
        }
        Ok(Self { kept, left_out })
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Elements<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
            type Value = Elements<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                Elements::collect(list)
            }
        }
        deserializer.deserialize_seq(List(PhantomData))
    }
}
