//! Reads whole cards: what each specification says, what editors make of it, and what is broken or hostile.

use std::io::{Cursor, Write};

use ::png::text_metadata::{ITXtChunk, TEXtChunk, ZTXtChunk};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::*;

/// A text that no error and no warning may quote.
const SECRET: &str = "moonlit-secret";

fn v3() -> Value {
    json!({
        "spec": "chara_card_v3",
        "spec_version": "3.0",
        "data": {
            "name": "Mira", "nickname": "Mi", "description": "d", "personality": "p", "scenario": "s",
            "first_mes": "Hello.", "mes_example": "<START>", "system_prompt": "sp",
            "post_history_instructions": "phi", "alternate_greetings": ["Hi.", ""], "creator": "c",
            "creator_notes": "cn", "character_version": "1.1", "tags": ["a, b", "c"],
            "group_only_greetings": ["nobody"], "assets": [{"type": "icon"}],
            "extensions": {"companion_chat": {"temperature": 0.70}, "other": [1]},
            "character_book": {
                "scan_depth": 4, "token_budget": 500, "recursive_scanning": true, "extensions": {},
                "entries": [{
                    "keys": ["lake", "sea"], "secondary_keys": ["blue"], "selective": true, "constant": true,
                    "case_sensitive": true, "use_regex": true, "content": "@@depth 2\nWater.", "enabled": false,
                    "insertion_order": -3, "priority": 7, "position": "before_char", "id": "x", "extensions": {}
                }]
            }
        }
    })
}

fn read(value: &Value) -> Card {
    Card::from_json(&value.to_string()).expect("a card")
}

fn warnings(card: &Card) -> Vec<String> {
    card.warnings.iter().map(ToString::to_string).collect()
}

fn refusal(file: &[u8]) -> String {
    match Card::read(file) {
        Ok(_) => "none".into(),
        Err(problem) => problem.to_string(),
    }
}

/// Returns a PNG of one pixel whose text chunks `before` and `after` write around the image.
fn png_of(
    before: impl FnOnce(&mut ::png::Encoder<'_, &mut Vec<u8>>),
    after: impl FnOnce(&mut ::png::Writer<&mut Vec<u8>>),
) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = ::png::Encoder::new(&mut file, 1, 1);
    before(&mut encoder);
    let mut writer = encoder.write_header().expect("written");
    writer.write_image_data(&[7]).expect("written");
    after(&mut writer);
    writer.finish().expect("written");
    file
}

/// Returns a PNG with these texts in chunks `tEXt`.
fn png_with(texts: &[(&str, &str)]) -> Vec<u8> {
    png_of(
        |encoder| {
            for (keyword, text) in texts {
                let added = encoder.add_text_chunk((*keyword).into(), (*text).into());
                added.expect("valid");
            }
        },
        |_| {},
    )
}

fn base64(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

fn zip_with(entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        let options = SimpleFileOptions::default().compression_method(method);
        writer.start_file(*name, options).expect("written");
        writer.write_all(content).expect("written");
    }
    writer.finish().expect("written").into_inner()
}

fn charx_with(json: &str) -> Vec<u8> {
    let entries: [(&str, &[u8]); 2] = [
        ("assets/icon/images/main.png", b"\x89PNG"),
        ("card.json", json.as_bytes()),
    ];
    zip_with(&entries, CompressionMethod::Deflated)
}

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

