//! The decorators of an entry: the lines that begin with `@@` at the top of its content.
//!
//! A name that is not known, a value that is not valid and the place of a section that the prompt lacks are ignored,
//! and then the fallback in the next lines, with `@@@`, is tried. The first of a name counts, except that additional
//! keys add up. A line with `@@` further down is text.

use std::num::NonZeroU64;

use super::{Place, Sections};
use crate::foreign;
use crate::message::Role;

/// What the decorators of one entry say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Decorators {
    pub(super) constant: bool,
    pub(super) activate: bool,
    pub(super) dont_activate: bool,
    /// Messages from the end of the conversation.
    pub(super) depth: Option<usize>,
    pub(super) position: Option<Place>,
    pub(super) role: Option<Role>,
    pub(super) scan_depth: Option<usize>,
    pub(super) only_after: Option<u64>,
    pub(super) only_every: Option<NonZeroU64>,
    pub(super) is_greeting: Option<usize>,
    /// Lists of keys. One of each list has to be found.
    pub(super) additional_keys: Vec<Vec<String>>,
    /// Keys of which none may be found.
    pub(super) exclude_keys: Vec<String>,
}

/// Returns the decorators of an entry, and its content without them and the blank lines around them.
pub(super) fn split(content: &str, sections: Sections) -> (Decorators, &str) {
    let mut decorators = Decorators::default();
    let mut has_decorators = false;
    // A fallback without a decorator before it is ignored.
    let mut is_settled = true;
    let mut rest = content;
    while !rest.is_empty() {
        let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
        let line = line.trim();
        if let Some(decorator) = line.strip_prefix("@@") {
            has_decorators = true;
            match decorator.strip_prefix('@') {
                Some(_) if is_settled => {}
                Some(fallback) => is_settled = decorators.read(fallback, sections),
                None => is_settled = decorators.read(decorator, sections),
            }
        } else if !line.is_empty() {
            break;
        }
        rest = after;
    }
    let text = if has_decorators { rest } else { content };
    (decorators, text)
}

impl Decorators {
    /// Reads a name and its value. Returns whether the name is known and the value valid.
    fn read(&mut self, decorator: &str, sections: Sections) -> bool {
        let (name, value) = decorator
            .split_once(char::is_whitespace)
            .unwrap_or((decorator, ""));
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "constant" => flag(&mut self.constant, value),
            "activate" => flag(&mut self.activate, value),
            "dont_activate" => flag(&mut self.dont_activate, value),
            // A negative depth is behind the newest message, too.
            "depth" => first(&mut self.depth, integer(value).and_then(at_least_zero)),
            "position" => first(&mut self.position, position(value, sections)),
            "role" => first(&mut self.role, role(value)),
            "scan_depth" => first(&mut self.scan_depth, integer(value).and_then(whole)),
            "activate_only_after" => {
                first(&mut self.only_after, integer(value).and_then(at_least_zero))
            }
            "activate_only_every" => {
                let every = integer(value).and_then(whole).and_then(NonZeroU64::new);
                first(&mut self.only_every, every)
            }
            "is_greeting" => first(&mut self.is_greeting, integer(value).and_then(whole)),
            "additional_keys" => {
                let keys = keys(value);
                let is_valid = !keys.is_empty();
                self.additional_keys.extend(is_valid.then_some(keys));
                is_valid
            }
            "exclude_keys" => {
                let keys = keys(value);
                let is_valid = !keys.is_empty();
                if self.exclude_keys.is_empty() {
                    self.exclude_keys = keys;
                }
                is_valid
            }
            _ => false,
        }
    }
}

fn first<T>(slot: &mut Option<T>, value: Option<T>) -> bool {
    let is_valid = value.is_some();
    if slot.is_none() {
        *slot = value;
    }
    is_valid
}

fn flag(slot: &mut bool, value: &str) -> bool {
    let is_valid = value.is_empty() || value.eq_ignore_ascii_case("true");
    *slot |= is_valid;
    is_valid
}

fn integer(value: &str) -> Option<i64> {
    foreign::integer_of(value)
}

fn at_least_zero<T: TryFrom<i64>>(number: i64) -> Option<T> {
    T::try_from(number.max(0)).ok()
}

fn whole<T: TryFrom<i64>>(number: i64) -> Option<T> {
    T::try_from(number).ok()
}

fn position(value: &str, sections: Sections) -> Option<Place> {
    match value.to_ascii_lowercase().as_str() {
        "before_desc" => Some(Place::BeforeChar),
        "after_desc" => Some(Place::AfterChar),
        "personality" if sections.personality => Some(Place::Personality),
        "scenario" if sections.scenario => Some(Place::Scenario),
        _ => None,
    }
}

fn role(value: &str) -> Option<Role> {
    match value.to_ascii_lowercase().as_str() {
        "assistant" => Some(Role::Assistant),
        "system" => Some(Role::System),
        "user" => Some(Role::User),
        _ => None,
    }
}

