//! Text that a function must not print at any log level: message text, user ids, tokens and secrets.
//!
//! Every [`Function`](crate::runtime::Function) records its events and responses. When it is dropped, its whole output
//! is searched for their confidential parts, so every test that starts a function makes this check.

use std::collections::BTreeSet;

use aho_corasick::AhoCorasick;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use percent_encoding::percent_decode_str;
use serde_json::Value;

/// Shorter text occurs in any output by chance.
const FEWEST_BYTES: usize = 6;
const FEWEST_CHARACTERS: usize = 4;
const FEWEST_BYTES_OF_A_USER: usize = 3;
/// A long text counts as printed if its beginning is.
const MOST_CHARACTERS: usize = 64;

/// The endings of the names of variables whose values are secrets.
const SECRET_ENDINGS: [&str; 4] = ["SECRET", "_KEY", "PASSWORD", "_TOKEN"];

#[derive(Debug, Default)]
pub(crate) struct Unspeakable {
    texts: BTreeSet<String>,
    /// Ids of characters, which may be printed, even if a user has the same id.
    characters: BTreeSet<String>,
}

impl Unspeakable {
    /// Adds an environment variable of the function.
    pub(crate) fn variable(&mut self, name: &str, value: &str) {
        if SECRET_ENDINGS.iter().any(|ending| name.ends_with(ending)) {
            self.add(value);
        }
        // Passwords in URLs, of which there can be many.
        for url in value.split(',') {
            let userinfo = url
                .split_once("://")
                .and_then(|(_, rest)| rest.rsplit_once('@'));
            if let Some((_, password)) = userinfo.and_then(|(user, _)| user.split_once(':')) {
                self.add(password);
            }
        }
    }

    /// Adds an event that the function received.
    pub(crate) fn event(&mut self, event: &Value) {
        for (name, value) in event["headers"].as_object().into_iter().flatten() {
            if name.eq_ignore_ascii_case("authorization") {
                self.token(value.as_str().unwrap_or_default());
            }
        }
        if let Some(character) = event["queryStringParameters"]["character_id"].as_str() {
            self.characters.insert(character.to_owned());
        }
        if let Some(query) = event["rawQueryString"].as_str() {
            let parameters = query.split('&');
            let characters =
                parameters.filter_map(|parameter| parameter.strip_prefix("character_id="));
            self.characters.extend(
                characters.map(|id| percent_decode_str(id).decode_utf8_lossy().into_owned()),
            );
        }
        self.value(&event["card"]);
        let Some(body) = event["body"].as_str() else {
            return;
        };
        let body = match STANDARD.decode(body) {
            Ok(bytes) if event["isBase64Encoded"] == true => {
                String::from_utf8_lossy(&bytes).into_owned()
            }
            _ => body.to_owned(),
        };
        match serde_json::from_str::<Value>(&body) {
            Ok(Value::Object(fields)) => {
                for (name, value) in &fields {
                    match (name.as_str(), value) {
                        ("character_id", Value::String(id)) => {
                            self.characters.insert(id.clone());
                        }
                        ("state", _) => {}
                        _ => self.value(value),
                    }
                }
            }
            _ => self.add(&body),
        }
    }

    /// Adds a piece of the function's reply.
    pub(crate) fn reply(&mut self, text: &str) {
        self.add(text);
    }

