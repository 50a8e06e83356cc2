//! Character cards: what companion apps exchange characters as. Reads V1, V2 and V3 from JSON, PNG and CHARX.
//!
//! Pure functions. A card is never refused for what it says: a field that is missing or of another type gets its
//! default, and a warning names it. Refused is what is no card, or too large. Nothing here quotes a card in an error.

mod book;
mod charx;
mod encoding;
mod json;
mod png;
mod problems;
mod reader;

use serde_json::value::RawValue;

pub use self::book::{Book, Entry, Position, Regexes};
pub use self::encoding::decoded_base64;
use self::json::{Fields, Node};
use self::problems::Warnings;
pub use self::problems::{Unreadable, Warning};
use self::reader::{Blank, Path, Reader};
use crate::foreign;

/// Limit of a card's JSON in bytes, and of the chunk of a PNG that holds it.
pub const MAX_BYTES: usize = 5 * 1024 * 1024;

/// What the card of RisuAI begins with if it is encrypted.
const ENCRYPTED: &[u8] = b"rcc||";
/// The signatures with which a ZIP archive begins: of a file in it, and of an empty archive.
const ZIP_SIGNATURES: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];
/// The fields of V1 by which a card is told from other objects.
const V1_FIELDS: [&str; 5] = [
    "description",
    "personality",
    "scenario",
    "first_mes",
    "mes_example",
];

/// The specification that a card follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spec {
    /// V1: six flat fields.
    V1,
    /// V2: the fields are in `data`, with a lorebook and greetings.
    V2,
    /// V3, and newer ones as far as they are the same.
    V3,
}

/// A character card as a file or a stored value has it: no macro is expanded, and no text is trimmed.
#[derive(Debug, Clone)]
pub struct Card {
    /// The specification that the card says it follows.
    pub spec: Spec,
    /// The character's name. It may be empty; then there is a warning.
    pub name: String,
    /// The name that the character goes by in the chat; `None` if the card has none, or a blank one.
    pub nickname: Option<String>,
    /// Who the character is.
    pub description: String,
    /// A summary of the character's personality.
    pub personality: String,
    /// The circumstances of the chat.
    pub scenario: String,
    /// The first greeting.
    pub first_mes: String,
    /// Examples of chats, each behind a line `<START>`.
    pub mes_example: String,
    /// The text that replaces the service's own system prompt; empty if the card has none.
    pub system_prompt: String,
    /// Instructions that stand behind the history; empty if the card has none.
    pub post_history_instructions: String,
    /// The greetings after the first one. An element that is not text is an empty greeting.
    pub alternate_greetings: Vec<String>,
    /// The author of the card. Never part of a prompt.
    pub creator: String,
    /// The author's notes for users. Never part of a prompt.
    pub creator_notes: String,
    /// The version of the character. Never part of a prompt.
    pub character_version: String,
    /// Words for sorting and filtering. Never part of a prompt.
    pub tags: Vec<String>,
    /// The lorebook; without entries if the card has none.
    pub book: Book,
    /// The value of `extensions.companion_chat` as JSON; `None` if it is missing or null.
    pub settings: Option<Box<RawValue>>,
    /// What was not understood.
    pub warnings: Vec<Warning>,
    /// Whether there are entries of a lorebook in `data`, and not at the root of the card.
    are_entries_in_data: bool,
}

impl Card {
    /// Returns the text of the card in a file, and the card that it means. The text is the file's to the letter, without
    /// a byte order mark and surrounding white space; only invalid UTF-8 in it is replaced, with a warning.
    ///
    /// # Errors
    /// The file is of another kind than PNG, CHARX or JSON, it holds no card, or the card is too large.
    pub fn read(file: &[u8]) -> Result<(String, Self), Unreadable> {
        if file.starts_with(png::SIGNATURE) {
            let ((text, mut card), warning) = png::read(file, |json| Self::of_bytes(&json))?;
            card.warnings.splice(0..0, warning);
            return Ok((text, card));
        }
        if ZIP_SIGNATURES
            .into_iter()
            .any(|signature| file.starts_with(signature))
        {
            return Self::of_bytes(&charx::card(file)?);
        }
        let text = without_mark(file).trim_ascii();
        if text.starts_with(b"{") || text.starts_with(ENCRYPTED) {
            return Self::of_bytes(file);
        }
        match charx::card(file) {
            Ok(json) => Self::of_bytes(&json),
            Err(Unreadable::DamagedArchive) if is_text(text) => Self::of_bytes(file),
            Err(Unreadable::DamagedArchive) => Err(Unreadable::OtherFile),
            Err(problem) => Err(problem),
        }
    }

