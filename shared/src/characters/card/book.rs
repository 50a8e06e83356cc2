//! The lorebook of a card: reading it, in the form of the specifications and in that of SillyTavern's world info.

use serde_json::value::RawValue;

use super::json::{Elements, Fields, Node};
use super::problems::{Warning, Warnings};
use super::reader::{Blank, Path, Reader, integer, text};

/// Limit of the keys of all entries. It bounds the memory of 5 MB of tiny keys.
const MAX_KEYS: usize = 100_000;

/// A lorebook: texts that enter the prompt when the chat mentions their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Book {
    /// The number of the newest messages in which keys are looked for; `None` if the card leaves it open.
    pub scan_depth: Option<usize>,
    /// Limit of the tokens of all entries in a prompt; `None` if the card sets none.
    pub token_budget: Option<u64>,
    /// Whether the texts of entries may mention the keys of others.
    pub recursive_scanning: bool,
    /// The entries, in the order of the card.
    pub entries: Vec<Entry>,
}

/// An entry of a lorebook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The place of the entry in the list of the card, which may have elements that are no entries.
    pub index: usize,
    /// The texts or regular expressions of which the chat has to mention one. None is blank.
    pub keys: Vec<String>,
    /// The texts of which the chat has to mention one as well if the entry is `selective`. None is blank.
    pub secondary_keys: Vec<String>,
    /// Whether `secondary_keys` count.
    pub selective: bool,
    /// Whether the entry enters the prompt without being mentioned.
    pub constant: bool,
    /// Whether keys match only in their own case.
    pub case_sensitive: bool,
    /// Which keys are regular expressions.
    pub regexes: Regexes,
    /// The text of the entry as the card has it, with its decorators.
    pub content: String,
    /// Whether the entry can enter the prompt at all.
    pub enabled: bool,
    /// The order of entries in the prompt: a lower one stands earlier. 0 if the card has none.
    pub insertion_order: i64,
    /// The order in which entries go when the budget is used up: a lower one goes earlier. `None` if the card has none.
    pub priority: Option<i64>,
    /// The place of the entry in the prompt.
    pub position: Position,
}

/// Which keys of an entry are regular expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Regexes {
    /// None of them.
    None,
    /// All of them. Secondary keys do not count then, and `constant` counts only if there are no keys.
    All,
    /// Those of the form `/pattern/flags`, whatever `case_sensitive` says. The others are plain texts, and all fields
    /// count. SillyTavern reads its entries like this.
    Delimited,
}

/// The place of an entry in the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Before the definition of the character.
    BeforeChar,
    /// After the definition of the character. Entries without a position stand here, as in SillyTavern.
    AfterChar,
}

/// Returns the path of a lorebook's entries from the root of the card.
pub(super) fn entries_path(is_in_data: bool) -> &'static str {
    if is_in_data {
        "data.character_book.entries"
    } else {
        "character_book.entries"
    }
}

/// Returns the lorebook in the value of `character_book`, which is a field of the object `parent`.
pub(super) fn read(node: &Node<'_>, parent: Path, warnings: &mut Warnings) -> Book {
    let path = if parent.is_root() {
        "character_book"
    } else {
        "data.character_book"
    };
    let entries_path = entries_path(!parent.is_root());
    let Some(fields) = node.object() else {
        warnings.add(|| Warning::Ignored {
            path: path.to_owned(),
            expected: "an object",
        });
        return Book::default();
    };
    let mut reader = Reader::new([Some((Path::of(path), fields)), None], warnings);
    let scan_depth = reader.field(&["scan_depth"], "a count", |raw| {
        usize::try_from(integer(raw)?).ok()
    });
    let token_budget = reader.field(&["token_budget"], "a count", |raw| {
        u64::try_from(integer(raw)?).ok()
    });
    let recursive_scanning = reader.flag(&["recursive_scanning"]).unwrap_or(false);
    // World info has its entries in an object, by their ids.
    let elements = reader.node(&["entries"], "a list of entries", Elements::of);
    let mut entries = Vec::new();
    if let Some(elements) = elements {
        let (mut left_out, mut keys) = (elements.left_out, 0);
        for (index, node) in elements.kept.into_iter().enumerate() {
            if keys > MAX_KEYS {
                left_out += 1;
                continue;
            }
            let path = Path {
                parent: entries_path,
                element: Some(index),
            };
            if let Some(entry) = entry(node, index, path, warnings) {
                keys += entry.keys.len() + entry.secondary_keys.len();
                entries.push(entry);
            }
        }
        warnings.left_out(|| entries_path.to_owned(), left_out);
    }
    Book {
        scan_depth,
        token_budget,
        recursive_scanning,
        entries,
    }
}

