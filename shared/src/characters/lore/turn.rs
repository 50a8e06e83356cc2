//! The entries that one turn activates.
//!
//! Each key is reported at most once in the messages and once in the contents of entries, and each report ticks off a
//! list of keys. An entry activates when its last list is ticked off, so the work is linear in texts and keys, however
//! the entries activate each other.

use super::keys::folded;
use super::needles::Found;
use super::{Chat, Entry, Greeting, Lore, MAX_TEXT_BYTES, Placed, Presence};

/// Limit in bytes of the texts that are matched with regular expressions in one turn, counted for each of them. Beyond
/// it they match nothing.
const MAX_PATTERN_WORK: usize = 1 << 23;
/// What a match costs at least, in the same unit.
const PATTERN_WORK: usize = 100;

/// The state of the search of one turn.
pub(super) struct Turn<'a> {
    lore: &'a Lore,
    chat: &'a Chat<'a>,
    /// Whether a key of each list was found.
    ticked: Vec<bool>,
    /// The number of lists that each entry still waits for.
    missing: Vec<usize>,
    /// Whether a key was found that rules the entry out.
    excluded: Vec<bool>,
    /// The entries that wait for no list, in the order in which they were found.
    ready: Vec<usize>,
    pattern_work: usize,
    /// The bytes of all texts so far, hidden keys included.
    bytes: usize,
}

impl<'a> Turn<'a> {
    pub(super) fn new(lore: &'a Lore, chat: &'a Chat<'a>) -> Self {
        let entries = (0..).zip(&lore.entries);
        Self {
            lore,
            chat,
            ticked: vec![false; lore.lists.len()],
            missing: lore.entries.iter().map(|entry| entry.lists).collect(),
            excluded: vec![false; lore.entries.len()],
            ready: entries
                .filter(|(_, entry)| entry.lists == 0 && entry.presence == Presence::Turn)
                .map(|(index, _)| index)
                .collect(),
            pattern_work: MAX_PATTERN_WORK,
            bytes: 0,
        }
    }

    /// Returns the active entries beside the fixed ones, in no particular order. `text` expands the macros of an entry.
    pub(super) fn chosen(
        mut self,
        fixed: &[Placed],
        text: &dyn Fn(usize, &str) -> String,
    ) -> Vec<Placed> {
        self.scan_messages();
        let mut in_lore = self.nothing_found();
        let mut chosen = Vec::new();
        for placed in fixed {
            self.has_room(&placed.text);
            self.scan_content(placed, text, &mut in_lore);
        }
        let mut next = 0;
        // Scanning the text of an entry may make others ready.
        while let Some(index) = self.ready.get(next).copied() {
            next += 1;
            let Some(entry) = self.lore.entries.get(index) else {
                continue;
            };
            if self.excluded.get(index) == Some(&true) || !is_due(entry, self.chat) {
                continue;
            }
            let expanded = text(index, &entry.content);
            if !self.has_room(&expanded) {
                break;
            }
            let placed = entry.placed(index, expanded);
            self.scan_content(&placed, text, &mut in_lore);
            chosen.push(placed);
        }
        chosen
    }

    /// Looks for keys in the text of an active entry if the lorebook is recursive, and in its hidden keys.
    fn scan_content(
        &mut self,
        placed: &Placed,
        text: &dyn Fn(usize, &str) -> String,
        found: &mut [Found; 2],
    ) {
        if !self.lore.recursive {
            return;
        }
        self.scan(&placed.text, None, found);
        let entry = self.lore.entries.get(placed.entry);
        if let Some(entry) = entry.filter(|entry| !entry.hidden.is_empty())
            && self.bytes <= MAX_TEXT_BYTES
        {
            let hidden = text(placed.entry, &entry.hidden);
            if self.has_room(&hidden) {
                self.scan(&hidden, None, found);
            }
        }
    }

    /// Counts a text. Returns whether it is within [`MAX_TEXT_BYTES`].
    fn has_room(&mut self, text: &str) -> bool {
        self.bytes = self.bytes.saturating_add(text.len());
        self.bytes <= MAX_TEXT_BYTES
    }

    fn scan_messages(&mut self) {
        let mut found = self.nothing_found();
        let messages = self.chat.newest_first.iter().take(self.lore.scanned);
        for (age, message) in messages.enumerate() {
            self.scan(message, Some(age), &mut found);
        }
    }

    fn nothing_found(&self) -> [Found; 2] {
        [&self.lore.exact, &self.lore.folded].map(|needles| needles.nothing_found())
    }

    /// Looks for the keys in a text: the message with so many newer ones, or the content of an entry.
    fn scan(&mut self, text: &str, age: Option<usize>, [exact, folded_ones]: &mut [Found; 2]) {
        let lore = self.lore;
        lore.exact.find(text, exact, |list| self.tick(list, age));
        if !lore.folded.is_empty() {
            lore.folded
                .find(&folded(text), folded_ones, |list| self.tick(list, age));
        }
        for pattern in &lore.patterns {
            if self.is_wanted(pattern.list, age) {
                let work = text.len().saturating_add(PATTERN_WORK);
                let Some(left) = self.pattern_work.checked_sub(work) else {
                    return;
                };
                self.pattern_work = left;
                if pattern.regex.is_match(text) {
                    self.tick(pattern.list, age);
                }
            }
        }
    }

    /// Returns whether a key of a list is still looked for, in a text of that age.
    fn is_wanted(&self, list: u32, age: Option<usize>) -> bool {
        let list = list as usize;
        let entry = self.lore.lists.get(list).map(|list| list.entry);
        let entry = entry.and_then(|entry| self.lore.entries.get(entry));
        let is_scanned = |entry: &Entry| age.is_none_or(|age| age < entry.scan_depth);
        self.ticked.get(list) == Some(&false) && entry.is_some_and(is_scanned)
    }

    /// Notes that a key of a list was found.
    fn tick(&mut self, list: u32, age: Option<usize>) {
        if !self.is_wanted(list, age) {
            return;
        }
        let Some((list, ticked)) = self
            .lore
            .lists
            .get(list as usize)
            .zip(self.ticked.get_mut(list as usize))
        else {
            return;
        };
        if list.excludes {
            // Only what was said rules an entry out. Contents are scanned when entries are active already.
            if let (Some(_), Some(excluded)) = (age, self.excluded.get_mut(list.entry)) {
                *excluded = true;
            }
            return;
        }
        *ticked = true;
        if let Some(missing) = self.missing.get_mut(list.entry) {
            *missing = missing.saturating_sub(1);
            if *missing == 0 {
                self.ready.push(list.entry);
            }
        }
    }
}

/// Returns whether the session is as the decorators of an entry demand.
fn is_due(entry: &Entry, chat: &Chat<'_>) -> bool {
    entry.only_after.is_none_or(|after| chat.replies >= after)
        && entry
            .only_every
            .is_none_or(|every| chat.replies % every == 0)
        && match (entry.is_greeting, chat.greeting) {
            (None, _) | (_, Greeting::Unknown) => true,
            (Some(_), Greeting::Without) => false,
            (Some(wanted), Greeting::Number(greeting)) => wanted == greeting,
        }
}
