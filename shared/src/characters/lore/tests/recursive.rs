//! Entries that activate others.

use super::*;

#[test]
fn a_fixed_entry_that_is_removed_activates_no_other() {
    let entries = vec![constant("long dragon"), entry("dragon", "fire")];
    for (budget, expected) in [(Some(99), "long dragon fire"), (Some(10), "")] {
        let book = Book {
            token_budget: budget,
            ..recursive(entries.clone())
        };
        assert_eq!(selected(&book, &chat(&["a"])), expected, "{budget:?}");
    }
}

#[test]
fn a_fixed_entry_without_text_activates_by_its_hidden_keys() {
    let book = Book {
        token_budget: Some(4),
        ..recursive(vec![constant("{{hidden_key:gold}}"), entry("gold", "fire")])
    };
    assert_eq!(selected(&book, &chat(&["a"])), "fire");
}

#[test]
fn entries_activate_others_only_in_a_recursive_lorebook() {
    let chain = vec![
        entry(
            "dragon",
            "It lives in a {{// tower }}cave.{{hidden_key:gold}}",
        ),
        entry("cave", "dark"),
        entry("tower", "high"),
        entry("gold", "hoard"),
        entry("dark", "@@scan_depth 0\nbat"),
        entry("ann", "@@exclude_keys dark\nuser"),
        entry("bat", "Ask {{user}} of the dragon."),
    ];
    assert_eq!(
        selected(&book(chain.clone()), &chat(&["a dragon"])),
        "It lives in a cave."
    );
    assert_eq!(
        selected(&recursive(chain), &chat(&["a dragon"])),
        "It lives in a cave. dark hoard bat user Ask Ann of the dragon."
    );
}

#[test]
fn an_entry_that_is_off_activates_none() {
    let off = card::Entry {
        enabled: false,
        ..entry("a", "b")
    };
    let excluded = entry("a", "@@exclude_keys c\nb");
    let book = recursive(vec![off, excluded, entry("b", "x"), regex("b+", "y")]);
    assert_eq!(selected(&book, &chat(&["a c"])), "");
    assert_eq!(selected(&book, &chat(&["a"])), "b x y");
}
