//! Counting tokens: fast where someone waits, exact where someone pays.
//!
//! [`estimate`] reads text once and touches no table; it is all that the way to the first byte uses. [`Counter`] counts
//! exactly for `cl100k_base`, whose tables cost tens of milliseconds to build and are built at its first use, so it belongs
//! behind the last delta and on a thread that may block. For doubao and other families it is an approximation too: an
//! upstream's own `usage` is better where there is one.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;

use crate::message::PromptMessage;

/// What the chat format adds to every message.
pub const PER_MESSAGE: u64 = 4;
/// What it adds to start the reply.
pub const PER_REPLY: u64 = 2;
/// What it adds to a message with a name.
pub const PER_NAME: u64 = 1;

/// A quick guess: 1.5 tokens for a CJK ideograph (U+4E00 to U+9FFF), 0.3 for any other character, rounded down.
#[must_use]
pub fn estimate(text: &str) -> u64 {
    let tenths: u64 = text
        .chars()
        .map(|char| {
            if ('\u{4E00}'..='\u{9FFF}').contains(&char) {
                15
            } else {
                3
            }
        })
        .sum();
    tenths / 10
}

/// Exact counts, with those of recent texts kept.
#[derive(Debug)]
pub struct Counter {
    /// Held for a look-up or an insertion, never while counting.
    recent: Mutex<LruCache<Box<str>, u64>>,
}

impl Counter {
    /// Texts whose counts are kept. The system prompt and the history come back every turn.
    const RECENT_TEXTS: NonZeroUsize = NonZeroUsize::new(512).expect("not zero");
    /// Longer texts are counted anew, so that what is kept stays below 2 MiB.
    const LONGEST_KEPT_BYTES: usize = 4_096;

    /// A counter that has counted nothing; its tables are not built yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            recent: Mutex::new(LruCache::new(Self::RECENT_TEXTS)),
        }
    }

    /// The tokens of `text`. Special tokens spelled out by a user (`<|endoftext|>`) count as the plain text that they are.
    #[must_use]
    pub fn count(&self, text: &str) -> u64 {
        if text.len() > Self::LONGEST_KEPT_BYTES {
            return count(text);
        }
        let recent = || self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = recent().get(text) {
            return *known;
        }
        let counted = count(text);
        recent().put(text.into(), counted);
        counted
    }

    /// The tokens of a whole prompt, with what the chat format adds to it.
    #[must_use]
    pub fn count_prompt(&self, messages: &[PromptMessage]) -> u64 {
        let each = messages.iter().map(|message| {
            let name = message
                .name
                .as_ref()
                .map_or(0, |name| PER_NAME + self.count(name));
            PER_MESSAGE + self.count(&message.content) + name
        });
        each.sum::<u64>() + PER_REPLY
    }
}

impl Default for Counter {
    fn default() -> Self {
        Self::new()
    }
}

