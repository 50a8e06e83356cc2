//! Keys that are regular expressions.
//!
//! The crate `regex` takes linear time, but a card may have thousands of patterns, and a pattern may compile to
//! megabytes or contain a hundred classes of a thousand ranges each. So all of them have limits, which keep compiling a
//! hostile lorebook within fractions of a second, and a pattern without special characters is an ordinary word.

use regex::{Regex, RegexBuilder};

/// Limit of compiled patterns of one lorebook.
const MAX_PATTERNS: usize = 1_000;
/// Limit of one pattern in bytes.
const MAX_PATTERN_BYTES: usize = 1_000;
/// Limit of all patterns of one lorebook in bytes.
const MAX_BYTES: usize = 1 << 17;
/// Limit of a compiled pattern in bytes. It is enough for words and alternatives in any case.
const SMALL_BYTES: usize = 1 << 15;
/// Limit of a compiled pattern in bytes, for the few large ones, such as those with `\w`.
const LARGE_BYTES: usize = 1 << 20;
/// Limit of large patterns of one lorebook.
const MAX_LARGE: usize = 20;
/// Limit in bytes of all patterns of one lorebook that have classes. Each byte may cost the time of sorting the ranges
/// of a class.
const MAX_CLASS_BYTES: usize = 1 << 13;
/// Limit in bytes of what a pattern remembers between texts.
const CACHE_BYTES: usize = 1 << 18;

/// A regular expression as a key has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'k> {
    pub(super) pattern: &'k str,
    /// The flags in JavaScript's form.
    pub(super) flags: &'k str,
}

/// What a key stands for.
pub(super) enum Parsed {
    /// A word that has to be in the text.
    Word {
        word: String,
        case_sensitive: bool,
    },
    Pattern(Regex),
}

/// Compiles the patterns of one lorebook, within the limits.
#[derive(Debug)]
pub(super) struct Compiler {
    patterns_left: usize,
    large_left: usize,
    bytes_left: usize,
    class_bytes_left: usize,
}

impl Compiler {
    pub(super) fn new() -> Self {
        Self {
            patterns_left: MAX_PATTERNS,
            large_left: MAX_LARGE,
            bytes_left: MAX_BYTES,
            class_bytes_left: MAX_CLASS_BYTES,
        }
    }

    /// Returns what a regular expression stands for. Returns `None` if it does not compile or exceeds a limit.
    pub(super) fn parse(&mut self, source: Source<'_>, case_sensitive: bool) -> Option<Parsed> {
        let Source { pattern, flags } = source;
        let has = |flag| flags.contains(flag);
        let case_sensitive = case_sensitive && !has('i');
        if regex::escape(pattern) == pattern {
            let word = pattern.to_owned();
            return Some(Parsed::Word {
                word,
                case_sensitive,
            });
        }
        if pattern.len() > MAX_PATTERN_BYTES {
            return None;
        }
        self.patterns_left = self.patterns_left.checked_sub(1)?;
        self.bytes_left = self.bytes_left.checked_sub(pattern.len())?;
        if has_classes(pattern) {
            self.class_bytes_left = self.class_bytes_left.checked_sub(pattern.len())?;
        }
        let mut builder = RegexBuilder::new(pattern);
        builder
            .case_insensitive(!case_sensitive)
            .multi_line(has('m'))
            .dot_matches_new_line(has('s'))
            .dfa_size_limit(CACHE_BYTES)
            .size_limit(SMALL_BYTES);
        match builder.build() {
            Ok(regex) => Some(Parsed::Pattern(regex)),
            Err(regex::Error::CompiledTooBig(_)) => {
                self.large_left = self.large_left.checked_sub(1)?;
                let large = builder.size_limit(LARGE_BYTES).build();
                large.ok().map(Parsed::Pattern)
            }
            Err(_) => None,
        }
    }
}

impl<'k> Source<'k> {
    /// Returns the regular expression that a key is: one in JavaScript's form `/pattern/flags`, or a pattern without
    /// flags.
    pub(super) fn of(key: &'k str) -> Self {
        Self::between_slashes(key).unwrap_or(Self {
            pattern: key,
            flags: "",
        })
    }

    /// Returns the regular expression in JavaScript's form; `None` if the key has another one. A slash in the pattern
    /// has a backslash before it, so that paths are not taken for patterns.
    pub(super) fn delimited(key: &'k str) -> Option<Self> {
        Self::between_slashes(key.trim()).filter(|source| {
            let pattern = source.pattern;
            let escaped = pattern.matches(r"\/").count();
            pattern.matches('/').count() == escaped
        })
    }