    fn token(&mut self, header: &str) {
        let token = header.split_whitespace().next_back().unwrap_or_default();
        let mut parts = token.split('.');
        let (_header, payload, signature) = (parts.next(), parts.next(), parts.next());
        if let (Some(payload), Some(signature)) = (payload, signature) {
            self.add(payload);
            self.add(signature);
            let claims = URL_SAFE_NO_PAD.decode(payload).unwrap_or_default();
            let claims: Value = serde_json::from_slice(&claims).unwrap_or_default();
            // Users of tests have short names.
            let subject = claims["sub"].as_str().unwrap_or_default();
            if subject.len() >= FEWEST_BYTES_OF_A_USER {
                self.texts.insert(subject.to_owned());
            }
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.add(text),
            Value::Array(values) => values.iter().for_each(|value| self.value(value)),
            Value::Object(fields) => fields.values().for_each(|value| self.value(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn add(&mut self, text: &str) {
        let text: String = text.trim().chars().take(MOST_CHARACTERS).collect();
        if text.len() >= FEWEST_BYTES && text.chars().count() >= FEWEST_CHARACTERS {
            self.texts.insert(text);
        }
    }

    /// Returns the first of the recorded texts that an output contains.
    pub(crate) fn found_in(&self, output: &str) -> Option<&str> {
        let spellings: Vec<(&str, String)> = self
            .texts
            .difference(&self.characters)
            .flat_map(|text| spellings(text).map(|spelling| (text.as_str(), spelling)))
            .collect();
        let patterns = spellings.iter().map(|(_, spelling)| spelling);
        let search = AhoCorasick::new(patterns).expect("patterns that fit");
        let found = search.find(output)?;
        Some(spellings[found.pattern().as_usize()].0)
    }
}

/// Returns a text in each form in which it could be printed: plain, as JSON, as ASCII-only JSON, and as `Debug` prints
/// text and bytes.
fn spellings(text: &str) -> [String; 5] {
    let inner = |quoted: String| {
        let mut characters = quoted.chars();
        characters.next();
        characters.next_back();
        characters.as_str().to_owned()
    };
    let ascii = text.encode_utf16().map(|unit| match u8::try_from(unit) {
        Ok(byte) if byte.is_ascii() => char::from(byte).to_string(),
        _ => format!("\\u{unit:04x}"),
    });
    [
        text.to_owned(),
        inner(Value::from(text).to_string()),
        ascii.collect(),
        text.escape_unicode().to_string(),
        inner(format!("{:?}", text.as_bytes())),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::events::Event;
    use crate::tokens::{secret, token};

    /// Two tokens of one user differ from one second to the next.
    fn knowing(token: &str) -> Unspeakable {
        let mut unspeakable = Unspeakable::default();
        let body = json!({
            "character_id": "luna", "message": "晚霞像\"橘子\"汽水", "metadata": { "note": ["备注七十七"] },
        });
        unspeakable.event(&Event::stream().token(token).json(&body).rest());
        unspeakable.event(&Event::stream().bytes("{半句话没说完".as_bytes()).http());
        unspeakable.reply("海风很轻");
        unspeakable.variable("JWT_SECRET", secret());
        unspeakable.variable(
            "REDIS_URL",
            "redis://a:first-password@h,redis://b:second-password@h",
        );
        unspeakable.variable("REDIS_PASSWORD_SECRET_ARN", "arn:aws:secretsmanager");
        unspeakable
    }

    #[test]
    fn it_finds_all_that_must_not_be_printed_however_it_is_spelled() {
        let token = token("alice-7");
        let knowing = knowing(&token);
        let quoted = json!("晚霞像\"橘子\"汽水").to_string();
        for said in [
            quoted.as_str(),
            "备注七十七",
            "{半句话没说完",
            "海风很轻",
            "\\u6d77\\u98ce\\u5f88\\u8f7b",
            "\\u{6d77}\\u{98ce}\\u{5f88}\\u{8f7b}",
            &format!("{:?}", "海风很轻".as_bytes()),
            secret(),
            "first-password",
            "second-password",
            "alice-7",
            token.rsplit('.').next().expect("a signature"),
        ] {
            let output = format!("{{\"message\":\"before {said} after\"}}\n");
            assert!(knowing.found_in(&output).is_some(), "{said}");
        }
    }

    #[test]
    fn it_finds_nothing_in_what_may_be_printed() {
        let output = "{\"character_id\":\"luna\",\"arn\":\"arn:aws:secretsmanager\",\"url\":\"redis://a:…@h\"}\n";
        assert_eq!(knowing(&token("alice-7")).found_in(output), None);
    }
}
