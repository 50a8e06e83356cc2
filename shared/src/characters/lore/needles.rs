//! Finds which of many words a text contains, in one pass.
//!
//! This is the automaton of Aho and Corasick, with links to shorter words instead of a list of words for each state.
//! With lists, as in the crate of that name, words that contain each other cost quadratic memory and time, and here the
//! words come from strangers.

/// No word ends in this state.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct State {
    /// The first of the states that follow. Theirs are the states up to the first of the next state.
    first: u32,
    /// The state of the longest proper suffix.
    suffix: u32,
    /// The state of the longest proper suffix at which a word ends; 0 if there is none.
    shorter: u32,
    /// The word that ends here.
    word: u32,
}

/// Words, and for each of them the numbers that it was added with.
#[derive(Debug)]
pub(super) struct Needles {
    /// In the order of their lengths, then of their bytes: what follows a state lies together.
    states: Vec<State>,
    /// The byte that leads to each state.
    bytes: Vec<u8>,
    /// The states after the first byte.
    roots: Box<[u32; 256]>,
    /// The numbers of all words.
    numbers: Vec<u32>,
    /// Where the numbers of each word begin.
    begins: Vec<u32>,
}

/// The words that were found so far.
#[derive(Debug, Clone)]
pub(super) struct Found(Vec<bool>);

/// Returns a length as the type of the tables. Limits on keys keep them far below it.
fn narrow(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(NONE)
}

impl Needles {
    /// Returns an automaton for pairs of a word and a number. A word may come several times; none is empty.
    pub(super) fn new(mut pairs: Vec<(String, u32)>) -> Self {
        pairs.sort_unstable();
        pairs.dedup();
        let mut words: Vec<&[u8]> = Vec::new();
        let mut begins = Vec::new();
        for (at, (word, _)) in pairs.iter().enumerate() {
            if words.last() != Some(&word.as_bytes()) {
                words.push(word.as_bytes());
                begins.push(narrow(at));
            }
        }
        begins.push(narrow(pairs.len()));
        let (states, bytes) = trie(&words);
        let mut needles = Self {
            states,
            bytes,
            roots: Box::new([0; 256]),
            numbers: pairs.iter().map(|(_, number)| *number).collect(),
            begins,
        };
        needles.link();
        needles
    }

    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    pub(super) fn nothing_found(&self) -> Found {
        Found(vec![false; self.begins.len().saturating_sub(1)])
    }

    /// Calls `report` with the numbers of all words in `text` that are not in `found` yet.
    pub(super) fn find(&self, text: &str, found: &mut Found, mut report: impl FnMut(u32)) {
        if self.is_empty() {
            return;
        }
        let mut at = 0;
        for byte in text.bytes() {
            at = self.next(at, byte);
            let state = self.state(at);
            let mut end = if state.word == NONE {
                state.shorter
            } else {
                at
            };
            while end != 0 {
                let State { word, shorter, .. } = self.state(end);
                // The shorter words in a word that was found before were found with it.
                match found.0.get_mut(word as usize) {
                    Some(is_found) if !*is_found => *is_found = true,
                    _ => break,
                }
                self.numbers(word).iter().copied().for_each(&mut report);
                end = shorter;
            }
        }
    }

    fn numbers(&self, word: u32) -> &[u32] {
        let begin = |word: usize| self.begins.get(word).map_or(0, |begin| *begin as usize);
        self.numbers
            .get(begin(word as usize)..begin(word as usize + 1))
            .unwrap_or_default()
    }

    /// Sets the links of all states. Those of shorter ones are set first.
    fn link(&mut self) {
        for state in 0..self.states.len() {
            let parent = narrow(state);
            let (first, next) = self.followers(parent);
            for child in first..next {
                let Some(byte) = self.bytes.get(child as usize).copied() else {
                    continue;
                };
                if parent == 0 {
                    if let Some(root) = self.roots.get_mut(usize::from(byte)) {
                        *root = child;
                    }
                    continue;
                }
                let suffix = self.next(self.state(parent).suffix, byte);
                let of_suffix = self.state(suffix);
                if let Some(state) = self.states.get_mut(child as usize) {
                    state.suffix = suffix;
                    state.shorter = if of_suffix.word == NONE {
                        of_suffix.shorter
                    } else {
                        suffix
                    };
                }
            }
        }
    }

