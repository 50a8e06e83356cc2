//! Which entries of a lorebook a prompt has. The properties and what the tests share are here.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::characters::card::{self, Card, Position, Regexes};
use crate::characters::macros::{Scope, expand};

mod budget;
mod decorated;
mod matched;
mod placed;
mod recursive;

/// Returns an enabled entry with these keys, separated by commas.
fn entry(keys: &str, content: &str) -> card::Entry {
    let keys = keys.split(',').map(str::to_owned).collect();
    card::Entry {
        index: 0,
        keys,
        secondary_keys: Vec::new(),
        selective: false,
        constant: false,
        case_sensitive: false,
        regexes: Regexes::None,
        content: content.to_owned(),
        enabled: true,
        insertion_order: 0,
        priority: None,
        position: Position::BeforeChar,
    }
}

fn constant(content: &str) -> card::Entry {
    card::Entry {
        constant: true,
        ..entry("", content)
    }
}

fn regex(keys: &str, content: &str) -> card::Entry {
    card::Entry {
        regexes: Regexes::All,
        ..entry(keys, content)
    }
}

/// Returns an entry of which SillyTavern's rule says which keys are regular expressions.
fn delimited(keys: &str, content: &str) -> card::Entry {
    card::Entry {
        regexes: Regexes::Delimited,
        ..entry(keys, content)
    }
}

fn book(entries: Vec<card::Entry>) -> Book {
    Book {
        scan_depth: None,
        token_budget: None,
        recursive_scanning: false,
        entries,
    }
}

fn recursive(entries: Vec<card::Entry>) -> Book {
    Book {
        recursive_scanning: true,
        ..book(entries)
    }
}

fn text(index: usize, text: &str) -> String {
    let scope = Scope {
        char: "Mira",
        user: "Ann",
        original: "",
        session: "s",
    };
    expand(text, &scope, &format!("entry {index}")).into_owned()
}

fn bytes(text: &str) -> u64 {
    u64::try_from(text.len()).expect("small")
}

fn lore(book: &Book) -> Lore {
    let sections = Sections {
        personality: true,
        scenario: true,
    };
    Lore::new(book, "Mira", sections)
}

