use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::characters::card::{self, Card, Position, Regexes};
use crate::characters::macros::{Scope, expand};

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

#[test]
fn an_entry_matches_what_its_keys_say() {
    let case_sensitive = |keys| card::Entry {
        case_sensitive: true,
        ..entry(keys, "x")
    };
    let selective = |secondary: &[&str]| card::Entry {
        selective: true,
        secondary_keys: secondary.iter().map(|key| (*key).to_owned()).collect(),
        ..entry("dragon", "x")
    };
    for (entry, message, expected) in [
        (entry("dragon,wyrm", "x"), "two DRAGONs", true),
        (entry("dragon, wyrm ", "x"), "a wyrm", true),
        (entry("dragon", "x"), "a drag on", false),
        (entry("ДРАКОН", "x"), "дракон", true),
        (entry("龙", "x"), "有龙吗", true),
        (entry(", ", "x"), "a, b", false),
        (entry("{{char}}", "x"), "where is mira?", true),
        (case_sensitive("Dragon"), "a dragon", false),
        (case_sensitive("Dragon"), "a Dragon", true),
        (selective(&["fire", "ice"]), "a dragon", false),
        (selective(&["fire", "ice"]), "dragon ICE", true),
        (selective(&["", " "]), "a dragon", true),
        (
            card::Entry {
                selective: false,
                ..selective(&["fire"])
            },
            "a dragon",
            true,
        ),
        (
            card::Entry {
                enabled: false,
                ..entry("a", "@@activate\nx")
            },
            "a",
            false,
        ),
        (constant("x"), "", true),
        (constant(" \n"), "", false),
        (constant("{{// note}}"), "", false),
        (regex("dr[ao]gon", "x"), "DROGON", true),
        (regex("drogon", "x"), "DROGON", true),
        (regex("/dr.gon/i,(", "x"), "dragon", false),
        (regex("/^{{char}}/", "x"), "Mira?", true),
        (
            card::Entry {
                constant: true,
                ..regex("drogon", "x")
            },
            "a",
            false,
        ),
        (
            card::Entry {
                constant: true,
                ..regex(" ,", "x")
            },
            "a",
            true,
        ),
        (regex("", "@@constant\nx"), "a", true),
        (regex("", "@@constant\n@@additional_keys (\nx"), "(", false),
        (regex(" ,", "x"), "a b", false),
        (regex("", "@@additional_keys a+\nx"), "aa", true),
        (
            card::Entry {
                selective: true,
                secondary_keys: vec!["fire".to_owned()],
                ..regex("drag.n", "x")
            },
            "a dragon",
            true,
        ),
    ] {
        let found = selected(&book(vec![entry.clone()]), &chat(&[message]));
        assert_eq!(found, if expected { "x" } else { "" }, "{entry:?}");
    }
}

#[test]
fn only_the_newest_messages_are_scanned() {
    let newest = ["zero", "one", "two", "three", "four", "five"];
    for (book_depth, keys, decorator, expected) in [
        (Some(1), "one", "", false),
        (Some(2), "one", "", true),
        (Some(0), "zero", "", false),
        (Some(1), "two", "@@scan_depth 3\n", true),
        (Some(9), "two", "@@scan_depth 2\n", false),
        (None, "four", "", true),
        (None, "five", "", false),
    ] {
        for entry in [
            entry(keys, &format!("{decorator}x")),
            regex(&format!("^{keys}$"), &format!("{decorator}x")),
        ] {
            let book = Book {
                scan_depth: book_depth,
                // How far others look changes nothing.
                ..book(vec![entry, self::entry("none", "@@scan_depth 9\ny")])
            };
            let found = selected(&book, &chat(&newest));
            assert_eq!(found == "x", expected, "{book_depth:?} {keys} {decorator}");
        }
    }
}