    /// Returns the state after `byte`.
    fn next(&self, mut at: u32, byte: u8) -> u32 {
        while at != 0 {
            let (first, next) = self.followers(at);
            let bytes = self
                .bytes
                .get(first as usize..next as usize)
                .unwrap_or_default();
            let follower = if bytes.len() > 8 {
                bytes.binary_search(&byte).ok()
            } else {
                bytes.iter().position(|other| *other == byte)
            };
            if let Some(follower) = follower {
                return first + narrow(follower);
            }
            at = self.state(at).suffix;
        }
        self.roots.get(usize::from(byte)).copied().unwrap_or(0)
    }

    fn followers(&self, at: u32) -> (u32, u32) {
        let next = self.states.get(at as usize + 1).map(|state| state.first);
        let first = self.state(at).first;
        (first, next.unwrap_or(narrow(self.states.len())))
    }

    fn state(&self, at: u32) -> State {
        self.states.get(at as usize).copied().unwrap_or(State {
            first: 0,
            suffix: 0,
            shorter: 0,
            word: NONE,
        })
    }
}

/// Returns the states of sorted, different words, without links, and the bytes that lead to them.
fn trie(words: &[&[u8]]) -> (Vec<State>, Vec<u8>) {
    let mut states = Vec::new();
    let mut bytes = vec![0];
    // The words that begin with the bytes of each state, and the number of these bytes.
    let mut spans = vec![(0..words.len(), 0)];
    while let Some((mut span, depth)) = spans.get(states.len()).cloned() {
        let mut word = NONE;
        let byte_of = |word: usize| words.get(word).and_then(|word| word.get(depth)).copied();
        if !span.is_empty() && byte_of(span.start).is_none() {
            word = narrow(span.start);
            span.start += 1;
        }
        states.push(State {
            first: narrow(spans.len()),
            suffix: 0,
            shorter: 0,
            word,
        });
        while let Some(byte) = byte_of(span.start).filter(|_| !span.is_empty()) {
            let begin = span.start;
            while !span.is_empty() && byte_of(span.start) == Some(byte) {
                span.start += 1;
            }
            spans.push((begin..span.start, depth + 1));
            bytes.push(byte);
        }
    }
    (states, bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn found(words: &[String], text: &str) -> BTreeSet<u32> {
        let pairs = words.iter().cloned().zip(0..).collect();
        let needles = Needles::new(pairs);
        let mut numbers = BTreeSet::new();
        let mut found = needles.nothing_found();
        needles.find(text, &mut found, |number| {
            assert!(numbers.insert(number), "reported once");
        });
        numbers
    }

    #[test]
    fn words_in_words_are_found() {
        let words = ["he", "she", "his", "hers", "e", "é", "he"].map(str::to_owned);
        assert_eq!(found(&words, "ushers"), [0, 1, 3, 4, 6].into());
        assert_eq!(found(&words, "ÉéE"), [5].into());
        assert_eq!(found(&words, ""), [].into());
        assert_eq!(found(&[], "he"), [].into());
    }

    #[test]
    fn words_in_each_other_take_linear_time() {
        let words: Vec<String> = (1..1_000)
            .flat_map(|length| ["", "b"].map(|end| "a".repeat(length) + end))
            .collect();
        let text = "a".repeat(1_000_000) + "b";
        let began = Instant::now();
        assert_eq!(found(&words, &text).len(), words.len());
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    proptest! {
        #[test]
        fn exactly_the_words_that_a_text_contains_are_found(
            words in proptest::collection::vec("[abé]{1,4}", 0..12),
            text in "[abcé]{0,30}",
        ) {
            let contained = (0..).zip(&words).filter(|(_, word)| text.contains(*word)).map(|(number, _)| number);
            prop_assert_eq!(found(&words, &text), contained.collect());
        }
    }
}