    /// Returns the text and the card in the bytes of its JSON.
    fn of_bytes(json: &[u8]) -> Result<(String, Self), Unreadable> {
        let json = without_mark(json).trim_ascii();
        if json.len() > MAX_BYTES {
            return Err(too_large(json.len()));
        }
        let text = String::from_utf8_lossy(json).into_owned();
        let mut card = Self::from_json(&text)?;
        if text.as_bytes() != json {
            card.warnings.insert(0, Warning::NotUtf8);
        }
        Ok((text, card))
    }

    /// Returns the card in its JSON, which may be in Python's dialect.
    ///
    /// # Errors
    /// The text is not a JSON object, the object is not a card, or it is too large.
    pub fn from_json(json: &str) -> Result<Self, Unreadable> {
        let json = json.strip_prefix('\u{FEFF}').unwrap_or(json);
        if json.as_bytes().starts_with(ENCRYPTED) {
            return Err(Unreadable::Encrypted);
        }
        if json.len() > MAX_BYTES {
            return Err(too_large(json.len()));
        }
        json::parse(json, |fields| {
            let is_data = fields
                .get("data")
                .is_some_and(|data| data.object().is_some());
            if is_card(is_data, |name| fields.get(name)?.raw()) {
                Ok(Self::of_fields(&fields))
            } else {
                Err(Unreadable::NotACard)
            }
        })
    }

    /// Returns whether a JSON object is a card, and not for example a plain character. `field` returns the raw value of
    /// a field of the object, so that the caller's parse serves both.
    pub fn is_card<'a>(field: impl Fn(&str) -> Option<&'a RawValue>) -> bool {
        let data = field("data").is_some_and(|raw| raw.get().starts_with('{'));
        is_card(data, field)
    }

    fn of_fields(flat: &Fields<'_>) -> Self {
        let mut warnings = Warnings::default();
        let data = flat.get("data").filter(|data| !data.is_null());
        let fields = data.and_then(Node::object);
        let spec = spec(flat, fields.is_some(), &mut warnings);
        if spec > Spec::V1 && data.is_some() && fields.is_none() {
            warnings.add(|| Warning::Ignored {
                path: "data".to_owned(),
                expected: "an object",
            });
        }
        // SillyTavern writes many fields twice. Those in `data` are the newer ones.
        let objects = [
            fields.map(|fields| (Path::of("data"), fields)),
            Some((Path::ROOT, flat)),
        ];
        let mut reader = Reader::new(objects, &mut warnings);
        let extensions = reader.field(&["extensions"], "an object", Fields::parse);
        let settings = extensions
            .as_ref()
            .and_then(|extensions| extensions.get("companion_chat")?.raw())
            .filter(|settings| settings.get() != "null");
        let nickname = reader.text("nickname");
        let mut card = Self {
            spec,
            name: reader.text("name"),
            nickname: Some(nickname).filter(|nickname| !nickname.trim().is_empty()),
            description: reader.text("description"),
            personality: reader.text("personality"),
            scenario: reader.text("scenario"),
            first_mes: reader.text("first_mes"),
            mes_example: reader.text("mes_example"),
            system_prompt: reader.text("system_prompt"),
            post_history_instructions: reader.text("post_history_instructions"),
            alternate_greetings: reader.texts(&["alternate_greetings"], Blank::Kept),
            creator: reader.text("creator"),
            creator_notes: reader.text("creator_notes"),
            character_version: reader.text("character_version"),
            tags: reader.texts(&["tags"], Blank::LeftOut),
            book: Book::default(),
            settings: settings.map(ToOwned::to_owned),
            warnings: Vec::new(),
            are_entries_in_data: false,
        };
        if card.name.trim().is_empty() {
            reader.warnings.add(|| Warning::NoName);
        }
        // Last, so that the faults of many entries do not displace the warnings about the card.
        if let Some((parent, _, node)) = reader.locate(&["character_book"]) {
            card.book = book::read(node, parent, reader.warnings);
            card.are_entries_in_data = !card.book.entries.is_empty() && !parent.is_root();
        }
        card.warnings = warnings.finish();
        card
    }

    /// Returns the path of an entry of the lorebook from the root of the card, as warnings have it: by the place of the
    /// entry in the card, where entries before it may not have been read. `index` is its place among those that were.
    #[must_use]
    pub fn entry_path(&self, index: usize) -> String {
        let entry = self.book.entries.get(index);
        let path = Path {
            parent: book::entries_path(self.are_entries_in_data),
            element: Some(entry.map_or(index, |entry| entry.index)),
        };
        path.itself()
    }

    /// Returns the greetings: the first one has the index 0, and alternate ones follow. Some may be blank, so that each
    /// keeps its index.
    pub fn greetings(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.first_mes)
            .chain(&self.alternate_greetings)
            .map(String::as_str)
    }
}

