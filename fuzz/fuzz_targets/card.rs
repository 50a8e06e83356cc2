//! Reads any file as a character card. It must not panic, and what is read must read the same from its own text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::characters::card::{Card, Warning};

fuzz_target!(|file: &[u8]| {
    match Card::read(file) {
        Ok((text, mut card)) => {
            let again = Card::from_json(&text).expect("the text of a card is a card");
            // These two are about the file, and no longer true of its text.
            card.warnings.retain(|warning| {
                !matches!(warning, Warning::NotUtf8 | Warning::OtherChunk { .. })
            });
            for warning in &card.warnings {
                let _ = warning.to_string();
            }
            assert_eq!(format!("{card:?}"), format!("{again:?}"));
            assert_eq!(card.greetings().count(), 1 + card.alternate_greetings.len());
        }
        Err(problem) => {
            let _ = problem.to_string();
        }
    }
});
