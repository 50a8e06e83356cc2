//! Recognizes a macro by what follows its opening braces.

use super::Scope;

/// What begins with two braces.
pub(super) enum Head<'a> {
    /// A whole macro, which stands for a text.
    Value(&'a str),
    /// The name of a macro, before its argument.
    Macro(Kind),
}

/// A macro with an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Braces that are no macro of ours.
    Unknown,
    Comment,
    Hidden,
    Reverse,
    Choice,
    Roll,
}

/// Returns what follows two opening braces, and the length in bytes of its name, with the colon or the closing braces.
pub(super) fn head<'a>(rest: &str, scope: &Scope<'a>) -> (Head<'a>, usize) {
    let named = rest.trim_start();
    if let Some(comment) = named.strip_prefix("//") {
        return (Head::Macro(Kind::Comment), rest.len() - comment.len());
    }
    let is_of_name = |char: char| char.is_ascii_alphabetic() || char == '_';
    let after = named.trim_start_matches(is_of_name);
    let (name, _) = named
        .split_at_checked(named.len() - after.len())
        .unwrap_or_default();
    let after = after.trim_start();
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    let value = [
        ("char", scope.char),
        ("user", scope.user),
        ("original", scope.original),
    ]
    .into_iter()
    .find(|(known, _)| is(known));
    if let (Some((_, value)), Some(after)) = (value, after.strip_prefix("}}")) {
        return (Head::Value(value), rest.len() - after.len());
    }
    let kind = [
        ("random", Kind::Choice),
        ("pick", Kind::Choice),
        ("roll", Kind::Roll),
        ("reverse", Kind::Reverse),
        ("comment", Kind::Comment),
        ("hidden_key", Kind::Hidden),
    ]
    .into_iter()
    .find(|(known, _)| is(known));
    if let (Some((_, kind)), Some(argument)) = (kind, after.strip_prefix(':')) {
        // The double colon that other applications write.
        let argument = match kind {
            Kind::Choice | Kind::Roll => argument.strip_prefix(':').unwrap_or(argument),
            _ => argument,
        };
        return (Head::Macro(kind), rest.len() - argument.len());
    }
    (Head::Macro(Kind::Unknown), 0)
}