fn chat<'a>(newest_first: &'a [&'a str]) -> Chat<'a> {
    Chat {
        newest_first,
        replies: 0,
        greeting: Greeting::Unknown,
    }
}

fn placed(book: &Book, chat: &Chat<'_>) -> Vec<Placed> {
    lore(book).select(chat, &text, &bytes)
}

/// Returns the texts that a turn selects, separated by blanks.
fn selected(book: &Book, chat: &Chat<'_>) -> String {
    let texts: Vec<String> = placed(book, chat)
        .into_iter()
        .map(|placed| placed.text)
        .collect();
    texts.join(" ")
}

/// Fails if compiling or selecting takes the time of a hostile lorebook in seconds, as quadratic work would.
#[test]
fn hostile_lorebooks_take_linear_time() {
    let many = 10_000;
    let numbered = |entry: fn(&str, &str) -> card::Entry| {
        (0..many)
            .map(|number| entry(&format!("key{number}."), &format!("key{}. x", number + 1)))
            .collect::<Vec<_>>()
    };
    let message = "key0. (aaaa) ".repeat(20_000);
    for (name, book) in [
        ("chain", recursive(numbered(entry))),
        ("patterns", recursive(numbered(regex))),
        (
            "keys",
            recursive(vec![entry(
                &(0..100_000)
                    .map(|key| format!("{key},"))
                    .collect::<String>(),
                "1 2 3",
            )]),
        ),
        (
            "all at once",
            recursive((0..many).map(|_| entry("key", "key")).collect()),
        ),
        (
            "long key",
            recursive(vec![entry(&"a".repeat(1 << 20), "x")]),
        ),
        (
            "large patterns",
            book((0..many).map(|_| regex(r"(\w|\d|\s){40}$", "x")).collect()),
        ),
        (
            "constants",
            recursive(
                (0..many)
                    .map(|number| constant(&format!("key{number}. {{{{hidden_key:key{number}}}}}")))
                    .collect(),
            ),
        ),
        ("delimited", {
            let words = |number| format!("/{}/i,/key{number}|(a+)+$/", "/".repeat(900));
            recursive(
                (0..many)
                    .map(|number| delimited(&words(number), "aaa key1"))
                    .collect(),
            )
        }),
        ("classes", {
            let classes = format!("[{}]", r"\w\W\d\pL".repeat(100));
            book((0..many).map(|_| regex(&classes, "x")).collect())
        }),
    ] {
        let began = Instant::now();
        let lore = lore(&book);
        let compiled = began.elapsed();
        let _ = lore.select(&chat(&[&message, &message]), &text, &bytes);
        let took = began.elapsed();
        assert!(
            took < Duration::from_secs(60),
            "{name}: {compiled:?}, {took:?}"
        );
    }
}

fn entries() -> impl Strategy<Value = Vec<card::Entry>> {
    let any = (
        "[abc]{1,2}",
        "(@@(depth|scan_depth|exclude_keys|additional_keys|constant|activate_only_every) [1-3b]\n){0,2}[abc ]{0,4}",
        any::<[bool; 4]>(),
        -2_i64..3,
        proptest::option::of(-2_i64..3),
    );
    let entry = any.prop_map(
        |(key, content, [is_constant, case_sensitive, use_regex, selective], order, priority)| {
            card::Entry {
                constant: is_constant && case_sensitive,
                case_sensitive,
                regexes: match (use_regex, selective) {
                    (false, _) => Regexes::None,
                    (true, false) => Regexes::All,
                    (true, true) => Regexes::Delimited,
                },
                selective,
                secondary_keys: vec![key.chars().rev().collect()],
                insertion_order: order,
                priority,
                ..entry(&key, &content)
            }
        },
    );
    proptest::collection::vec(entry, 0..12)
}

proptest! {
    #[test]
    fn a_selection_is_ordered_unique_and_within_its_budget(
        entries in entries(),
        messages in proptest::collection::vec("[abcAB ]{0,6}", 0..4),
        budget in proptest::option::of(0_u64..20),
        recursive_scanning in any::<bool>(),
        replies in 0_u64..5,
    ) {
        let book = Book { scan_depth: Some(3), token_budget: budget, recursive_scanning, entries };
        let messages: Vec<&str> = messages.iter().map(String::as_str).collect();
        let chat = Chat { newest_first: &messages, replies, greeting: Greeting::Unknown };
        let found = placed(&book, &chat);
        prop_assert_eq!(&found, &placed(&book, &chat));
        let order: Vec<_> = found
            .iter()
            .map(|placed| (book.entries[placed.entry].insertion_order, placed.entry))
            .collect();
        prop_assert!(order.is_sorted_by(|one, next| one < next));
        let lore = lore(&book);
        let presences: Vec<Presence> = lore.described().map(|entry| entry.presence).collect();
        let fixed: Vec<_> = found.iter().filter(|placed| presences[placed.entry] == Presence::Fixed).cloned().collect();
        prop_assert_eq!(fixed, lore.fixed(&text, &bytes).kept);
        let is_never = |placed: &Placed| matches!(presences[placed.entry], Presence::Off | Presence::Unreachable);
        prop_assert!(!found.iter().any(is_never));
        if let Some(budget) = budget {
            prop_assert!(found.iter().map(|placed| bytes(&placed.text)).sum::<u64>() <= budget);
        } else {
            prop_assert!(lore.fixed(&text, &bytes).removed.is_empty());
        }
    }

    #[test]
    fn more_messages_never_hide_an_entry_without_exclusions(
        entries in entries(),
        messages in proptest::collection::vec("[abc ]{0,6}", 1..4),
    ) {
        let plain = entries.into_iter().filter(|entry| !entry.content.contains("exclude"));
        let book = recursive(plain.collect());
        let messages: Vec<&str> = messages.iter().map(String::as_str).collect();
        let fewer = placed(&book, &chat(&messages[..messages.len() - 1]));
        let more = placed(&book, &chat(&messages));
        prop_assert!(fewer.iter().all(|placed| more.contains(placed)));
    }

    #[test]
    fn any_lorebook_can_be_compiled(key in any::<String>(), content in any::<String>(), message in any::<String>()) {
        let book = recursive(vec![entry(&key, &content), regex(&key, &content), delimited(&key, &content)]);
        let _ = placed(&book, &chat(&[&message]));
    }
}