    /// Flags beside `i`, `m` and `s` mean nothing here.
    fn between_slashes(key: &'k str) -> Option<Self> {
        let (pattern, flags) = key.strip_prefix('/')?.rsplit_once('/')?;
        let are_flags = flags.chars().all(|flag| "dgimsuvy".contains(flag));
        (are_flags && !pattern.is_empty()).then_some(Self { pattern, flags })
    }
}

/// Returns whether a pattern may have classes of characters.
fn has_classes(pattern: &str) -> bool {
    let is_class = |escape: &u8| b"dDpPsSwW".contains(escape);
    pattern.contains('[')
        || pattern
            .as_bytes()
            .windows(2)
            .any(|pair| matches!(pair, [b'\\', escape] if is_class(escape)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_match(key: &str, case_sensitive: bool, text: &str) -> Option<bool> {
        Some(
            match Compiler::new().parse(Source::of(key), case_sensitive)? {
                Parsed::Pattern(regex) => regex.is_match(text),
                Parsed::Word {
                    word,
                    case_sensitive,
                } => {
                    text.contains(&word)
                        || (!case_sensitive && text.to_lowercase().contains(&word.to_lowercase()))
                }
            },
        )
    }

    #[test]
    fn patterns_match_as_their_flags_say() {
        for (key, case_sensitive, text, expected) in [
            ("drag(on|oon)s?", false, "two Dragoons", Some(true)),
            ("drag(on|oon)s?", true, "two Dragoons", Some(false)),
            ("/d.gon/i", true, "DRGON DAGON", Some(true)),
            ("/^b$/m", false, "a\nb", Some(true)),
            ("/^b$/", false, "a\nb", Some(false)),
            ("/a.b/s", false, "a\nb", Some(true)),
            ("/dragon/dgmsuvy", true, "a dragon", Some(true)),
            ("/dr.gon/dgvy", true, "a Dragon", Some(false)),
            ("/dragon/x", false, "a dragon", Some(false)),
            (r"/a\/b/", false, "A/b", Some(true)),
            // Not flags, so a pattern as it is.
            ("/usr/bin", false, "in /usr/bin", Some(true)),
            (r"\bcat\b", false, "concatenate", Some(false)),
            (r"\w+\s\d{2,4}", false, "Год 2024", Some(true)),
            ("Ж.", false, "жа", Some(true)),
            (
                "(a+)+$",
                false,
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
                Some(false),
            ),
            ("(?=look)", false, "look", None),
            ("(", false, "(", None),
            (r"(\w{100}){100}", false, "x", None),
        ] {
            assert_eq!(is_match(key, case_sensitive, text), expected, "{key}");
        }
    }

    #[test]
    fn a_delimited_pattern_is_told_from_a_path() {
        for (key, expected) in [
            ("/dragon/", Some(("dragon", ""))),
            (" /a|b/gi ", Some(("a|b", "gi"))),
            (r"/a\/b/", Some((r"a\/b", ""))),
            ("/usr/bin/", None),
            ("/usr/bin", None),
            ("/dragon/x", None),
            ("//", None),
            ("/", None),
            ("dragon", None),
            ("", None),
        ] {
            let source = Source::delimited(key).map(|source| (source.pattern, source.flags));
            assert_eq!(source, expected, "{key}");
        }
    }

    #[test]
    fn patterns_have_limits_and_words_have_none() {
        let mut compiler = Compiler::new();
        let compiled = (0..MAX_PATTERNS + 10).filter(|number| {
            compiler
                .parse(Source::of(&format!("{number}+")), false)
                .is_some()
        });
        assert_eq!(compiled.count(), MAX_PATTERNS);
        assert!(compiler.parse(Source::of("word"), false).is_some());
        assert!(
            Compiler::new()
                .parse(Source::of(&"a+".repeat(501)), false)
                .is_none()
        );
        let mut compiler = Compiler::new();
        let long = "a".repeat(499) + "+";
        let compiled = (0..).take_while(|_| compiler.parse(Source::of(&long), true).is_some());
        assert_eq!(compiled.count(), MAX_BYTES / long.len());
        let mut compiler = Compiler::new();
        let large =
            (0..MAX_LARGE + 10).filter(|_| compiler.parse(Source::of(r"\w{10}"), false).is_some());
        assert_eq!(large.count(), MAX_LARGE);
        for class in ["[a]", r"\d", r"\s"] {
            let mut compiler = Compiler::new();
            let key = class.to_owned() + &"x".repeat(20);
            let compiled = (0..).take_while(|_| compiler.parse(Source::of(&key), true).is_some());
            assert_eq!(compiled.count(), MAX_CLASS_BYTES / key.len(), "{class}");
        }
    }
}
