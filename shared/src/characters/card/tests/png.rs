//! Cards in images.

use super::*;

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