/// Returns whether an object is a card. `has_data` is whether its field `data` is an object.
fn is_card<'a>(has_data: bool, field: impl Fn(&str) -> Option<&'a RawValue>) -> bool {
    let spec = field("spec").and_then(reader::text);
    let spec = spec.as_deref().unwrap_or_default();
    if spec.starts_with("chara_card_v") {
        return true;
    }
    // A lorebook alone has `data` too.
    if has_data {
        return !spec.starts_with("lorebook");
    }
    let is_plain = field("system_prompt").is_some_and(|raw| raw.get().starts_with('"'));
    !is_plain && V1_FIELDS.into_iter().any(|name| field(name).is_some())
}

/// Returns the specification of a card that is recognized as one.
fn spec(flat: &Fields<'_>, has_data: bool, warnings: &mut Warnings) -> Spec {
    let raw = |name| flat.get(name).and_then(Node::raw);
    let Some(spec) = raw("spec").filter(|spec| spec.get() != "null") else {
        return if has_data { Spec::V2 } else { Spec::V1 };
    };
    let spec = reader::text(spec).unwrap_or_default();
    let version = spec.strip_prefix("chara_card_v").map(foreign::integer_of);
    let specified = raw("spec_version").and_then(reader::text);
    let specified = specified.and_then(|version| version.trim().parse::<f64>().ok());
    match version {
        Some(Some(1)) => Spec::V1,
        Some(Some(2)) => Spec::V2,
        Some(Some(3)) if specified.is_none_or(|version| version <= 3.0) => Spec::V3,
        Some(Some(3..)) => {
            warnings.add(|| Warning::NewerSpec);
            Spec::V3
        }
        _ => {
            warnings.add(|| Warning::UnknownSpec);
            if has_data { Spec::V2 } else { Spec::V1 }
        }
    }
}

/// Returns the JSON in a file of a JSON object, without a byte order mark and surrounding white space; `None` if the file
/// is of another kind.
#[must_use]
pub fn json_object(file: &[u8]) -> Option<&[u8]> {
    Some(without_mark(file).trim_ascii()).filter(|json| json.starts_with(b"{"))
}

fn too_large(bytes: usize) -> Unreadable {
    Unreadable::TooLarge {
        what: "the card",
        bytes,
    }
}

/// Returns the bytes after a byte order mark of UTF-8, if there is one.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes)
}

/// Returns whether bytes are text, of which the reader of JSON says more than that it is another file.
fn is_text(bytes: &[u8]) -> bool {
    !bytes.is_empty() && !bytes.contains(&0) && str::from_utf8(bytes).is_ok()
}

#[cfg(test)]
mod tests;
