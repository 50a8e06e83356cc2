//! What goes when tokens or bytes run out.

use std::cell::Cell;

use super::*;

#[test]
fn the_least_important_entries_go_when_tokens_run_out() {
    let with = |order, priority, content| card::Entry {
        insertion_order: order,
        priority,
        ..entry("a", content)
    };
    let entries = vec![
        with(1, Some(9), "important"),
        with(2, None, "second"),
        with(3, Some(2), "third"),
        with(9, Some(-5), "least"),
    ];
    for (budget, expected) in [
        (None, "important second third least"),
        (Some(25), "important second third least"),
        (Some(24), "important second third"),
        (Some(19), "important second"),
        (Some(14), "important"),
        (Some(8), ""),
        (Some(0), ""),
    ] {
        let entries = entries.clone();
        let book = Book {
            token_budget: budget,
            ..book(entries)
        };
        assert_eq!(selected(&book, &chat(&["a"])), expected, "{budget:?}");
    }
}

#[test]
fn fixed_entries_take_the_budget_before_those_of_a_turn() {
    let with = |priority, entry| card::Entry {
        priority: Some(priority),
        ..entry
    };
    let entries = vec![
        with(1, constant("{{char}} low")),
        with(5, constant("high")),
        with(9, entry("a", "turn")),
        with(8, entry("a", "second")),
    ];
    for (budget, kept, removed, quiet, mentioned) in [
        (
            None,
            &[0, 1][..],
            &[][..],
            "Mira low high",
            "Mira low high turn second",
        ),
        (
            Some(22),
            &[0, 1],
            &[],
            "Mira low high",
            "Mira low high turn second",
        ),
        (
            Some(21),
            &[0, 1],
            &[],
            "Mira low high",
            "Mira low high turn",
        ),
        (Some(15), &[0, 1], &[], "Mira low high", "Mira low high"),
        (Some(11), &[1], &[0], "high", "high turn"),
        (Some(4), &[1], &[0], "high", "high"),
        (Some(3), &[], &[1, 0], "", ""),
    ] {
        let book = Book {
            token_budget: budget,
            ..book(entries.clone())
        };
        let fixed = lore(&book).fixed(&text, &bytes);
        let indexes: Vec<usize> = fixed.kept.iter().map(|placed| placed.entry).collect();
        assert_eq!(
            (indexes.as_slice(), fixed.removed.as_slice()),
            (kept, removed),
            "{budget:?}"
        );
        assert_eq!(selected(&book, &chat(&["nothing"])), quiet, "{budget:?}");
        assert_eq!(selected(&book, &chat(&["a"])), mentioned, "{budget:?}");
    }
}

#[test]
fn the_text_of_all_entries_has_a_limit() {
    let large = |_: usize, _: &str| "x".repeat(1 << 20);
    let mut entries: Vec<card::Entry> = (0..20).map(|_| constant("c")).collect();
    let lore = |entries: &[card::Entry]| lore(&book(entries.to_vec()));
    let fixed = lore(&entries).fixed(&large, &bytes);
    assert_eq!(
        (fixed.kept.len(), fixed.removed),
        (16, vec![16, 17, 18, 19])
    );
    // What fixed entries leave is for the others.
    entries.truncate(10);
    entries.extend((0..10).map(|_| entry("a", "t")));
    let found = lore(&entries).select(&chat(&["a"]), &large, &bytes);
    assert_eq!(found.len(), 16);
}

#[test]
fn hidden_keys_count_towards_the_limit_of_text() {
    let expansions = Cell::new(0);
    let large = |_: usize, _: &str| {
        expansions.set(expansions.get() + 1);
        "x".repeat(1 << 20)
    };
    let entries = (0..20).map(|_| entry("a", "{{hidden_key:b}}")).collect();
    lore(&recursive(entries)).select(&chat(&["a"]), &large, &bytes);
    assert_eq!(expansions.get(), 17);
}