#[test]
fn decorators_decide_whether_an_entry_matches() {
    for (content, constant, message, replies, greeting, expected) in [
        ("@@activate\n", false, "", 0, Greeting::Without, true),
        (
            "@@activate\n@@dont_activate\n",
            false,
            "",
            0,
            Greeting::Without,
            true,
        ),
        (
            "@@activate\n@@is_greeting 2\n@@exclude_keys b\n",
            false,
            "b",
            0,
            Greeting::Without,
            true,
        ),
        ("@@dont_activate\n", true, "a", 0, Greeting::Without, false),
        ("@@constant\n", false, "", 0, Greeting::Without, true),
        (
            "@@activate_only_after 2\n",
            true,
            "",
            1,
            Greeting::Without,
            false,
        ),
        (
            "@@activate_only_after 2\n",
            true,
            "",
            2,
            Greeting::Without,
            true,
        ),
        (
            "@@activate_only_after 2\n",
            false,
            "",
            2,
            Greeting::Without,
            false,
        ),
        (
            "@@activate_only_every 3\n",
            true,
            "",
            4,
            Greeting::Without,
            false,
        ),
        (
            "@@activate_only_every 3\n",
            false,
            "a",
            6,
            Greeting::Without,
            true,
        ),
        (
            "@@activate_only_every 3\n",
            true,
            "",
            0,
            Greeting::Without,
            true,
        ),
        ("@@is_greeting 1\n", true, "", 0, Greeting::Number(1), true),
        ("@@is_greeting 1\n", true, "", 0, Greeting::Number(0), false),
        ("@@is_greeting 1\n", true, "", 0, Greeting::Without, false),
        ("@@is_greeting 0\n", true, "", 0, Greeting::Without, false),
        ("@@is_greeting 1\n", true, "", 0, Greeting::Unknown, true),
        ("@@is_greeting 1\n", false, "b", 0, Greeting::Unknown, false),
        (
            "@@additional_keys b,c\n",
            false,
            "a c",
            0,
            Greeting::Without,
            true,
        ),
        (
            "@@additional_keys b,c\n",
            false,
            "a",
            0,
            Greeting::Without,
            false,
        ),
        (
            "@@additional_keys b\n@@additional_keys c\n",
            false,
            "a b",
            0,
            Greeting::Without,
            false,
        ),
        (
            "@@additional_keys b\n@@additional_keys c\n",
            false,
            "a b c",
            0,
            Greeting::Without,
            true,
        ),
        (
            "@@additional_keys b\n",
            true,
            "a",
            0,
            Greeting::Without,
            false,
        ),
        (
            "@@additional_keys b\n",
            true,
            "b",
            0,
            Greeting::Without,
            true,
        ),
        (
            "@@exclude_keys b,c\n",
            false,
            "a C",
            0,
            Greeting::Without,
            false,
        ),
        (
            "@@exclude_keys b\n@@exclude_keys c\n",
            true,
            "c",
            0,
            Greeting::Without,
            true,
        ),
        ("@@exclude_keys b\n", true, "", 0, Greeting::Without, true),
        (
            "@@keep_activate_after_match\n@@@dont_activate\n",
            false,
            "a",
            0,
            Greeting::Without,
            false,
        ),
    ] {
        let content = format!("{content}\nx");
        let entry = card::Entry {
            constant,
            ..entry("a", &content)
        };
        let chat = Chat {
            newest_first: &[message],
            replies,
            greeting,
        };
        let found = selected(&book(vec![entry]), &chat);
        assert_eq!(found, if expected { "x" } else { "" }, "{content}");
    }
}

#[test]
fn patterns_take_additional_keys_as_alternatives() {
    let book = |decorator: &str| book(vec![regex("dr.gon", &format!("{decorator}\nx"))]);
    for (decorator, message, expected) in [
        ("@@additional_keys w.rm", "a worm", "x"),
        ("@@additional_keys w.rm", "a dragon", "x"),
        ("@@additional_keys (", "a dragon", ""),
        ("@@exclude_keys dragon", "a dragon", "x"),
    ] {
        assert_eq!(
            selected(&book(decorator), &chat(&[message])),
            expected,
            "{decorator}"
        );
    }
}

/// What SillyTavern exports: each entry says `use_regex`, and its own fields are in `extensions`.
const SILLY_TAVERN: &str = r#"{
    "spec": "chara_card_v3", "spec_version": "3.0", "data": {"name": "Mira", "character_book": {
        "name": "Mira's World", "entries": [
            {"id": 0, "keys": ["tea (green)", "kettle"], "secondary_keys": ["milk", ""], "comment": "Tea",
             "content": "tea", "constant": false, "selective": true, "insertion_order": 100, "enabled": true,
             "position": "before_char", "use_regex": true, "extensions": {"position": 0, "exclude_recursion": false,
             "display_index": 0, "probability": 100, "useProbability": true, "depth": 4, "selectiveLogic": 0,
             "group": "", "group_override": false, "group_weight": 100, "prevent_recursion": false,
             "scan_depth": null, "match_whole_words": null, "case_sensitive": null, "role": 0, "sticky": 0}},
            {"id": 1, "keys": [], "secondary_keys": [], "comment": "World", "content": "always", "constant": true,
             "selective": true, "insertion_order": 1, "enabled": true, "position": "after_char", "use_regex": true,
             "extensions": {"position": 1, "selectiveLogic": 0, "depth": 4, "probability": 100}},
            {"id": 2, "keys": ["shrine"], "secondary_keys": [], "content": "constant with a key", "constant": true,
             "selective": true, "insertion_order": 2, "enabled": true, "position": "after_char", "use_regex": true,
             "extensions": {"position": 1, "selectiveLogic": 0}},
            {"id": 3, "keys": ["/\\bcat(s|\\/kittens)?\\b/i", "/Rex/", "/(?=dog)/"], "secondary_keys": [],
             "content": "pets", "constant": false, "selective": true, "insertion_order": 101, "enabled": true,
             "position": "before_char",
             "use_regex": true, "extensions": {"position": 0, "selectiveLogic": 0}},
            {"id": 4, "keys": ["a.c", "/usr/bin/"], "secondary_keys": [], "content": "literal", "constant": false,
             "selective": true, "insertion_order": 102, "enabled": true, "position": "before_char", "use_regex": true,
             "extensions": {"position": 4, "selectiveLogic": 0}},
            {"id": 5, "keys": ["kettle"], "secondary_keys": [], "content": "off", "constant": false, "selective": true,
             "insertion_order": 103, "enabled": false, "position": "before_char", "use_regex": true,
             "extensions": {"position": 0, "selectiveLogic": 0}}
        ]
    }}
}"#;

