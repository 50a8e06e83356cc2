//! Parses one variable: its type, its range, and the error that states what would be valid.

use std::time::Duration;

use http::Uri;
use secrecy::SecretString;

use super::{ConfigError, Lookup};

/// Returns the variable's value, or `None` if it is unset or empty.
pub(super) fn text(lookup: Lookup<'_>, name: &str) -> Option<String> {
    lookup(name).filter(|value| !value.is_empty())
}

/// Returns the variable's value as a secret, or `None` if it is unset or empty.
pub(super) fn secret(lookup: Lookup<'_>, name: &str) -> Option<SecretString> {
    text(lookup, name).map(SecretString::from)
}

/// Returns the variable as a whole number from `min` to `max`, or `default` if it is not set.
pub(super) fn number(
    lookup: Lookup<'_>,
    name: &'static str,
    default: u64,
    min: u64,
    max: u64,
) -> Result<u64, ConfigError> {
    let Some(value) = text(lookup, name) else {
        return Ok(default);
    };
    match value.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(ConfigError::new(
            name,
            format!("must be a whole number from {min} to {max}"),
        )),
    }
}

/// Returns the variable as a 32-bit whole number from `min` to `max`, or `default` if it is not set.
pub(super) fn small(
    lookup: Lookup<'_>,
    name: &'static str,
    default: u32,
    min: u32,
    max: u32,
) -> Result<u32, ConfigError> {
    let number = number(lookup, name, default.into(), min.into(), max.into())?;
    Ok(u32::try_from(number).unwrap_or(max))
}

/// Returns the variable as a count from `min` to `max`, or `default` if it is not set.
pub(super) fn count(
    lookup: Lookup<'_>,
    name: &'static str,
    default: u32,
    min: u32,
    max: u32,
) -> Result<usize, ConfigError> {
    let number = small(lookup, name, default, min, max)?;
    usize::try_from(number).map_err(|_| ConfigError::new(name, "is too large for this machine"))
}

/// Returns a duration given in milliseconds: at least 1, and at most 15 minutes, Lambda's longest invocation.
pub(super) fn milliseconds(
    lookup: Lookup<'_>,
    name: &'static str,
    default: u64,
) -> Result<Duration, ConfigError> {
    const LONGEST_INVOCATION_MS: u64 = 900_000;
    number(lookup, name, default, 1, LONGEST_INVOCATION_MS).map(Duration::from_millis)
}

/// Returns the choice whose name the variable holds, in any letter case, or `default` if it is not set.
pub(super) fn choice<T: Copy>(
    lookup: Lookup<'_>,
    name: &'static str,
    default: T,
    choices: &[(&str, T)],
) -> Result<T, ConfigError> {
    let Some(value) = text(lookup, name) else {
        return Ok(default);
    };
    choices
        .iter()
        .find(|(text, _)| text.eq_ignore_ascii_case(&value))
        .map(|(_, choice)| *choice)
        .ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(text, _)| *text).collect();
            ConfigError::new(name, format!("must be one of {}", names.join(", ")))
        })
}

/// Returns the variable's value, or `None` if it is unset. A value of white space only is an error.
pub(super) fn not_blank(
    lookup: Lookup<'_>,
    name: &'static str,
) -> Result<Option<String>, ConfigError> {
    match text(lookup, name) {
        Some(value) if value.trim().is_empty() => Err(ConfigError::new(name, "must not be blank")),
        value => Ok(value),
    }
}

/// Returns a text as an `http://` or `https://` URL with a host, and without parts that a request does not carry.
///
/// # Errors
/// The text is not such a URL. The error states the reason and contains nothing of the text, which may hold a password.
pub(super) fn http_url(text: &str) -> Result<Uri, &'static str> {
    const NOT_A_URL: &str = "must be an http:// or https:// URL";
    // A parsed URI no longer has its fragment.
    if text.contains('#') {
        return Err("must not have a fragment (#…)");
    }
    let uri: Uri = text.parse().map_err(|_| NOT_A_URL)?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority().filter(|_| is_http).ok_or(NOT_A_URL)?;
    if authority.as_str().contains('@') {
        return Err("must not have a user or a password");
    }
    // A port that is not a number is part of the authority, but missing from the parsed port.
    let after_host = authority.as_str().strip_prefix(authority.host());
    let has_usable_port =
        after_host == Some("") || authority.port_u16().is_some_and(|port| port > 0);
    if authority.host().is_empty() || !has_usable_port {
        return Err(NOT_A_URL);
    }
    Ok(uri)
}

/// Returns a secret that is sent in an HTTP header. A stray newline in it prevents the start; otherwise every turn
/// would fail.
pub(super) fn header_safe(
    lookup: Lookup<'_>,
    name: &'static str,
) -> Result<Option<SecretString>, ConfigError> {
    match text(lookup, name) {
        Some(value) if http::HeaderValue::from_str(&value).is_err() => Err(ConfigError::new(
            name,
            "contains a character that is not allowed in an HTTP header (a trailing newline?)",
        )),
        value => Ok(value.map(SecretString::from)),
    }
}
