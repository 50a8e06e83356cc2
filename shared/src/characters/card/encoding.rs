//! Base64 as tools write it: in a chunk of a PNG, and in the events of operators.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Padding and unused bits are as each tool likes.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Returns the bytes that a text in base64 stands for, in the standard alphabet or in that for URLs, with or without
/// padding and line breaks; `None` if it is something else.
#[must_use]
pub fn decoded_base64(text: &[u8]) -> Option<Vec<u8>> {
    let text: Vec<u8> = text
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            byte => *byte,
        })
        .collect();
    BASE64.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_however_a_tool_writes_it() {
        for text in [
            "e30+Pz8",
            "e30+Pz8=",
            "e30-Pz8",
            "e3\n0+\r\nPz8=",
            "e30+Pz9",
        ] {
            assert_eq!(
                decoded_base64(text.as_bytes()).as_deref(),
                Some(b"{}>??".as_slice()),
                "{text}"
            );
        }
        for text in ["e", "e30?", "=e30", "e3=0"] {
            assert_eq!(decoded_base64(text.as_bytes()), None, "{text}");
        }
    }
}
