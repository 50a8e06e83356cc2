//! Collects the keys of all entries of a lorebook for one search, and drops those that can never be found.

use std::borrow::Cow;

use super::decorators::Decorators;
use super::needles::Needles;
use super::patterns::{Compiler, Parsed, Source};
use super::{List, Pattern};
use crate::characters::card::{self, Regexes};

/// Limit of a key in bytes. No message of a chat contains a longer one.
const MAX_KEY_BYTES: usize = 1_000;
/// Limit of all keys of a lorebook in bytes, which the search takes some twenty times in memory.
const MAX_KEYS_BYTES: usize = 1 << 21;

/// Returns a text in which letters that differ only in case are equal. Unlike [`str::to_lowercase`] it does not look
/// at the letters around, so that a part of a text becomes a part of the text.
pub(super) fn folded(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            'ς' => folded.push('σ'),
            _ if char.is_ascii() => folded.push(char.to_ascii_lowercase()),
            _ => folded.extend(char.to_lowercase()),
        }
    }
    folded
}

/// What an entry waits for.
#[derive(Default)]
pub(super) struct Waits {
    /// The number of lists of which a key has to be found.
    pub(super) lists: usize,
    /// Whether messages decide about the entry.
    pub(super) is_conditional: bool,
}

/// The keys of all entries so far.
pub(super) struct Keys<'a> {
    /// The character's name.
    char: &'a str,
    /// The name as a regular expression.
    escaped: String,
    lists: Vec<List>,
    exact: Vec<(String, u32)>,
    folded: Vec<(String, u32)>,
    patterns: Vec<Pattern>,
    compiler: Compiler,
    bytes_left: usize,
    without_effect: usize,
}

/// The keys of all entries, ready for a search.
pub(super) struct Search {
    pub(super) lists: Vec<List>,
    pub(super) exact: Needles,
    pub(super) folded: Needles,
    pub(super) patterns: Vec<Pattern>,
    pub(super) keys_without_effect: usize,
}

impl<'a> Keys<'a> {
    pub(super) fn new(char: &'a str) -> Self {
        Self {
            char,
            escaped: regex::escape(char),
            lists: Vec::new(),
            exact: Vec::new(),
            folded: Vec::new(),
            patterns: Vec::new(),
            compiler: Compiler::new(),
            bytes_left: MAX_KEYS_BYTES,
            without_effect: 0,
        }
    }

    pub(super) fn finish(self) -> Search {
        Search {
            lists: self.lists,
            exact: Needles::new(self.exact),
            folded: Needles::new(self.folded),
            patterns: self.patterns,
            keys_without_effect: self.without_effect,
        }
    }

    /// Adds the keys of an entry. Returns `None` if it can never match.
    pub(super) fn add(
        &mut self,
        entry: &card::Entry,
        decorators: &Decorators,
        index: usize,
    ) -> Option<Waits> {
        let is_constant = entry.constant || decorators.constant;
        if entry.regexes == Regexes::All {
            return self.add_patterns(entry, decorators, index, is_constant);
        }
        let secondary = entry.secondary_keys.as_slice();
        let is_selective = entry.selective && !is_blank(secondary);
        let primary = (!is_constant).then_some(entry.keys.as_slice());
        let secondary = (!is_constant && is_selective).then_some(secondary);
        let additional = decorators.additional_keys.iter().map(Vec::as_slice);
        let mut lists = Vec::new();
        for keys in primary.into_iter().chain(secondary).chain(additional) {
            let list = self.parsed(keys, entry);
            if list.is_empty() {
                return None;
            }
            lists.push(list);
        }
        let waits = lists.len();
        for list in lists {
            self.add_list(list, index, false);
        }
        let excluding = self.parsed(&decorators.exclude_keys, entry);
        let excludes = !excluding.is_empty();
        if excludes {
            self.add_list(excluding, index, true);
        }
        Some(Waits {
            lists: waits,
            is_conditional: excludes || waits > 0,
        })
    }

    /// Adds the keys of an entry that are regular expressions. The additional ones are further alternatives, and one
    /// that does not compile rules the entry out. Only without any key of its own an entry is constant.
    fn add_patterns(
        &mut self,
        entry: &card::Entry,
        decorators: &Decorators,
        index: usize,
        is_constant: bool,
    ) -> Option<Waits> {
        let mut list = Vec::new();
        let additional = decorators.additional_keys.iter().flatten();
        let keys = entry.keys.iter().chain(additional);
        for key in keys.filter(|key| !key.trim().is_empty()) {
            let parsed = self.pattern(Source::of(key), entry.case_sensitive);
            if parsed.is_none() {
                self.without_effect += 1;
            }
            list.extend(self.within_limits(parsed?));
        }
        if is_constant && is_blank(&entry.keys) {
            return Some(Waits::default());
        }
        if list.is_empty() {
            return None;
        }
        self.add_list(list, index, false);
        Some(Waits {
            lists: 1,
            is_conditional: true,
        })
    }

