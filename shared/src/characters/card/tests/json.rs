//! The fields of a card, and what is no card.

use super::*;

#[test]
fn every_field_of_a_v3_card_is_read() {
    let card = read(&v3());
    assert_eq!(card.spec, Spec::V3);
    assert_eq!(card.warnings, []);
    for (read, written) in [
        (card.name.as_str(), "Mira"),
        (card.nickname.as_deref().unwrap_or_default(), "Mi"),
        (&card.description, "d"),
        (&card.personality, "p"),
        (&card.scenario, "s"),
        (&card.mes_example, "<START>"),
        (&card.system_prompt, "sp"),
        (&card.post_history_instructions, "phi"),
        (&card.creator, "c"),
        (&card.creator_notes, "cn"),
        (&card.character_version, "1.1"),
    ] {
        assert_eq!(read, written);
    }
    assert_eq!(card.tags, ["a, b", "c"]);
    assert_eq!(card.greetings().collect::<Vec<_>>(), ["Hello.", "Hi.", ""]);
    assert_eq!(card.settings.expect("kept").get(), r#"{"temperature":0.7}"#);
    let entry = Entry {
        index: 0,
        keys: vec!["lake".into(), "sea".into()],
        secondary_keys: vec!["blue".into()],
        selective: true,
        constant: true,
        case_sensitive: true,
        regexes: Regexes::All,
        content: "@@depth 2\nWater.".into(),
        enabled: false,
        insertion_order: -3,
        priority: Some(7),
        position: Position::BeforeChar,
    };
    let book = Book {
        scan_depth: Some(4),
        token_budget: Some(500),
        recursive_scanning: true,
        entries: vec![entry],
    };
    assert_eq!(card.book, book);
}

#[test]
fn what_is_missing_gets_its_default_without_a_warning() {
    let card = read(&json!({"spec": "chara_card_v2", "data": {
        "name": "Mira", "nickname": " ", "description": null, "extensions": {"companion_chat": null},
        "character_book": {"entries": [{"keys": ["lake"], "content": "Water."}]}
    }}));
    assert_eq!(card.warnings, []);
    assert_eq!((card.spec, card.nickname.as_deref()), (Spec::V2, None));
    assert_eq!((card.description.as_str(), card.tags.len()), ("", 0));
    assert!(card.settings.is_none());
    let entry = card.book.entries.first().expect("read");
    assert!(entry.enabled && !entry.selective && !entry.constant && !entry.case_sensitive);
    assert_eq!((entry.insertion_order, entry.priority), (0, None));
    assert_eq!(entry.regexes, Regexes::None);
    assert_eq!(entry.position, Position::AfterChar);
}

#[test]
fn a_card_is_told_from_a_plain_character() {
    for (json, spec, warning) in [
        (
            r#"{"spec":"chara_card_v2","data":{"name":"n"}}"#,
            Some(Spec::V2),
            "",
        ),
        (
            r#"{"spec":"chara_card_v3","spec_version":3.0,"data":{"name":"n"}}"#,
            Some(Spec::V3),
            "",
        ),
        (
            r#"{"spec":"chara_card_v3","spec_version":"3.1","data":{"name":"n"}}"#,
            Some(Spec::V3),
            "the card follows a newer specification than V3: it is read as V3, without what is new",
        ),
        (
            r#"{"spec":"chara_card_v4","data":{"name":"n"}}"#,
            Some(Spec::V3),
            "the card follows a newer specification than V3: it is read as V3, without what is new",
        ),
        (
            r#"{"data":{"name":"n","system_prompt":"s"}}"#,
            Some(Spec::V2),
            "",
        ),
        (
            r#"{"spec":"mine","data":{"name":"n"}}"#,
            Some(Spec::V2),
            "spec is not chara_card_v2 or chara_card_v3: its fields decide how it is read",
        ),
        (r#"{"name":"n","description":"d"}"#, Some(Spec::V1), ""),
        (r#"{"name":"n","first_mes":""}"#, Some(Spec::V1), ""),
        (r#"{"spec":"chara_card_v2","name":"n"}"#, Some(Spec::V2), ""),
        (
            r#"{"spec":"chara_card_v2","name":"n","data":[]}"#,
            Some(Spec::V2),
            "data is not an object and is ignored",
        ),
        (r#"{"name":"n","system_prompt":"s"}"#, None, ""),
        (
            r#"{"name":"n","system_prompt":"s","description":"d"}"#,
            None,
            "",
        ),
        (r#"{"name":"n","data":"d"}"#, None, ""),
        (r#"{"spec":"lorebook_v3","data":{"entries":[]}}"#, None, ""),
        ("{}", None, ""),
    ] {
        let card = Card::from_json(json);
        let Some(spec) = spec else {
            assert_eq!(
                card.map(|card| card.name),
                Err(Unreadable::NotACard),
                "{json}"
            );
            continue;
        };
        let card = card.expect(json);
        assert_eq!((card.spec, card.name.as_str()), (spec, "n"), "{json}");
        assert_eq!(warnings(&card).join("; "), warning, "{json}");
    }
}

#[test]
fn fields_outside_of_data_stand_in_for_those_that_data_lacks() {
    let card = read(&json!({
        "spec": "chara_card_v2", "name": "old", "description": "old", "scenario": "old", "tags": ["old"],
        "character_book": {"entries": [{"keys": "sun, moon"}, 3]},
        "data": {"name": "new", "description": "", "scenario": null}
    }));
    assert_eq!(
        (
            card.name.as_str(),
            card.description.as_str(),
            card.scenario.as_str()
        ),
        ("new", "", "old")
    );
    assert_eq!(card.tags, ["old"]);
    assert_eq!(
        card.book.entries.first().expect("read").keys,
        ["sun", "moon"]
    );
    assert_eq!(
        warnings(&card),
        ["character_book.entries[1] is not an object and is ignored"]
    );
}

#[test]
fn fields_of_another_type_are_read_as_what_they_mean_or_reported() {
    for (field, meant, reported) in [
        (
            json!({"character_version": 1.50}),
            json!({"character_version": "1.5"}),
            "",
        ),
        (
            json!({"description": true}),
            json!({}),
            "data.description is not text and is ignored",
        ),
        (
            json!({"alternate_greetings": "Hi, you."}),
            json!({"alternate_greetings": ["Hi, you."]}),
            "",
        ),
        (
            json!({"alternate_greetings": ["a", null, {"x": SECRET}, 7]}),
            json!({"alternate_greetings": ["a", "", "", "7"]}),
            "data.alternate_greetings[2] is not text and is ignored",
        ),
        (json!({"tags": "a, b,, "}), json!({"tags": ["a", "b"]}), ""),
        (
            json!({"tags": ["a", " ", null, 1]}),
            json!({"tags": ["a", "1"]}),
            "",
        ),
        (
            json!({"tags": {"a": SECRET}}),
            json!({}),
            "data.tags is not a list of texts and is ignored",
        ),
        (
            json!({"extensions": []}),
            json!({}),
            "data.extensions is not an object and is ignored",
        ),
        (
            json!({"character_book": [1]}),
            json!({}),
            "data.character_book is not an object and is ignored",
        ),
        (
            json!({"character_book": {"scan_depth": "3", "token_budget": 99.9, "recursive_scanning": "True"}}),
            json!({"character_book": {"scan_depth": 3, "token_budget": 99, "recursive_scanning": true}}),
            "",
        ),
        (
            json!({"character_book": {"scan_depth": -1, "entries": 5}}),
            json!({}),
            "data.character_book.scan_depth is not a count and is ignored; \
             data.character_book.entries is not a list of entries and is ignored",
        ),
        (
            json!({"character_book": {"entries": [
                {"enabled": 0, "constant": "1", "selective": "maybe", "insertion_order": "1e2", "priority": [],
                 "position": "middle", "keys": 5}
            ]}}),
            json!({"character_book": {"entries": [
                {"enabled": false, "constant": true, "insertion_order": 100, "keys": ["5"]}
            ]}}),
            "data.character_book.entries[0].selective is not true or false and is ignored; \
             data.character_book.entries[0].priority is not a number and is ignored; \
             data.character_book.entries[0].position is not before_char or after_char and is ignored",
        ),
    ] {
        let with = |mut data: Value| {
            data["name"] = json!("n");
            read(&json!({ "data": data }))
        };
        let (read, mut meant) = (with(field.clone()), with(meant));
        assert_eq!(warnings(&read).join("; "), reported, "{field}");
        meant.warnings = read.warnings.clone();
        assert_eq!(format!("{read:?}"), format!("{meant:?}"), "{field}");
    }
}

#[test]
fn what_python_writes_is_read_and_kept_to_the_letter() {
    let json = "\u{FEFF} {\"name\":\"\\ud83d\", \"first_mes\":\"a\nb\", \"tags\":[\"x\"], \"score\":NaN,\
                \"extensions\":{\"companion_chat\":{\"top_p\":Infinity}}, \"name\":\"last \\ud83d\\ude00\"}\n";
    let (text, card) = Card::read(json.as_bytes()).expect("a card");
    assert_eq!(text, json.trim_matches(['\u{FEFF}', ' ', '\n']));
    assert_eq!(
        (card.name.as_str(), card.first_mes.as_str()),
        ("last \u{1F600}", "a\nb")
    );
    assert_eq!(card.settings.expect("kept").get(), r#"{"top_p":null}"#);
    let (text, card) = Card::read(b"{\"description\":\"caf\xE9\",\"name\":\"n\"}").expect("a card");
    assert_eq!(
        (text.as_str(), card.description.as_str()),
        (
            "{\"description\":\"caf\u{FFFD}\",\"name\":\"n\"}",
            "caf\u{FFFD}"
        )
    );
    assert_eq!(card.warnings, [Warning::NotUtf8]);
}

#[test]
fn half_a_surrogate_pair_costs_one_character_and_not_the_text() {
    let card = Card::from_json(r#"{"description":"a\ud83d","na\u006de":"n"}"#).expect("a card");
    assert_eq!(
        (card.description.as_str(), card.name.as_str()),
        ("a\u{FFFD}", "n")
    );
    assert_eq!(card.warnings, []);
}

#[test]
fn settings_are_kept_to_the_letter() {
    let card = Card::from_json(
        r#"{"description":"", "extensions":{"companion_chat": {"n": 1.00, "n":12345678901234567890123} }}"#,
    );
    let settings = card.expect("a card").settings.expect("kept");
    assert_eq!(
        settings.get(),
        r#"{"n": 1.00, "n":12345678901234567890123}"#
    );
}

#[test]
fn what_is_no_card_is_refused_by_what_is_wrong() {
    let deep = |depth| {
        format!(
            r#"{{"description":"","x":{}{}}}"#,
            "[".repeat(depth),
            "]".repeat(depth)
        )
    };
    let nested = format!("{}{}", r#"{"data":"#.repeat(126) + "{", "}".repeat(127));
    let large = format!(r#"{{"description":"{}"}}"#, "x".repeat(MAX_BYTES));
    let other = "the file is not a PNG, a CHARX (a ZIP archive) or JSON in UTF-8";
    for (file, expected) in [
        ("", other),
        ("GIF89a\0\0", other),
        (&format!("\u{7f}ELF\0{SECRET}"), other),
        (
            &format!("{{\"description\":\n {SECRET}}}"),
            "the card is not valid JSON (line 2, column 2)",
        ),
        (SECRET, "the card is not valid JSON (line 1, column 1)"),
        (
            "{\"description\":\"never ended",
            "the card is not valid JSON (line 1, column 27)",
        ),
        ("[]", "the card is not a JSON object"),
        ("7", "the card is not a JSON object"),
        ("\"{}\"", "the card is not a JSON object"),
        (
            "rcc||rccv1||x",
            "the card is encrypted by RisuAI (rcc||…): export it without encryption",
        ),
        (&deep(126), "none"),
        (&nested, "none"),
        (&deep(127), "the card is nested deeper than 127 levels"),
        (
            &deep(2_000_000),
            "the card is nested deeper than 127 levels",
        ),
        (
            &large,
            "the card has 5242898 bytes, more than the 5242880 that are read",
        ),
    ] {
        let shown: String = file.chars().take(60).collect();
        assert_eq!(refusal(file.as_bytes()), expected, "{shown}");
    }
    assert!(
        refusal(b"{\"name\":\"n\"}")
            .starts_with("the JSON object is not a character card: a card has")
    );
    assert!(refusal(&[0xFF, 0xD8, 0xFF, 0xE0, 0, 16, 1, 2]).starts_with(other));
}

#[test]
fn brackets_in_texts_are_no_nesting() {
    let json = format!(
        r#"{{"description":"\\\"{}","name":"n\\"}}"#,
        "[{".repeat(500)
    );
    assert_eq!(Card::from_json(&json).expect("a card").name, "n\\");
}

#[test]
fn warnings_have_a_limit() {
    let card = read(&json!({"description": "", "tags": vec![json!({}); 50]}));
    let warnings = warnings(&card);
    assert_eq!(warnings.len(), 21);
    assert_eq!(
        warnings.first().expect("kept"),
        "tags[0] is not text and is ignored"
    );
    // The 30 tags, and the name that is missing.
    assert_eq!(warnings.last().expect("kept"), "there are 31 more warnings");
}
