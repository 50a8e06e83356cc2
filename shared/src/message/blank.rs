//! Detects text without a visible character. Some endpoints reject every later turn of a conversation with a blank
//! message.

/// Returns whether `text` contains no visible character. Invisible are white space, control characters, those that
/// Unicode calls default-ignorable (zero width spaces, joiners, fillers, tags), and a few that have an empty glyph.
#[must_use]
pub fn is_blank(text: &str) -> bool {
    text.chars().all(is_invisible)
}

fn is_invisible(char: char) -> bool {
    char.is_whitespace()
        || char.is_control()
        || is_default_ignorable(char)
        // The anchors of interlinear annotations, and the empty Braille pattern.
        || matches!(char, '\u{FFF9}'..='\u{FFFB}' | '\u{2800}')
}

/// Returns whether a character has Unicode's property `Default_Ignorable_Code_Point`. The standard reserves these
/// blocks as a whole, so later versions add none elsewhere.
fn is_default_ignorable(char: char) -> bool {
    matches!(
        char,
        '\u{AD}'
            | '\u{34F}'
            | '\u{61C}'
            | '\u{115F}'..='\u{1160}'
            | '\u{17B4}'..='\u{17B5}'
            | '\u{180B}'..='\u{180F}'
            | '\u{200B}'..='\u{200F}'
            | '\u{202A}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}'
            | '\u{3164}'
            | '\u{FE00}'..='\u{FE0F}'
            | '\u{FEFF}'
            | '\u{FFA0}'
            | '\u{FFF0}'..='\u{FFF8}'
            | '\u{1BCA0}'..='\u{1BCA3}'
            | '\u{1D173}'..='\u{1D17A}'
            | '\u{E0000}'..='\u{E0FFF}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_nothing_is_blank() {
        for blank in [
            "",
            "\n\n",
            " \t\r\n",
            "\u{200B}",
            "\u{FEFF}\u{200D}\u{2060}",
            "\u{3000}\u{A0}\u{2028}",
            "\u{3164}\u{115F}\u{FFA0}",
            "\u{2800}",
            "\u{AD}\u{FE0F}\u{E0041}",
            "\0\u{7F}\u{85}",
        ] {
            assert!(is_blank(blank), "{blank:?}");
        }
        for visible in [
            ".",
            " x",
            "\u{200B}好",
            "👨‍👩‍👧",
            "\u{FFFD}",
            "…",
            "\u{E000}",
            "é\u{301}",
        ] {
            assert!(!is_blank(visible), "{visible:?}");
        }
    }

    #[test]
    fn the_blocks_are_those_of_unicode() {
        let ignorable =
            regex::Regex::new(r"^\p{Default_Ignorable_Code_Point}$").expect("a pattern");
        for char in '\0'..=char::MAX {
            let text = char.to_string();
            assert_eq!(
                is_default_ignorable(char),
                ignorable.is_match(&text),
                "{char:?}"
            );
        }
    }
}
