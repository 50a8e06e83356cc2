//! Macros: the places in a card's texts where the names, a random choice or nothing stand in the prompt.
//!
//! Known are `{{char}}`, `{{user}}`, `{{original}}`, `<BOT>`, `<CHAR>`, `<USER>`, `{{random:…}}`, `{{pick:…}}`,
//! `{{roll:…}}`, `{{reverse:…}}`, `{{// …}}`, `{{comment:…}}` and `{{hidden_key:…}}`, in any case, with blanks around
//! the name. Everything else in braces stays to the letter, as do macros that are not closed and arguments that are
//! not valid. What a macro yields is never read as a macro again, so a user cannot write macros by a name.
//!
//! The random ones are drawn from a digest, not from a generator: a text of a session repeats itself to the byte, on
//! every machine, and the upstream's prompt cache holds.

mod head;
mod scan;

use std::borrow::Cow;
use std::ops::Range;

use aws_lc_rs::digest::{Context, SHA256};
use memchr::memchr2;

use self::scan::{Scanner, Token};

/// Limit in bytes of what names and [`Scope::original`] may add to one text. A card that repeats a name beyond it keeps
/// the rest of its macros as they are, instead of filling the memory.
const MAX_ADDED: usize = 1 << 20;

/// What the macros of a card stand for in one session.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// The character's name: `{{char}}`, `<BOT>` and `<CHAR>`.
    pub char: &'a str,
    /// The user's name: `{{user}}` and `<USER>`.
    pub user: &'a str,
    /// The text that the card replaces: `{{original}}`.
    pub original: &'a str,
    /// Identifies the session. What is drawn at random stays the same within it.
    pub session: &'a str,
}

/// Returns `text` with its macros replaced. `place` identifies the text within the card, such as `entry 12`, so that
/// equal macros of different texts are drawn independently.
#[must_use]
pub fn expand<'t>(text: &'t str, scope: &Scope<'_>, place: &str) -> Cow<'t, str> {
    if memchr2(b'{', b'<', text.as_bytes()).is_none() {
        return Cow::Borrowed(text);
    }
    let tokens = Scanner::new(text, scope, place).tokens();
    let is_plain = tokens.iter().all(|token| matches!(token, Token::Text(_)));
    if is_plain {
        return Cow::Borrowed(text);
    }
    // Only an argument has a limit.
    Cow::Owned(written(&tokens, 0..tokens.len(), usize::MAX).unwrap_or_default())
}

/// Returns the texts of the macros `{{hidden_key:…}}`, a line each, with their own macros unexpanded. They never stand
/// in a prompt, but a recursive scan of a lorebook finds keys in them.
#[must_use]
pub fn hidden_keys(text: &str) -> String {
    let nobody = Scope {
        char: "",
        user: "",
        original: "",
        session: "",
    };
    if memchr2(b'{', b'<', text.as_bytes()).is_none() {
        return String::new();
    }
    Scanner::new(text, &nobody, "").hidden().join("\n")
}

/// The part of the tokens that is being written.
struct Run {
    rest: Range<usize>,
    backwards: bool,
}

/// Returns what `range` of the tokens yields; `None` if that is longer than `limit` bytes.
fn written(tokens: &[Token<'_>], range: Range<usize>, limit: usize) -> Option<String> {
    let mut text = String::new();
    let mut added = 0;
    // A stack on the heap, which no depth of a hostile card overflows.
    let mut runs = vec![Run {
        rest: range,
        backwards: false,
    }];
    while let Some(run) = runs.last_mut() {
        let backwards = run.backwards;
        let next = if backwards {
            run.rest.next_back()
        } else {
            run.rest.next()
        };
        let Some(at) = next else {
            runs.pop();
            continue;
        };
        let number;
        let piece = match tokens.get(at) {
            Some(Token::Text(piece)) => piece,
            Some(Token::Value { value, source }) => {
                added += value.len();
                if added <= MAX_ADDED { value } else { source }
            }
            Some(Token::Number(drawn)) => {
                number = drawn.to_string();
                number.as_str()
            }
            Some(Token::Begin { yields, .. } | Token::End { yields, .. }) => {
                // The whole macro is passed by, in whichever direction it was met.
                match tokens.get(at) {
                    Some(Token::Begin { end, .. }) => run.rest.start = end.saturating_add(1),
                    Some(Token::End { begin, .. }) => run.rest.end = *begin,
                    _ => {}
                }
                runs.push(Run {
                    rest: yields.tokens.clone(),
                    backwards: backwards != yields.reversed,
                });
                continue;
            }
            None => continue,
        };
        if text.len().saturating_add(piece.len()) > limit {
            return None;
        }
        if backwards {
            text.extend(piece.chars().rev());
        } else {
            text.push_str(piece);
        }
    }
    Some(text)
}

/// Returns a number below `choices`, or 0 if there are none: always the same for a session, place and ordinal.
fn draw(scope: &Scope<'_>, place: &str, ordinal: u64, choices: u64) -> u64 {
    let mut digest = Context::new(&SHA256);
    for part in [scope.session, place] {
        // The lengths keep a session and a place apart from another session and place of the same letters.
        let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
        digest.update(&length.to_be_bytes());
        digest.update(part.as_bytes());
    }
    digest.update(&ordinal.to_be_bytes());
    let digest = digest.finish();
    let drawn = digest
        .as_ref()
        .first_chunk()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes));
    // The upper half of the product spreads the draws evenly, and lies below the number of choices.
    u64::try_from((u128::from(drawn) * u128::from(choices)) >> 64).unwrap_or(0)
}

#[cfg(test)]
mod tests;