#[test]
fn an_export_of_silly_tavern_works_as_it_does_there() {
    let card = Card::from_json(SILLY_TAVERN).expect("a card");
    assert_eq!(card.warnings, []);
    for (message, expected) in [
        ("hello", ""),
        ("Tea (green), please", ""),
        ("tea (green) with Milk", " tea"),
        ("The kettle and the milk", " tea"),
        ("my CATS", " pets"),
        ("cat/kittens", " pets"),
        ("concatenate", ""),
        ("Rex", " pets"),
        ("rex", ""),
        ("dog", ""),
        ("abc", ""),
        ("A.C", " literal"),
        ("in /usr/bin/", " literal"),
        ("usr bin", ""),
    ] {
        let found = selected(&card.book, &chat(&[message]));
        assert_eq!(
            found,
            format!("always constant with a key{expected}"),
            "{message}"
        );
    }
    assert_eq!(lore(&card.book).keys_without_effect(), 1);
}

#[test]
fn delimited_patterns_know_the_name_and_exclude_too() {
    for (entry, message, expected) in [
        (delimited("/^{{char}}\\b/i", "x"), "mira?", "x"),
        (delimited("/^{{char}}\\b/i", "x"), "Miranda", ""),
        (delimited("a", "@@exclude_keys /b+$/\nx"), "a b", ""),
        (delimited("a", "@@exclude_keys /b+$/\nx"), "a b c", "x"),
        (delimited("a", "@@additional_keys /b+$/\nx"), "a bb", "x"),
        (delimited("a", "@@additional_keys /b+$/\nx"), "a", ""),
    ] {
        let found = selected(&book(vec![entry.clone()]), &chat(&[message]));
        assert_eq!(found, expected, "{entry:?}");
    }
}

#[test]
fn an_entry_that_no_prompt_can_have_is_told_from_one_that_is_off() {
    let off = |entry| card::Entry {
        enabled: false,
        ..entry
    };
    let selective = |secondary: &str| card::Entry {
        selective: true,
        secondary_keys: vec![secondary.to_owned()],
        ..delimited("a", "x")
    };
    let long = "k".repeat(2_000);
    for (entry, expected) in [
        (entry("a", "@@depth 2\n\n x"), Presence::Turn),
        (constant("x"), Presence::Fixed),
        (off(entry("a", "x")), Presence::Off),
        (off(entry("", "x")), Presence::Off),
        (entry("a", "@@role user\n \n"), Presence::Off),
        (constant("@@dont_activate\nx"), Presence::Off),
        (regex("(", "@@activate\nx"), Presence::Fixed),
        (entry("", "x"), Presence::Unreachable),
        (entry(" , ", "x"), Presence::Unreachable),
        (entry(&long, "x"), Presence::Unreachable),
        (entry("", "@@additional_keys a\nx"), Presence::Unreachable),
        (regex("", "x"), Presence::Unreachable),
        (regex("a,(", "x"), Presence::Unreachable),
        (delimited("/(/", "x"), Presence::Unreachable),
        (delimited("/(/,a", "x"), Presence::Turn),
        (selective("/(/"), Presence::Unreachable),
        (selective(" "), Presence::Turn),
        (entry("a", "@@scan_depth 0\nx"), Presence::Unreachable),
    ] {
        let lore = lore(&book(vec![entry.clone()]));
        let described: Vec<Described<'_>> = lore.described().collect();
        let content = match (expected, entry.content.starts_with("@@depth")) {
            (Presence::Off | Presence::Unreachable, _) => "",
            (_, true) => " x",
            (_, false) => "x",
        };
        let expected = Described {
            index: 0,
            presence: expected,
            content,
        };
        assert_eq!(described, [expected], "{entry:?}");
    }
    let lore = lore(&recursive(vec![entry("a", "@@scan_depth 0\nx")]));
    let presence = lore.described().map(|entry| entry.presence).next();
    assert_eq!(presence, Some(Presence::Turn));
}

