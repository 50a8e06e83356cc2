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

mod book;
mod charx;
mod json;
mod png;

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
