//! Reads the fields of a card leniently: editors write texts as numbers, lists as one text, and booleans as both. A
//! value that cannot be used is reported by its path, and the field counts as missing.

use serde_json::value::RawValue;

use super::json::{Elements, Fields, Node};
use super::problems::{Warning, Warnings};
use crate::foreign;

/// Where an object is in a card: a path, and the index of an element if the object is one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path {
    pub(super) parent: &'static str,
    pub(super) element: Option<usize>,
}

impl Path {
    /// The path of the card itself.
    pub(super) const ROOT: Self = Self::of("");

    pub(super) const fn of(parent: &'static str) -> Self {
        Self {
            parent,
            element: None,
        }
    }

    /// Returns whether this is the card itself.
    pub(super) fn is_root(self) -> bool {
        self.parent.is_empty()
    }

    /// Returns the path of the object.
    pub(super) fn itself(self) -> String {
        match self.element {
            None => self.parent.to_owned(),
            Some(element) => format!("{}[{element}]", self.parent),
        }
    }

    /// Returns the path of a field of the object.
    pub(super) fn field(self, name: &str) -> String {
        if self.is_root() {
            return name.to_owned();
        }
        format!("{}.{name}", self.itself())
    }
}

/// Reads fields from an object, or from two of which the first that has a field counts.
pub(super) struct Reader<'n, 'a, 'w> {
    objects: [Option<(Path, &'n Fields<'a>)>; 2],
    pub(super) warnings: &'w mut Warnings,
}

/// What becomes of the elements of a list of texts that are blank or not texts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Blank {
    /// They stay as empty texts, so that each element keeps its index.
    Kept,
    /// They are left out. A single text instead of the list is split at its commas.
    LeftOut,
}

impl<'n, 'a, 'w> Reader<'n, 'a, 'w> {
    pub(super) fn new(
        objects: [Option<(Path, &'n Fields<'a>)>; 2],
        warnings: &'w mut Warnings,
    ) -> Self {
        Self { objects, warnings }
    }

    /// Returns the first of the fields with these names that is not null: the path of its object, its name, its value.
    pub(super) fn locate(
        &self,
        names: &[&'static str],
    ) -> Option<(Path, &'static str, &'n Node<'a>)> {
        self.objects.iter().flatten().find_map(|(path, fields)| {
            names.iter().find_map(|name| {
                let node = fields.get(name).filter(|node| !node.is_null())?;
                Some((*path, *name, node))
            })
        })
    }

    /// Returns what `read` makes of a field. A value that it cannot use is reported as not being what is `expected`.
    pub(super) fn node<T>(
        &mut self,
        names: &[&'static str],
        expected: &'static str,
        read: impl FnOnce(&'n Node<'a>) -> Option<T>,
    ) -> Option<T> {
        let (path, name, node) = self.locate(names)?;
        let value = read(node);
        if value.is_none() {
            self.warnings.add(|| Warning::Ignored {
                path: path.field(name),
                expected,
            });
        }
        value
    }

    /// Returns what `read` makes of a field's raw value, as [`Self::node`] does.
    pub(super) fn field<T>(
        &mut self,
        names: &[&'static str],
        expected: &'static str,
        read: impl FnOnce(&'a RawValue) -> Option<T>,
    ) -> Option<T> {
        self.node(names, expected, |node| read(node.raw()?))
    }

    /// Returns a text; empty if the card has none.
    pub(super) fn text(&mut self, name: &'static str) -> String {
        self.field(&[name], "text", text).unwrap_or_default()
    }

    /// Returns a boolean; `None` if the card has none.
    pub(super) fn flag(&mut self, names: &[&'static str]) -> Option<bool> {
        self.field(names, "true or false", flag)
    }

    /// Returns an integer; `None` if the card has none.
    pub(super) fn integer(&mut self, names: &[&'static str]) -> Option<i64> {
        self.field(names, "a number", integer)
    }

    /// Returns a list of texts; empty if the card has none.
    pub(super) fn texts(&mut self, names: &[&'static str], blank: Blank) -> Vec<String> {
        let Some((path, name, node)) = self.locate(names) else {
            return Vec::new();
        };
        let Some(elements) = node.raw().and_then(Elements::parse) else {
            return match (self.field(names, "a list of texts", text), blank) {
                (None, _) => Vec::new(),
                (Some(one), Blank::Kept) => vec![one],
                (Some(list), Blank::LeftOut) => list
                    .split(',')
                    .map(str::trim)
                    .filter(|element| !element.is_empty())
                    .map(str::to_owned)
                    .collect(),
            };
        };
        self.warnings
            .left_out(|| path.field(name), elements.left_out);
        let mut texts = Vec::with_capacity(elements.kept.len());
        for (index, raw) in elements.kept.into_iter().enumerate() {
            let text = text(raw);
            if text.is_none() && raw.get() != "null" {
                self.warnings.add(|| Warning::Ignored {
                    path: format!("{}[{index}]", path.field(name)),
                    expected: "text",
                });
            }
            let text = text.unwrap_or_default();
            if blank == Blank::Kept || !text.trim().is_empty() {
                texts.push(text);
            }
        }
        texts
    }
}

/// Returns a text, or the digits of a number.
pub(super) fn text(raw: &RawValue) -> Option<String> {
    match raw.get().bytes().next()? {
        b'"' => serde_json::from_str(raw.get()).ok(),
        b'-' | b'0'..=b'9' => Some(raw.get().to_owned()),
        _ => None,
    }
}

/// Returns a boolean, also from its text and from 0 and 1.
fn flag(raw: &RawValue) -> Option<bool> {
    let of_text;
    let word = match raw.get() {
        word @ ("true" | "false") => word,
        _ => {
            of_text = text(raw)?;
            of_text.trim()
        }
    };
    if word.eq_ignore_ascii_case("true") {
        return Some(true);
    }
    if word.eq_ignore_ascii_case("false") {
        return Some(false);
    }
    match foreign::integer_of(word) {
        Some(0) => Some(false),
        Some(1) => Some(true),
        _ => None,
    }
}

/// Returns an integer, also from its text. Fractions are cut off, and numbers that are too large saturate.
pub(super) fn integer(raw: &RawValue) -> Option<i64> {
    foreign::integer_of(&text(raw)?)
}
