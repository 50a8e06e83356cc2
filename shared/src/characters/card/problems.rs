//! What a card's reader reports: why a file holds no readable card, and what in a card is not understood. Neither
//! quotes the card, because both may be logged.

use std::fmt;

use super::MAX_BYTES;

/// Limit of warnings about one card. Beyond it they are counted.
const MAX_WARNINGS: usize = 20;

/// Why a file or a stored value is not a readable card.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The file is of another kind than those that carry cards.
    #[error("the file is not a PNG, a CHARX (a ZIP archive) or JSON in UTF-8")]
    OtherFile,
    /// The text is not valid JSON, even after the repair of what Python writes.
    #[error("the card is not valid JSON (line {line}, column {column})")]
    NotJson {
        /// The line of the first problem, from 1.
        line: usize,
        /// The column of the first problem, from 1.
        column: usize,
    },
    /// The text is JSON, but not an object.
    #[error("the card is not a JSON object")]
    NotAnObject,
    /// The object has nothing by which a card is recognized.
    #[error(
        "the JSON object is not a character card: a card has the field spec (chara_card_v2 or chara_card_v3) and the \
         object data, or at least one of description, personality, scenario, first_mes and mes_example"
    )]
    NotACard,
    /// The JSON is nested deeper than any card.
    #[error("the card is nested deeper than {} levels", super::json::MAX_DEPTH)]
    TooDeep,
    /// The card, or the chunk of a PNG that holds it, is too large.
    #[error("{what} has {bytes} bytes, more than the {MAX_BYTES} that are read")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        bytes: usize,
    },
    /// RisuAI encrypted the card, and only RisuAI has the key.
    #[error("the card is encrypted by RisuAI (rcc||…): export it without encryption")]
    Encrypted,
    /// The PNG has no text chunk with a card.
    #[error("the PNG has no card: neither a text chunk ccv3 nor a text chunk chara")]
    PngWithoutCard,
    /// The text chunk with the card ends early, or does not follow the format of its kind.
    #[error("the PNG's text chunk {chunk} is damaged")]
    DamagedChunk {
        /// The chunk's keyword.
        chunk: &'static str,
    },
    /// The compressed text chunk with the card is damaged, or inflates to more than is read. Inflating stops at the
    /// limit.
    #[error(
        "the PNG's text chunk {chunk} cannot be inflated, or not within the {MAX_BYTES} bytes that are read"
    )]
    NotInflated {
        /// The chunk's keyword.
        chunk: &'static str,
    },
    /// The text chunk with the card holds neither base64 nor JSON.
    #[error("the PNG's text chunk {chunk} is not valid base64")]
    NotBase64 {
        /// The chunk's keyword.
        chunk: &'static str,
    },
    /// The ZIP archive has no readable directory.
    #[error("the CHARX is not a complete ZIP archive, or it has too many entries")]
    DamagedArchive,
    /// The ZIP archive has a directory without the card.
    #[error("the CHARX has no card.json at its root")]
    CharxWithoutCard,
    /// The card in the ZIP archive needs a password.
    #[error("the card.json of the CHARX is encrypted with a password")]
    EncryptedEntry,
    /// The card in the ZIP archive is compressed in a way that the specification does not know.
    #[error("the card.json of the CHARX is neither stored nor deflated")]
    OtherCompression,
    /// The card in the ZIP archive is small in it and too large when inflated. Inflating stops at the limit, so the
    /// size is unknown.
    #[error("the card.json of the CHARX inflates to more than the {MAX_BYTES} bytes that are read")]
    InflatesTooFar,
    /// The card in the ZIP archive cannot be inflated, or its checksum differs.
    #[error("the card.json of the CHARX is damaged")]
    DamagedEntry,
}

/// What is not understood in a card that is read. Displayed as an English sentence without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// A field's value is of another type than its specification says.
    Ignored {
        /// The field's path from the root of the card.
        path: String,
        /// What the specification says that the field is.
        expected: &'static str,
    },
    /// A list is longer than any card needs, and its end is left out.
    LeftOut {
        /// The list's path from the root of the card.
        path: String,
        /// The number of elements that are left out.
        elements: usize,
    },
    /// The card has no name, or a blank one.
    NoName,
    /// The card's name is longer than what stands for it in a prompt.
    LongName,
    /// The card follows a newer specification than V3. It is read as V3.
    NewerSpec,
    /// The card names a specification that is unknown. It is read as V2 if it has `data`, else as V1.
    UnknownSpec,
    /// The card is not valid UTF-8.
    NotUtf8,
    /// A text chunk of the PNG cannot be read, and another one is used.
    OtherChunk {
        /// The keyword of the chunk that cannot be read.
        unread: &'static str,
        /// Why it cannot be read.
        problem: Unreadable,
        /// The keyword of the chunk that is used.
        used: &'static str,
    },
    /// A model setting in `extensions.companion_chat` is not valid.
    Setting {
        /// The name of the setting; empty if it is all of them.
        field: &'static str,
        /// The values that the setting accepts.
        expected: &'static str,
    },
    /// There are more warnings than are kept.
    More(usize),
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ignored { path, expected } => {
                write!(formatter, "{path} is not {expected} and is ignored")
            }
            Self::LeftOut { path, elements } => {
                write!(formatter, "{path} is too long: the last {elements} elements are ignored")
            }
            Self::NoName => formatter.write_str("the card has no name"),
            Self::LongName => formatter.write_str("the name is too long: prompts have its beginning"),
            Self::NewerSpec => formatter.write_str(
                "the card follows a newer specification than V3: it is read as V3, without what is new",
            ),
            Self::UnknownSpec => {
                formatter.write_str("spec is not chara_card_v2 or chara_card_v3: its fields decide how it is read")
            }
            Self::NotUtf8 => {
                formatter.write_str("the card is not valid UTF-8: what is invalid is replaced by U+FFFD")
            }
            Self::OtherChunk { unread, problem, used } => write!(
                formatter,
                "a text chunk {unread} cannot be used ({problem}): the card is from a text chunk {used}"
            ),
            Self::Setting { field: "", expected } => {
                write!(formatter, "extensions.companion_chat {expected} and is ignored")
            }
            Self::Setting { field, expected } => {
                write!(formatter, "extensions.companion_chat.{field} {expected} and is ignored")
            }
            Self::More(count) => write!(formatter, "there are {count} more warnings"),
        }
    }
}

/// Collects warnings, and counts those beyond the limit.
#[derive(Default)]
pub(super) struct Warnings {
    kept: Vec<Warning>,
    more: usize,
}

impl Warnings {
    /// Adds a warning. `warning` is built only if it is kept.
    pub(super) fn add(&mut self, warning: impl FnOnce() -> Warning) {
        if self.kept.len() < MAX_WARNINGS {
            self.kept.push(warning());
        } else {
            self.more += 1;
        }
    }

    /// Adds a warning about the end of a list, if any of its elements are left out.
    pub(super) fn left_out(&mut self, path: impl FnOnce() -> String, elements: usize) {
        if elements > 0 {
            self.add(|| Warning::LeftOut {
                path: path(),
                elements,
            });
        }
    }

    /// Returns the warnings, the last of which counts those that are not kept.
    pub(super) fn finish(mut self) -> Vec<Warning> {
        if self.more > 0 {
            self.kept.push(Warning::More(self.more));
        }
        self.kept
    }
}
