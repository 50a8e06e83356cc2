//! Compiles a lorebook: decides what each entry waits for, and where it stands.

use std::cmp::Reverse;

use super::decorators::{self, Decorators};
use super::keys::{Keys, Waits};
use super::{Entry, Lore, Place, Presence, SCAN_DEPTH, Sections};
use crate::characters::card::{self, Book, Position};
use crate::characters::macros;
use crate::message::Role;

/// Returns the compiled form of a lorebook.
pub(super) fn lore(book: &Book, char: &str, sections: Sections) -> Lore {
    let mut keys = Keys::new(char);
    let entries: Vec<Entry> = book
        .entries
        .iter()
        .enumerate()
        .map(|(index, entry)| compiled(entry, index, (book, sections), &mut keys))
        .collect();
    let search = keys.finish();
    let scanning = search
        .lists
        .iter()
        .filter_map(|list| entries.get(list.entry));
    let scanned = scanning.map(|entry| entry.scan_depth).max().unwrap_or(0);
    Lore {
        fixed: by_priority(&entries),
        entries,
        lists: search.lists,
        exact: search.exact,
        folded: search.folded,
        patterns: search.patterns,
        token_budget: book.token_budget,
        recursive: book.recursive_scanning,
        scanned,
        keys_without_effect: search.keys_without_effect,
    }
}

/// Returns the indexes of the fixed entries, the most important first.
fn by_priority(entries: &[Entry]) -> Vec<usize> {
    let mut fixed: Vec<(Reverse<i64>, usize)> = (0..)
        .zip(entries)
        .filter(|(_, entry)| entry.presence == Presence::Fixed)
        .map(|(index, entry)| (Reverse(entry.priority), index))
        .collect();
    fixed.sort_unstable();
    fixed.into_iter().map(|(_, index)| index).collect()
}

fn compiled(
    entry: &card::Entry,
    index: usize,
    (book, sections): (&Book, Sections),
    keys: &mut Keys<'_>,
) -> Entry {
    let (decorators, content) = decorators::split(&entry.content, sections);
    let is_ruled_out = decorators.dont_activate && !decorators.activate;
    let is_off = !entry.enabled || is_ruled_out || content.trim().is_empty();
    let scan_depth = scan_depth(&decorators, book);
    let waits = if is_off || decorators.activate {
        // It activates in any case, or never.
        Some(Waits::default())
    } else {
        let waits = keys.add(entry, &decorators, index);
        let is_text_scanned = scan_depth > 0 || book.recursive_scanning;
        waits.filter(|waits| waits.lists == 0 || is_text_scanned)
    };
    let is_unreachable = waits.is_none();
    let waits = waits.unwrap_or_default();
    let is_conditional = !decorators.activate
        && (waits.is_conditional
            || decorators.only_after.is_some()
            || decorators.only_every.is_some()
            || decorators.is_greeting.is_some());
    let depth = match decorators.position {
        Some(_) => None,
        None => decorators.depth.map(Place::Depth),
    };
    let presence = if is_off {
        Presence::Off
    } else if is_unreachable {
        Presence::Unreachable
    } else if is_conditional || depth.is_some() {
        Presence::Turn
    } else {
        Presence::Fixed
    };
    let own = match entry.position {
        Position::BeforeChar => Place::BeforeChar,
        Position::AfterChar => Place::AfterChar,
    };
    let place = match (depth, presence) {
        (Some(depth), _) => depth,
        (None, Presence::Fixed) => decorators.position.unwrap_or(own),
        (None, Presence::Off | Presence::Unreachable | Presence::Turn) => Place::Behind,
    };
    let content = match presence {
        Presence::Off | Presence::Unreachable => "",
        Presence::Fixed | Presence::Turn => content,
    };
    let applies = !decorators.activate;
    Entry {
        content: content.to_owned(),
        hidden: macros::hidden_keys(content),
        presence,
        lists: waits.lists,
        scan_depth,
        only_after: decorators.only_after.filter(|_| applies),
        only_every: decorators.only_every.filter(|_| applies),
        is_greeting: decorators.is_greeting.filter(|_| applies),
        place,
        role: decorators.role.unwrap_or(Role::System),
        order: entry.insertion_order,
        priority: entry.priority.unwrap_or(entry.insertion_order),
    }
}

fn scan_depth(decorators: &Decorators, book: &Book) -> usize {
    let own = decorators.scan_depth.or(book.scan_depth);
    own.unwrap_or(SCAN_DEPTH)
}