fn count(text: &str) -> u64 {
    // The tables are compiled in: they are absent only from a build that left them out, where the estimate has to do.
    tiktoken::get_encoding("cl100k_base").map_or_else(
        || estimate(text),
        |tables| u64::try_from(tables.count(text)).unwrap_or(u64::MAX),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::Role;

    #[test]
    fn the_estimate_is_the_formula() {
        assert_eq!(estimate(""), 0);
        assert_eq!(estimate("你好"), 3);
        assert_eq!(estimate("你"), 1);
        assert_eq!(estimate("hello"), 1);
        assert_eq!(estimate("hello worl"), 3);
        assert_eq!(estimate("你好 hi"), 3);
        // The block's ends, and its neighbours.
        assert_eq!(estimate("\u{4E00}\u{9FFF}"), 3);
        assert_eq!(estimate("\u{4DFF}\u{A000}"), 0);
        // Japanese kana and emoji are "any other character".
        assert_eq!(estimate("あいうえお🙂🙂🙂🙂🙂"), 3);
    }

    #[test]
    fn counts_are_those_of_cl100k() {
        let counter = Counter::new();
        assert_eq!(counter.count(""), 0);
        assert_eq!(counter.count("hello world"), 2);
        assert_eq!(counter.count("tiktoken is great!"), 6);
        assert_eq!(counter.count("お誕生日おめでとう"), 9);
    }

    #[test]
    fn special_tokens_in_a_message_are_plain_text() {
        let counter = Counter::new();
        for special in ["<|endoftext|>", "<|im_start|>"] {
            let counted = counter.count(special);
            assert!(counted > 1, "{special}");
            assert_eq!(counted, reference(special), "{special}");
        }
    }

    #[test]
    fn a_prompt_has_its_overhead() {
        let counter = Counter::new();
        let mut messages = vec![
            PromptMessage::new(Role::System, "hello world"),
            PromptMessage::new(Role::User, "hello world"),
        ];
        assert_eq!(counter.count_prompt(&messages), 4 + 2 + 4 + 2 + 2);
        messages[1].name = Some("hello world".into());
        assert_eq!(counter.count_prompt(&messages), 4 + 2 + 4 + 2 + 2 + 1 + 2);
        assert_eq!(counter.count_prompt(&[]), 2);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let counter = Counter::new();
        for n in 0..2_000 {
            let _ = counter.count(&format!("text {n}"));
        }
        let long = "word ".repeat(2_000);
        assert_eq!(counter.count(&long), reference(&long));
        let recent = counter.recent.lock().expect("not poisoned");
        assert_eq!(recent.len(), Counter::RECENT_TEXTS.get());
        assert!(!recent.contains(long.as_str()));
    }

    fn reference(text: &str) -> u64 {
        tiktoken_rs::cl100k_base_singleton()
            .count_ordinary(text)
            .try_into()
            .expect("a count")
    }

    #[test]
    fn the_tables_are_compiled_in() {
        assert!(tiktoken::get_encoding("cl100k_base").is_some());
    }

    #[test]
    fn counts_are_those_of_the_reference() {
        let texts = [
            include_str!("tokens.rs"),
            include_str!("chat/turn.rs"),
            include_str!("../../README.md"),
            include_str!("../../Cargo.lock"),
            "DON'T I'LL we'Re it'S '\u{17F} '\u{212A} <|endoftext|><|im_start|>\u{85}\u{2028}\u{3000} x",
            "今天天气很好，我们去公园散步吧。お誕生日おめでとう 안녕하세요 1234567 ٣٤٥½ 👩‍👩‍👧‍👦🇩🇪e\u{301}",
        ];
        for text in texts {
            assert_eq!(count(text), reference(text), "{:.80}", text);
            for line in text.split_inclusive('\n') {
                assert_eq!(count(line), reference(line), "{line:?}");
            }
        }
        for unit in [" ", "\n", "\r\n", " \t", "a", "-", "好", "\u{301}", "7"] {
            for times in [1, 2, 3, 4, 96, 97, 500] {
                let run = unit.repeat(times);
                assert_eq!(count(&run), reference(&run), "{unit:?} {times} times");
                let within = format!("a{run}b {run}");
                assert_eq!(count(&within), reference(&within), "{within:?}");
            }
        }
    }

    /// Text of everything where the patterns branch: scripts, spaces, digits, contractions, marks, any scalar.
    fn mixed() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "[a-zA-Z]{1,12}",
            "[ \\t\\r\\n\u{A0}\u{3000}\u{85}\u{2028}]{1,6}",
            "['’](?:[sdmtSDMT]|ll|LL|lL|ve|Ve|re|RE|\u{17F}|\u{212A})",
            "\\PC{1,8}",
            "[0-9٠-٩½]{1,9}",
            "[\u{4E00}-\u{9FFF}\u{3040}-\u{30FF}\u{AC00}-\u{D7A3}，。]{1,16}",
            "[\u{300}-\u{36F}\u{1F300}-\u{1FAFF}\u{200D}\u{FE0F}]{1,6}",
            "[!-/:-@]{1,8}",
            proptest::collection::vec(any::<char>(), 1..8)
                .prop_map(|chars| chars.into_iter().collect()),
        ];
        proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_count_is_that_of_the_reference(text in mixed()) {
            prop_assert_eq!(count(&text), reference(&text));
        }

        #[test]
        fn a_kept_count_is_the_count(text in "\\PC{0,40}") {
            let counter = Counter::new();
            let first = counter.count(&text);
            prop_assert_eq!(counter.count(&text), first);
            prop_assert_eq!(count(&text), first);
        }
    }
}