fn keys(value: &str) -> Vec<String> {
    value
        .split(',')
        .map(str::trim)
        .filter(|key| !key.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Splits the content of an entry for a prompt with all sections.
    fn all(content: &str) -> (Decorators, &str) {
        let sections = Sections {
            personality: true,
            scenario: true,
        };
        split(content, sections)
    }

    #[test]
    fn decorators_at_the_top_are_read_and_stripped() {
        let (decorators, text) = all(
            "\n@@depth 4\r\n@@role assistant\n\n@@Scan_Depth 2\n@@activate_only_after 3\n@@activate_only_every 2.0\n\
             @@is_greeting 1\n@@constant\n@@activate true\n@@dont_activate\n@@position scenario\n@@unknown x\n\
             @@additional_keys a, b ,\n@@additional_keys c\n@@exclude_keys d\n@@exclude_keys e\n\n  Text\n@@depth 9\n",
        );
        assert_eq!(text, "  Text\n@@depth 9\n");
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        assert_eq!(
            decorators,
            Decorators {
                constant: true,
                activate: true,
                dont_activate: true,
                depth: Some(4),
                position: Some(Place::Scenario),
                role: Some(Role::Assistant),
                scan_depth: Some(2),
                only_after: Some(3),
                only_every: NonZeroU64::new(2),
                is_greeting: Some(1),
                additional_keys: vec![words(&["a", "b"]), words(&["c"])],
                exclude_keys: words(&["d"]),
            }
        );
    }

    #[test]
    fn a_fallback_counts_only_without_what_it_replaces() {
        for (content, depth, scan_depth) in [
            ("@@depth 1\n@@@scan_depth 2", Some(1), None),
            ("@@unknown 1\n@@@scan_depth 2", None, Some(2)),
            ("@@a 1\n@@@b 2\n@@@c\n@@@depth 3\n@@@depth 4", Some(3), None),
            ("@@depth many\n@@@depth 5", Some(5), None),
            ("@@depth\n@@@scan_depth 1", None, Some(1)),
            ("@@depth 1\n@@depth 2", Some(1), None),
            ("@@depth x\n@@depth 2", Some(2), None),
            ("@@depth -3", Some(0), None),
            ("@@scan_depth -3\n@@@depth 2", Some(2), None),
            ("@@@depth 5", None, None),
            (
                "@@depth 99999999999999999999",
                Some(9_223_372_036_854_775_807),
                None,
            ),
        ] {
            let (decorators, text) = all(content);
            assert_eq!(
                (decorators.depth, decorators.scan_depth, text),
                (depth, scan_depth, ""),
                "{content}"
            );
        }
    }

    #[test]
    fn a_place_in_a_section_that_is_missing_is_ignored_for_its_fallback() {
        for (content, [personality, scenario], position, depth) in [
            (
                "@@position personality\n@@depth 2",
                [false, true],
                None,
                Some(2),
            ),
            (
                "@@position scenario\n@@@depth 3",
                [true, false],
                None,
                Some(3),
            ),
            (
                "@@position scenario\n@@@depth 3",
                [false, true],
                Some(Place::Scenario),
                None,
            ),
            (
                "@@position personality\n@@@position after_desc",
                [false, false],
                Some(Place::AfterChar),
                None,
            ),
            (
                "@@position personality\n@@position scenario",
                [false, true],
                Some(Place::Scenario),
                None,
            ),
        ] {
            let sections = Sections {
                personality,
                scenario,
            };
            let (decorators, _) = split(content, sections);
            assert_eq!(
                (decorators.position, decorators.depth),
                (position, depth),
                "{content}"
            );
        }
    }

    #[test]
    fn values_that_are_not_valid_are_ignored() {
        for content in [
            "@@activate no\ntext",
            "@@position here\ntext",
            "@@role narrator\ntext",
            "@@activate_only_every 0\ntext",
            "@@is_greeting -1\ntext",
            "@@additional_keys ,\ntext",
            "@@exclude_keys\ntext",
            "@@\n\n@@@@\ntext",
        ] {
            assert_eq!(all(content), (Decorators::default(), "text"), "{content}");
        }
    }

    #[test]
    fn content_without_decorators_is_unchanged() {
        for content in [
            "",
            "\n\n",
            " text",
            "\n\ntext\n@@depth 4",
            "@ @depth 4",
            "a @@depth 4",
        ] {
            assert_eq!(all(content), (Decorators::default(), content), "{content}");
        }
    }

    proptest! {
        #[test]
        fn what_is_left_is_the_end_of_the_content(content in "(@@|@@@|\n|\r|depth|role| |4|a){0,20}") {
            let (_, text) = all(&content);
            prop_assert!(content.ends_with(text));
        }
    }
}