#[test]
fn an_entry_for_a_section_that_is_missing_stands_in_its_own_place() {
    let entry = constant("@@position scenario\nx");
    for (scenario, place) in [(true, Place::Scenario), (false, Place::BeforeChar)] {
        let sections = Sections {
            personality: true,
            scenario,
        };
        let lore = Lore::new(&book(vec![entry.clone()]), "Mira", sections);
        let fixed = lore.fixed(&text, &bytes).kept;
        assert_eq!(fixed.first().map(|placed| placed.place), Some(place));
    }
}

#[test]
fn what_may_change_stands_behind_and_what_is_fixed_in_front() {
    let after = |entry| card::Entry {
        position: Position::AfterChar,
        ..entry
    };
    for (entry, place, is_fixed) in [
        (constant("x"), Place::BeforeChar, true),
        (after(constant("x")), Place::AfterChar, true),
        (
            constant("@@position personality\nx"),
            Place::Personality,
            true,
        ),
        (
            constant("@@position scenario\n@@depth 3\nx"),
            Place::Scenario,
            true,
        ),
        (constant("@@position after_desc\nx"), Place::AfterChar, true),
        (
            after(constant("@@position before_desc\nx")),
            Place::BeforeChar,
            true,
        ),
        (
            constant("@@position nowhere\n@@@depth 1\nx"),
            Place::Depth(1),
            false,
        ),
        (constant("@@depth 2\nx"), Place::Depth(2), false),
        (constant("@@exclude_keys b\nx"), Place::Behind, false),
        (constant("@@activate_only_after 0\nx"), Place::Behind, false),
        (after(entry("a", "x")), Place::Behind, false),
        (
            entry("a", "@@position personality\nx"),
            Place::Behind,
            false,
        ),
        (entry("a", "@@depth 0\nx"), Place::Depth(0), false),
        (
            entry("b", "@@activate\n@@exclude_keys a\nx"),
            Place::BeforeChar,
            true,
        ),
    ] {
        let content = entry.content.clone();
        let lore = lore(&book(vec![entry]));
        let found = lore.select(&chat(&["a"]), &text, &bytes);
        let places: Vec<Place> = found.iter().map(|placed| placed.place).collect();
        assert_eq!(places, [place], "{content}");
        let presence = lore.described().map(|entry| entry.presence).next();
        let expected = if is_fixed {
            Presence::Fixed
        } else {
            Presence::Turn
        };
        assert_eq!(presence, Some(expected), "{content}");
        let fixed = lore.fixed(&text, &bytes);
        assert_eq!(
            fixed.kept,
            if is_fixed { found } else { Vec::new() },
            "{content}"
        );
    }
}

#[test]
fn an_entry_may_speak_in_a_role() {
    for (content, role) in [
        ("x", Role::System),
        ("@@role user\n@@depth 0\nx", Role::User),
        ("@@role assistant\nx", Role::Assistant),
    ] {
        let found = placed(&book(vec![constant(content)]), &chat(&[]));
        assert_eq!(found.first().map(|placed| placed.role), Some(role));
    }
}

#[test]
fn entries_come_in_their_order_with_their_macros_expanded() {
    let ordered = |order, content| card::Entry {
        insertion_order: order,
        ..entry("a", content)
    };
    let book = book(vec![
        ordered(2, "c={{user}}"),
        ordered(-1, "a={{char}}"),
        ordered(2, "d"),
        ordered(0, "b"),
    ]);
    assert_eq!(selected(&book, &chat(&["A"])), "a=Mira b c=Ann d");
}

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

#[test]
fn patterns_stop_at_a_limit_of_text_and_words_do_not() {
    let long = "a".repeat(9 << 20) + "b";
    let book = book(vec![regex("b$", "pattern"), entry("b", "word")]);
    for (message, expected) in [("ab", "pattern word"), (long.as_str(), "word")] {
        assert_eq!(selected(&book, &chat(&[message])), expected);
    }
}

#[test]
fn keys_that_can_never_be_found_are_counted() {
    let long = "k".repeat(2_000);
    let entries = vec![
        regex("a+,(", "x"),
        regex("(?<=a)b", "x"),
        entry(&long, "x"),
        entry("fine", "x"),
        delimited("/(/,/[/,fine", "x"),
    ];
    let lore = lore(&book(entries));
    assert_eq!((lore.entries(), lore.keys_without_effect()), (5, 5));
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

#[test]
fn lore_is_shared_by_turns() {
    fn shared<T: Send + Sync>() {}
    shared::<Lore>();
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