#[test]
fn a_card_in_a_png_is_read_in_all_variants() {
    let json = format!(
        "\n{}",
        json!({"data": {"name": "Zoë ??>>~~", "description": "d"}})
    );
    let standard = base64(&json);
    let lines: String = standard
        .as_bytes()
        .chunks(20)
        .map(|line| format!("{}\r\n", str::from_utf8(line).expect("ASCII")))
        .collect();
    let text = |keyword: &str, text: &str| TEXtChunk::new(keyword, text);
    let files = [
        png_with(&[("Comment", "x"), ("chara", &standard)]),
        png_with(&[("ccv3", &standard), ("chara", &base64("{}"))]),
        png_with(&[("chara", &base64("{}")), ("ccv3", &standard)]),
        png_with(&[("Chara", &lines)]),
        png_with(&[("chara", standard.trim_end_matches('='))]),
        png_with(&[("chara", &standard.replace('+', "-").replace('/', "_"))]),
        png_of(
            |_| {},
            |writer| {
                writer
                    .write_text_chunk(&text("ccv3", &standard))
                    .expect("written")
            },
        ),
        png_of(
            |_| {},
            |writer| {
                writer
                    .write_text_chunk(&ZTXtChunk::new("chara", &standard))
                    .expect("written")
            },
        ),
        png_of(
            |_| {},
            |writer| {
                writer
                    .write_text_chunk(&ITXtChunk::new("chara", &standard))
                    .expect("written")
            },
        ),
        png_of(
            |_| {},
            |writer| {
                writer
                    .write_text_chunk(&ITXtChunk::new("chara", &json))
                    .expect("written")
            },
        ),
    ];
    for (index, file) in files.iter().enumerate() {
        let (read, card) = Card::read(file).unwrap_or_else(|error| panic!("{index}: {error}"));
        assert_eq!(read, json.trim(), "{index}");
        assert_eq!(
            (card.name.as_str(), card.warnings.as_slice()),
            ("Zoë ??>>~~", &[][..]),
            "{index}"
        );
    }
}

#[test]
fn a_card_outlives_a_broken_image() {
    let json = json!({"description": "d", "name": "n"}).to_string();
    let file = png_with(&[("chara", &base64(&json))]);
    let chunk = file
        .windows(4)
        .position(|kind| kind == b"tEXt")
        .expect("there");
    let (header, image) = file.split_at(chunk - 4);
    let length = u32::from_be_bytes(image[..4].try_into().expect("four")) as usize + 12;
    let chunk = &image[..length];
    let mut wrong_checksum = chunk.to_vec();
    *wrong_checksum.last_mut().expect("there") ^= 1;
    for (file, what) in [
        (
            [header, &wrong_checksum, &image[length..]].concat(),
            "a wrong checksum",
        ),
        ([&file[..8], chunk].concat(), "nothing but the card"),
        (
            [&file[..8], b"\0\0\0\x02IHDR??????", chunk].concat(),
            "a header of another length",
        ),
        (
            [&file[..8], b"\0\0\0\x04IDATjunk????", chunk].concat(),
            "no image data",
        ),
        (
            [header, &chunk[..length - 2]].concat(),
            "an end within the checksum",
        ),
    ] {
        let (text, _) = Card::read(&file).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(text, json, "{what}");
    }
    let cut = [header, &chunk[..length - 5]].concat();
    assert_eq!(refusal(&cut), "the PNG's text chunk chara is damaged");
}

