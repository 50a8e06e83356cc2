//! Cards in CHARX files.

use super::*;

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
