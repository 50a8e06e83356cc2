//! Which messages the keys of an entry match.

use super::*;

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