    /// Returns what the keys of an entry stand for, without those that can never be found.
    fn parsed(&mut self, keys: &[String], entry: &card::Entry) -> Vec<Parsed> {
        let mut list = Vec::with_capacity(keys.len());
        for key in keys.iter().filter(|key| !key.trim().is_empty()) {
            let delimited = match entry.regexes {
                Regexes::Delimited => Source::delimited(key),
                Regexes::None | Regexes::All => None,
            };
            let parsed = match delimited {
                Some(source) => self.pattern(source, true),
                None => Some(Parsed::Word {
                    word: with_name(key, self.char).trim().to_owned(),
                    case_sensitive: entry.case_sensitive,
                }),
            };
            match parsed {
                Some(parsed) => list.extend(self.within_limits(parsed)),
                None => self.without_effect += 1,
            }
        }
        list
    }

    fn pattern(&mut self, source: Source<'_>, case_sensitive: bool) -> Option<Parsed> {
        let pattern = with_name(source.pattern, &self.escaped);
        let named = Source {
            pattern: &pattern,
            ..source
        };
        self.compiler.parse(named, case_sensitive)
    }

    /// Returns what a key stands for unless it is a word beyond the limits, which is counted.
    fn within_limits(&mut self, parsed: Parsed) -> Option<Parsed> {
        if let Parsed::Word { word, .. } = &parsed {
            if word.is_empty() {
                return None;
            }
            if word.len() > MAX_KEY_BYTES.min(self.bytes_left) {
                self.without_effect += 1;
                return None;
            }
            self.bytes_left -= word.len();
        }
        Some(parsed)
    }

    fn add_list(&mut self, keys: Vec<Parsed>, entry: usize, excludes: bool) {
        // A card has far fewer lists than the type holds.
        let list = u32::try_from(self.lists.len()).unwrap_or(u32::MAX);
        self.lists.push(List { entry, excludes });
        for key in keys {
            match key {
                Parsed::Word {
                    word,
                    case_sensitive: true,
                } => self.exact.push((word, list)),
                Parsed::Word { word, .. } => self.folded.push((folded(&word), list)),
                Parsed::Pattern(regex) => self.patterns.push(Pattern { regex, list }),
            }
        }
    }
}

fn is_blank(keys: &[String]) -> bool {
    keys.iter().all(|key| key.trim().is_empty())
}

/// Returns a key with the character's name in place of each `{{char}}`, in any case and with blanks around the word.
/// Other macros have no meaning in a key, and neither has the macro if the name is longer than a key can be.
fn with_name<'a>(key: &'a str, name: &str) -> Cow<'a, str> {
    let mut named = String::new();
    let mut rest = key;
    let mut is_named = false;
    while let Some((before, after)) = rest.split_once("{{") {
        named.push_str(before);
        let word = after.trim_start();
        let end = word
            .split_at_checked("char".len())
            .filter(|(word, _)| word.eq_ignore_ascii_case("char"))
            .and_then(|(_, end)| end.trim_start().strip_prefix("}}"));
        match end {
            Some(end) if named.len().saturating_add(name.len()) <= MAX_KEY_BYTES => {
                named.push_str(name);
                is_named = true;
                rest = end;
            }
            _ => {
                named.push_str("{{");
                rest = after;
            }
        }
    }
    named.push_str(rest);
    if is_named {
        Cow::Owned(named)
    } else {
        Cow::Borrowed(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_stands_for_its_macro_in_a_key() {
        for (key, expected) in [
            ("{{char}}'s {{ CHAR }}", "Mira's Mira"),
            ("{{user}} {{char", "{{user}} {{char"),
            ("{{{{char}}}}", "{{Mira}}"),
            ("中{{文", "中{{文"),
            ("", ""),
        ] {
            assert_eq!(with_name(key, "Mira"), expected, "{key}");
        }
    }

    #[test]
    fn letters_of_any_script_are_folded() {
        assert_eq!(folded("ÀbЖ ΟΔΟΣ ος 龍"), "àbж οδοσ οσ 龍");
    }
}
