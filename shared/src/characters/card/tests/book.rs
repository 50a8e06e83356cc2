//! The lorebook of a card.

use super::*;

#[test]
fn keys_are_regular_expressions_as_the_editor_means() {
    for (fields, expected) in [
        (json!({}), Regexes::None),
        (json!({"use_regex": false}), Regexes::None),
        (json!({"use_regex": true}), Regexes::All),
        (json!({"use_regex": "yes"}), Regexes::None),
        (
            json!({"use_regex": true, "extensions": {"position": "4", "depth": 4}}),
            Regexes::All,
        ),
        (json!({"use_regex": true, "extensions": []}), Regexes::All),
        (
            json!({"use_regex": true, "extensions": {"position": 4}}),
            Regexes::Delimited,
        ),
        (
            json!({"use_regex": true, "extensions": {"selectiveLogic": 0}}),
            Regexes::Delimited,
        ),
        (
            json!({"extensions": {"position": 0, "selectiveLogic": 3}}),
            Regexes::Delimited,
        ),
        (
            json!({"use_regex": false, "extensions": {"position": 0}}),
            Regexes::None,
        ),
    ] {
        let card =
            read(&json!({"data": {"name": "n", "character_book": {"entries": [fields.clone()]}}}));
        assert_eq!(
            card.book.entries.first().expect("read").regexes,
            expected,
            "{fields}"
        );
    }
}

#[test]
fn world_info_is_read_as_a_lorebook() {
    let card = Card::from_json(
        r#"{"data": {"name": "n", "character_book": {"entries": {
            "7": {"uid": 7, "key": ["lake"], "keysecondary": ["blue"], "selective": true, "order": 50, "disable": true,
                  "position": 0, "caseSensitive": true, "content": "Water."},
            "1": {"key": ["old"]},
            "2": {"key": ["fire"], "position": 4, "caseSensitive": null, "disable": false},
            "1": {"key": ["new"], "position": 1}
        }}}}"#,
    )
    .expect("a card");
    assert_eq!(card.warnings, []);
    let [lake, fire, new] = card.book.entries.as_slice() else {
        panic!("three entries: {:?}", card.book);
    };
    assert_eq!(
        (lake.keys.as_slice(), lake.secondary_keys.as_slice()),
        (&["lake".into()][..], &["blue".into()][..])
    );
    assert!(lake.case_sensitive && lake.selective && !lake.enabled && fire.enabled);
    assert_eq!(
        (lake.insertion_order, lake.position),
        (50, Position::BeforeChar)
    );
    assert_eq!(
        (fire.keys.join(""), fire.position),
        ("fire".into(), Position::AfterChar)
    );
    assert_eq!(
        (new.keys.join(""), new.position),
        ("new".into(), Position::AfterChar)
    );
}

#[test]
fn a_large_lorebook_is_read_and_an_endless_one_is_cut() {
    let entries = vec![json!({"keys": ["k"], "content": "c"}); 10_000];
    let card = read(&json!({"data": {"name": "n", "character_book": {"entries": entries}}}));
    assert_eq!((card.book.entries.len(), card.warnings.len()), (10_000, 0));
    let list = "{},".repeat(300_000);
    let by_id: String = (0..300_000).map(|id| format!("\"{id}\":{{}},")).collect();
    for entries in [format!("[{list}{{}}]"), format!("{{{by_id}\"-\":{{}}}}")] {
        let json = format!(r#"{{"data":{{"name":"n","character_book":{{"entries":{entries}}}}}}}"#);
        let card = Card::from_json(&json).expect("a card");
        assert_eq!(card.book.entries.len(), 20_000);
        assert_eq!(
            warnings(&card),
            ["data.character_book.entries is too long: the last 280001 elements are ignored"]
        );
    }
}

#[test]
fn a_lorebook_of_endless_keys_is_cut() {
    let entry = json!({"keys": vec![1; 15_000], "secondary_keys": [2]});
    let card =
        read(&json!({"data": {"name": "n", "character_book": {"entries": vec![entry; 10]}}}));
    assert_eq!(card.book.entries.len(), 7);
    assert_eq!(
        warnings(&card),
        ["data.character_book.entries is too long: the last 3 elements are ignored"]
    );
}
