use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::characters::lore::{Described, Presence};

const MAX_TOKENS: u64 = 1_000;

fn read(file: &[u8]) -> Result<(String, Understood), Malformed> {
    let config = ContextConfig {
        max_messages: 50,
        max_tokens: MAX_TOKENS,
        default_system_prompt: "Play {{char}}.".to_owned(),
    };
    let id = CharacterId::parse("mira").expect("an id");
    Understood::read(&id, file, &config)
}

/// Returns what is understood of a card with these fields in `data`.
fn of(data: &Value) -> Understood {
    let card = json!({ "spec": "chara_card_v3", "spec_version": "3.0", "data": data });
    let (_, understood) = read(card.to_string().as_bytes()).expect("a card");
    understood
}

/// Returns an entry of a lorebook that stands in every prompt.
fn constant(content: &str) -> Value {
    json!({ "keys": [], "constant": true, "content": content, "enabled": true, "insertion_order": 0 })
}

/// Returns an entry of a lorebook that waits for a key.
fn entry(content: &str) -> Value {
    json!({ "keys": ["tea"], "content": content, "enabled": true, "insertion_order": 0 })
}

fn png(json: &str) -> Vec<u8> {
    let content = [b"chara\0".as_slice(), json.as_bytes()].concat();
    let length = u32::try_from(content.len()).expect("short").to_be_bytes();
    let parts: [&[u8]; 5] = [b"\x89PNG\r\n\x1a\n", &length, b"tEXt", &content, &[0; 4]];
    parts.concat()
}