fn entry(node: &Node<'_>, index: usize, path: Path, warnings: &mut Warnings) -> Option<Entry> {
    // Those in an object are raw.
    let parsed = node.raw().and_then(Fields::parse);
    let Some(fields) = node.object().or(parsed.as_ref()) else {
        warnings.add(|| Warning::Ignored {
            path: path.itself(),
            expected: "an object",
        });
        return None;
    };
    let mut reader = Reader::new([Some((path, fields)), None], warnings);
    // World info has names of its own for some fields.
    let enabled = match reader.flag(&["enabled"]) {
        Some(enabled) => enabled,
        None => !reader.flag(&["disable"]).unwrap_or(false),
    };
    Some(Entry {
        index,
        keys: reader.texts(&["keys", "key"], Blank::LeftOut),
        secondary_keys: reader.texts(&["secondary_keys", "keysecondary"], Blank::LeftOut),
        selective: reader.flag(&["selective"]).unwrap_or(false),
        constant: reader.flag(&["constant"]).unwrap_or(false),
        case_sensitive: reader
            .flag(&["case_sensitive", "caseSensitive"])
            .unwrap_or(false),
        regexes: regexes(&mut reader, fields),
        content: reader.text("content"),
        enabled,
        insertion_order: reader.integer(&["insertion_order", "order"]).unwrap_or(0),
        priority: reader.integer(&["priority"]),
        position: reader
            .field(&["position"], "before_char or after_char", position)
            .unwrap_or(Position::AfterChar),
    })
}

/// Returns which keys are regular expressions. SillyTavern exports `use_regex` as true for every entry, and its older
/// versions exported none, so that there its own rule counts.
fn regexes(reader: &mut Reader<'_, '_, '_>, fields: &Fields<'_>) -> Regexes {
    match reader.flag(&["use_regex"]) {
        Some(false) => Regexes::None,
        _ if is_of_silly_tavern(fields) => Regexes::Delimited,
        Some(true) => Regexes::All,
        None => Regexes::None,
    }
}

/// Returns whether SillyTavern exported an entry, which it leaves marks of in `extensions`.
fn is_of_silly_tavern(entry: &Fields<'_>) -> bool {
    let raw = entry.get("extensions").and_then(Node::raw);
    let extensions = raw.and_then(Fields::parse);
    extensions.is_some_and(|extensions| {
        let position = extensions.get("position").and_then(Node::raw);
        let has_number = |raw: &RawValue| {
            raw.get()
                .starts_with(|char: char| char == '-' || char.is_ascii_digit())
        };
        extensions.get("selectiveLogic").is_some() || position.is_some_and(has_number)
    })
}

/// Returns a position, also from the numbers of world info: 0 is before the character, and the others are after it or
/// in places that a prompt of this service does not have.
fn position(raw: &RawValue) -> Option<Position> {
    let text = text(raw)?;
    match text.trim() {
        "before_char" | "0" => Some(Position::BeforeChar),
        "after_char" => Some(Position::AfterChar),
        other => crate::foreign::integer_of(other).map(|_| Position::AfterChar),
    }
}