#[test]
fn what_a_png_lacks_is_said() {
    let card = base64(r#"{"description":"d"}"#);
    let bomb = "A".repeat(MAX_BYTES + 1);
    for (file, expected) in [
        (
            png_with(&[("Comment", "ccv3")]),
            "the PNG has no card: neither a text chunk ccv3 nor a text chunk chara",
        ),
        (
            b"\x89PNG\r\n\x1a\n".to_vec(),
            "the PNG has no card: neither a text chunk ccv3 nor a text chunk chara",
        ),
        (
            png_with(&[("chara", "no base64!")]),
            "the PNG's text chunk chara is not valid base64",
        ),
        (
            png_with(&[("chara", "rcc||rccv1||x")]),
            "the card is encrypted by RisuAI (rcc||…): export it without encryption",
        ),
        (
            png_with(&[("chara", &base64("rcc||rccv1||x"))]),
            "the card is encrypted by RisuAI (rcc||…): export it without encryption",
        ),
        (
            png_with(&[("chara", &base64(SECRET))]),
            "the card is not valid JSON (line 1, column 1)",
        ),
        (
            png_with(&[("chara", &bomb)]),
            "the PNG's text chunk with the card has 5242887 bytes, more than the 5242880 that are read",
        ),
        (
            png_of(
                |_| {},
                |writer| {
                    writer
                        .write_text_chunk(&ZTXtChunk::new("chara", &bomb))
                        .expect("written")
                },
            ),
            "the PNG's text chunk chara cannot be inflated, or not within the 5242880 bytes that are read",
        ),
        (
            png_with(&[("ccv3", "no base64!"), ("chara", &base64("[]"))]),
            "the PNG's text chunk ccv3 is not valid base64",
        ),
        (png_with(&[("chara", &card)]), "none"),
    ] {
        assert_eq!(refusal(&file), expected);
    }
}

#[test]
fn the_v2_card_of_a_png_stands_in_for_a_v3_card_that_cannot_be_read() {
    let (text, card) = Card::read(&png_with(&[
        ("ccv3", &base64(&format!("{{{SECRET}"))),
        ("chara", &base64(r#"{"name":"n","description":"d"}"#)),
    ]))
    .expect("a card");
    assert_eq!(text, r#"{"name":"n","description":"d"}"#);
    assert_eq!(
        warnings(&card),
        [
            "a text chunk ccv3 cannot be used (the card is not valid JSON (line 1, column 2)): \
          the card is from a text chunk chara"
        ]
    );
}

#[test]
fn a_card_in_a_charx_is_read_in_all_variants() {
    let json = format!("\u{FEFF}{}\r\n", json!({"data": {"name": "n"}}));
    let stored = zip_with(&[("card.json", json.as_bytes())], CompressionMethod::Stored);
    let charx = charx_with(&json);
    let mut many: Vec<(String, &[u8])> = (0..3_000)
        .map(|id| (format!("assets/{id}.png"), &b"x"[..]))
        .collect();
    many.push(("card.json".into(), json.as_bytes()));
    let many: Vec<(&str, &[u8])> = many
        .iter()
        .map(|(name, content)| (name.as_str(), *content))
        .collect();
    for (file, what) in [
        (charx.clone(), "deflated"),
        (stored, "stored"),
        (
            zip_with(
                &[("Card.JSON", json.as_bytes()), ("x/card.json", b"{}")],
                CompressionMethod::Deflated,
            ),
            "in another case",
        ),
        (
            zip_with(
                &[("CARD.json", b"{}"), ("card.json", json.as_bytes())],
                CompressionMethod::Deflated,
            ),
            "beside one in another case",
        ),
        (
            [
                &b"\xFF\xD8\xFF\xE0 a JPEG PK\x01\x02 PK\x05\x06"[..],
                &charx,
            ]
            .concat(),
            "behind a JPEG",
        ),
        (
            [charx.as_slice(), b"\0\0\0"].concat(),
            "before something else",
        ),
        (zip_with(&many, CompressionMethod::Stored), "among many"),
    ] {
        let (text, card) = Card::read(&file).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(text, json.trim_start_matches('\u{FEFF}').trim(), "{what}");
        assert_eq!(card.name, "n", "{what}");
    }
}

#[test]
fn what_a_charx_lacks_is_said() {
    let charx = charx_with(r#"{"data":{}}"#);
    let bomb = zip_with(
        &[("card.json", &vec![b' '; 40_000_000])],
        CompressionMethod::Deflated,
    );
    assert!(bomb.len() < 50_000);
    // The flag of encryption, and the method, of the only entry: in its own header and in the directory.
    let with = |at: [usize; 2], value: u8| {
        let mut file = zip_with(&[("card.json", b"{}")], CompressionMethod::Deflated);
        let directory = file
            .windows(4)
            .rposition(|four| four == b"PK\x01\x02")
            .expect("there");
        file[at[0]] = value;
        file[directory + at[1]] = value;
        file
    };
    let mut damaged = charx.clone();
    let content = damaged
        .windows(9)
        .position(|name| name == b"card.json")
        .expect("there");
    damaged[content + 9] ^= 0xFF;
    let shortened = charx.len() - 30;
    for (file, expected) in [
        (
            zip_with(&[], CompressionMethod::Stored),
            "the CHARX has no card.json at its root",
        ),
        (
            zip_with(&[("x/card.json", b"{}")], CompressionMethod::Stored),
            "the CHARX has no card.json at its root",
        ),
        (
            charx[..shortened].to_vec(),
            "the CHARX is not a complete ZIP archive, or it has too many entries",
        ),
        (
            bomb,
            "the card.json of the CHARX inflates to more than the 5242880 bytes that are read",
        ),
        (
            with([6, 8], 1),
            "the card.json of the CHARX is encrypted with a password",
        ),
        (
            with([8, 10], 12),
            "the card.json of the CHARX is neither stored nor deflated",
        ),
        (damaged, "the card.json of the CHARX is damaged"),
        (
            charx_with(SECRET),
            "the card is not valid JSON (line 1, column 1)",
        ),
    ] {
        assert_eq!(refusal(&file), expected);
    }
}

/// Returns JSON of any kind, with the names of a card's fields among others.
fn any_json() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        prop::sample::select(vec![
            "spec",
            "data",
            "name",
            "description",
            "tags",
            "alternate_greetings",
            "extensions",
            "companion_chat",
            "character_book",
            "entries",
            "keys",
            "enabled",
            "position",
            "insertion_order",
            "scan_depth",
            "nickname",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,4}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(json!("chara_card_v3")),
        Just(json!(SECRET)),
    ];
    leaf.prop_recursive(5, 60, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..8)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_object_is_a_card_in_every_container_to_the_letter(data in any_json(), extra in any_json()) {
        let json = json!({"data": {"data": data, "character_book": {"entries": [extra]}}, "x": extra}).to_string();
        let plain = Card::from_json(&json).expect("a card");
        for file in [json.clone().into_bytes(), png_with(&[("ccv3", &base64(&json))]), charx_with(&json)] {
            let (text, card) = Card::read(&file).expect("a card");
            prop_assert_eq!(&text, &json);
            prop_assert_eq!(format!("{card:?}"), format!("{plain:?}"));
        }
    }

    #[test]
    fn no_value_of_any_field_is_refused_or_quoted(data in any_json()) {
        let json = json!({"description": "", "data": {"name": "n"}, "character_book": data});
        let card = Card::from_json(&json.to_string());
        for warning in warnings(&card.expect("a card")) {
            prop_assert!(!warning.contains(SECRET), "{}", warning);
        }
        if let Ok(card) = Card::from_json(&data.to_string()) {
            for warning in warnings(&card) {
                prop_assert!(!warning.contains(SECRET), "{}", warning);
            }
        }
    }

    #[test]
    fn no_file_is_too_broken(
        container in 0..4_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        length in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let json = v3().to_string();
        let text = base64(&json);
        let mut file = match container {
            0 => json.clone().into_bytes(),
            1 => png_with(&[("ccv3", &text), ("chara", &text)]),
            2 => png_of(|_| {}, |writer| writer.write_text_chunk(&ZTXtChunk::new("chara", &text)).expect("written")),
            _ => charx_with(&json),
        };
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if is_cut {
            file.truncate(length.index(file.len()));
        }
        match Card::read(&file) {
            Ok((text, card)) => {
                let again = Card::from_json(&text).expect("a card");
                prop_assert_eq!(format!("{:?}", again.book), format!("{:?}", card.book));
                prop_assert_eq!(again.name, card.name);
            }
            Err(problem) => prop_assert!(!problem.to_string().is_empty()),
        }
    }
}