#[test]
fn a_plain_character_is_read_from_json_alone_and_stored_without_a_byte_order_mark() {
    let plain = r#"{"name":"Ada","system_prompt":"p"}"#;
    for file in [format!(" {plain}\n"), format!("\u{FEFF}{plain}")] {
        let (stored, understood) = read(file.as_bytes()).expect("a plain character");
        assert_eq!(stored, plain);
        assert_eq!(
            (understood.spec, understood.name.as_str()),
            ("plain", "Ada")
        );
    }
    for file in [png(plain), png(r#"{"x":1}"#), br#"{"x":1}"#.to_vec()] {
        let error = read(&file).expect_err("not a card");
        assert_eq!(error, Malformed::Card(Unreadable::NotACard));
    }
}

#[test]
fn however_many_faults_a_card_has_its_answer_is_short_and_quick() {
    let long = "long text ".repeat(400);
    let examples = "<START>x".repeat(650_000);
    let book = |entries: Vec<Value>| json!({ "entries": entries });
    for (what, data, expected) in [
        (
            "constant entries",
            json!({ "name": "Mira", "character_book": book(vec![constant("some text"); 10_000]) }),
            " more constant entries of the lorebook do not fit",
        ),
        (
            "matched entries",
            json!({ "name": "Mira", "character_book": book(vec![entry(&long); 1_000]) }),
            "980 more entries of the lorebook do not fit",
        ),
        (
            "entries of another type",
            json!({ "name": "Mira", "character_book": book(vec![json!(1); 10_000]) }),
            "there are 9980 more warnings",
        ),
        (
            "greetings",
            json!({ "name": "Mira", "alternate_greetings": vec![long; 1_000] }),
            "980 more greetings do not fit",
        ),
        (
            "examples",
            json!({ "name": "Mira", "mes_example": examples }),
            "mes_example has ",
        ),
        (
            "name",
            json!({ "name": "\u{1}".repeat(800_000), "description": "{{char}}" }),
            "the name is too long",
        ),
    ] {
        let began = Instant::now();
        let understood = of(&data);
        // A build without optimization takes some twenty times as long.
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        let answer = serde_json::to_string(&understood).expect("JSON");
        assert!(answer.len() < 10_000, "{what}: {}", answer.len());
        assert!(answer.contains(expected), "{what}: {answer}");
    }
}

#[test]
fn an_entry_is_named_by_its_place_in_the_card() {
    let long = "long text ".repeat(400);
    let book = json!({ "entries": [7, constant(&long), null, entry(&long), entry("short")] });
    let fields = json!({ "name": "Mira", "first_mes": "", "character_book": book });
    let (_, flat) = read(fields.to_string().as_bytes()).expect("a card");
    for (understood, path) in [
        (of(&fields), "data.character_book.entries"),
        (flat, "character_book.entries"),
    ] {
        let warnings = understood.warnings;
        let places = |text: &str| {
            let found = warnings.iter().filter(|warning| warning.contains(text));
            let place = |warning: &String| warning.split(' ').next().map(str::to_owned);
            found.filter_map(place).collect::<Vec<_>>()
        };
        let path = |index: usize| format!("{path}[{index}]");
        assert_eq!(places("is ignored"), [path(0), path(2)], "{warnings:?}");
        assert_eq!(places("tokens"), [path(1), path(3)], "{warnings:?}");
        assert_eq!(warnings.len(), 4, "{warnings:?}");
    }
}

/// Returns whether a prompt with a short message has the greeting.
fn is_sent(data: &Value, greeting: usize) -> bool {
    let card = json!({ "data": data }).to_string();
    let id = CharacterId::parse("mira").expect("an id");
    let character = Character::from_json(&id, card.as_bytes()).expect("a card");
    let sheet = character.sheet().expect("a card");
    let greeting = sheet
        .greeting(greeting, &Audience::nobody())
        .expect("a greeting");
    let texts = texts(sheet, &Audience::nobody(), "Play {{char}}.", Vec::new());
    let frame = Frame {
        texts: texts.into_iter().map(|(_, text)| text).collect(),
        greeting: Some(&greeting),
        in_blocks: true,
    };
    let window = context::Window {
        max_messages: 50,
        max_tokens: MAX_TOKENS,
    };
    let fitted = context::fit(frame, context::Past::default(), "a", window).expect("fits");
    fitted
        .messages
        .iter()
        .any(|message| message.content == greeting)
}

#[test]
fn a_greeting_that_no_prompt_has_room_for_is_named() {
    // A description of about 600 tokens leaves about 260.
    let description = "a ".repeat(1_000);
    for words in (380..480).step_by(5) {
        let data = json!({
            "name": "Mira",
            "description": description,
            "alternate_greetings": ["Hello.", "b ".repeat(words)],
        });
        let warnings = of(&data).warnings;
        let named = |warning: &String| warning.starts_with("greeting 2 of about ");
        assert_eq!(
            warnings.iter().any(named),
            !is_sent(&data, 2),
            "{words}: {warnings:?}"
        );
        assert_eq!(
            warnings.len(),
            usize::from(!is_sent(&data, 2)),
            "{warnings:?}"
        );
    }
}

#[test]
fn fixed_tokens_are_those_of_the_parts_that_prompts_have() {
    let small = of(&json!({ "name": "Mira", "personality": "Calm." })).fixed_tokens;
    let large =
        json!({ "name": "Mira", "personality": "Calm.", "description": "d".repeat(100_000) });
    assert_eq!(of(&large).fixed_tokens, small);
}

#[test]
fn the_id_stands_for_the_name_of_a_card_without_a_name_or_a_nickname() {
    let id_stands = |data: Value| {
        let warnings = of(&data).warnings;
        assert!(
            warnings.contains(&"the card has no name".to_owned()),
            "{warnings:?}"
        );
        warnings.contains(&"its id stands for the name".to_owned())
    };
    assert!(id_stands(json!({ "description": "Calm." })));
    assert!(id_stands(json!({ "name": " ", "nickname": " " })));
    assert!(!id_stands(json!({ "name": "", "nickname": "Mi" })));
}

#[test]
fn blank_greetings_are_not_counted() {
    for (data, greetings) in [
        (json!({ "name": "Mira" }), 0),
        (
            json!({ "name": "Mira", "first_mes": " ", "alternate_greetings": ["", "{{// x}}"] }),
            0,
        ),
        (
            json!({ "name": "Mira", "first_mes": "", "alternate_greetings": ["Hi", "", "Ho"] }),
            2,
        ),
    ] {
        assert_eq!(of(&data).greetings, greetings, "{data}");
    }
}

#[test]
fn entries_that_can_never_be_in_a_prompt_are_named() {
    let book = json!({ "entries": [0, entry("a"), entry("b"), entry("c")] });
    let card = json!({ "data": { "name": "Mira", "character_book": book } }).to_string();
    let id = CharacterId::parse("mira").expect("an id");
    let character = Character::from_json(&id, card.as_bytes()).expect("a card");
    let sheet = character.sheet().expect("a card");
    let presences = [Presence::Off, Presence::Unreachable, Presence::Fixed];
    let described = (0..).zip(presences).map(|(index, presence)| Described {
        index,
        presence,
        content: "",
    });
    let warnings = warnings::of_useless_entries(sheet, described, &[2]);
    let places = warnings
        .iter()
        .filter_map(|warning| warning.split(' ').next());
    assert_eq!(
        places.collect::<Vec<_>>(),
        [2, 3].map(|index| format!("data.character_book.entries[{index}]"))
    );
    assert!(warnings[0].contains("never in a prompt"), "{warnings:?}");
    assert!(warnings[1].contains("token_budget"), "{warnings:?}");
}
