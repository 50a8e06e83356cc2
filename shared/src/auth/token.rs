//! A signed token (RFC 7515, RFC 7519): parses its header, verifies its signature and checks its claims. Pure
//! functions.
//!
//! `jsonwebtoken` verifies the signature. Its own parser of headers and claims cannot be used: it does not know the
//! algorithm name `Ed25519`, ignores `crit`, accepts a list as `iss`, and has one leeway for `exp` and `nbf`.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};

use super::{EXPIRED, Error, INVALID};

/// How far the issuer's clock may be ahead of this one. It applies to `nbf` alone, because a token must not be accepted
/// longer than its issuer intended.
const NOT_BEFORE_LEEWAY_SECONDS: f64 = 60.0;

/// A token with a valid header. Nothing in it is trusted before its signature is verified.
pub(super) struct Token<'a> {
    /// Signed part of the token: header and claims.
    message: &'a str,
    claims: &'a str,
    signature: &'a str,
    /// Algorithm that the header names.
    pub(super) algorithm: Algorithm,
    /// Name of the key, if the header contains one.
    pub(super) kid: Option<String>,
}

/// The required values of a token's claims, except times.
pub(super) struct ClaimRules {
    /// Required value of `iss`; `None` accepts any.
    pub(super) issuer: Option<String>,
    /// Value that `aud` must equal or contain; `None` accepts any.
    pub(super) audience: Option<String>,
}

/// The header of a token. Deserialization fails if a member occurs twice, as RFC 7515, section 4, allows.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    #[serde(default, deserialize_with = "is_present")]
    crit: bool,
    b64: Option<bool>,
}

/// The claims of a token. Deserialization fails if one has the wrong type, whether or not its value is checked.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    nbf: Option<f64>,
    iss: Option<String>,
    aud: Option<Audience>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl<'a> Token<'a> {
    /// Returns the token if its header is valid and this service supports what it asks for.
    pub(super) fn parse(token: &'a str) -> Result<Self, Error> {
        let (message, signature) = token.rsplit_once('.').ok_or(INVALID)?;
        let (header, claims) = message.split_once('.').ok_or(INVALID)?;
        let header: Header = object(header).ok_or(INVALID)?;
        // No extension is supported here, so a critical one makes the token invalid (RFC 7515, section 4.1.11), and the
        // claims of a JWT are always encoded (RFC 7797, section 7).
        if header.crit || header.b64 == Some(false) {
            return Err(INVALID);
        }
        Ok(Self {
            message,
            claims,
            signature,
            algorithm: algorithm(&header.alg).ok_or(INVALID)?,
            kid: header.kid,
        })
    }

    /// Returns whether `key` has signed the token with the algorithm in its header.
    pub(super) fn is_signed_by(&self, key: &DecodingKey) -> bool {
        crypto::verify(self.signature, self.message.as_bytes(), key, self.algorithm)
            .unwrap_or(false)
    }

    /// Returns the subject of a token whose signature has been verified.
    ///
    /// # Errors
    /// The claims cannot be read, the token is not valid at `now`, or it is not meant for this service.
    pub(super) fn subject(&self, rules: &ClaimRules, now: SystemTime) -> Result<String, Error> {
        let claims: Claims = object(self.claims).ok_or(INVALID)?;
        let now = now
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64();
        // RFC 7519, section 4.1.4: "on or after" that time the token must not be accepted.
        if claims.exp <= now {
            return Err(EXPIRED);
        }
        let is_early = claims
            .nbf
            .is_some_and(|nbf| nbf > now + NOT_BEFORE_LEEWAY_SECONDS);
        let is_from_issuer = rules.issuer.is_none() || rules.issuer == claims.iss;
        let is_for_audience = match (&rules.audience, &claims.aud) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(wanted), Some(Audience::One(found))) => wanted == found,
            (Some(wanted), Some(Audience::Several(found))) => found.contains(wanted),
        };
        if is_early || !is_from_issuer || !is_for_audience {
            return Err(INVALID);
        }
        Ok(claims.sub)
    }
}

/// Returns the algorithm that `alg` names. `Ed25519` is the name in RFC 9864 for EdDSA on that curve.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "Ed25519" => Some(Algorithm::EdDSA),
        name => name.parse().ok(),
    }
}

/// Decodes a part of a token, which must be a JSON object: serde would fill a struct from a JSON array too.
fn object<T: DeserializeOwned>(part: &str) -> Option<T> {
    let json = URL_SAFE_NO_PAD.decode(part).ok()?;
    if !json.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    serde_json::from_slice(&json).ok()
}

fn is_present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const NOW_SECONDS: u64 = 1_800_000_000;

    /// Returns the outcome of checking the claims, half a second after a whole second.
    fn subject(claims: &Value) -> Result<String, Error> {
        let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let token = format!("{}.{}.", part(&json!({ "alg": "HS256" })), part(claims));
        let rules = ClaimRules {
            issuer: None,
            audience: None,
        };
        let now = UNIX_EPOCH + Duration::from_millis(NOW_SECONDS * 1_000 + 500);
        Token::parse(&token).expect("a token").subject(&rules, now)
    }

    #[test]
    fn a_token_ends_at_the_very_moment_that_it_names() {
        let ending = |exp: Value| subject(&json!({ "sub": "alice", "exp": exp }));
        for exp in [
            json!(NOW_SECONDS),
            json!(NOW_SECONDS as f64 + 0.5),
            json!(-1),
            json!(0.25),
        ] {
            assert_eq!(ending(exp), Err(EXPIRED));
        }
        for exp in [
            json!(NOW_SECONDS + 1),
            json!(NOW_SECONDS as f64 + 0.75),
            json!(1e300),
        ] {
            assert_eq!(ending(exp), Ok("alice".to_owned()));
        }
    }

    #[test]
    fn a_token_begins_up_to_a_minute_early() {
        let beginning =
            |nbf: Value| subject(&json!({ "sub": "alice", "exp": NOW_SECONDS + 600, "nbf": nbf }));
        for nbf in [
            json!(null),
            json!(-1),
            json!(NOW_SECONDS + 60),
            json!(NOW_SECONDS as f64 + 60.5),
        ] {
            assert_eq!(beginning(nbf), Ok("alice".to_owned()));
        }
        for nbf in [
            json!(NOW_SECONDS + 61),
            json!(NOW_SECONDS as f64 + 60.75),
            json!(1e300),
        ] {
            assert_eq!(beginning(nbf), Err(INVALID));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(token in "[\\x21-\\x7e]{0,40}(\\.[\\x21-\\x7e]{0,40}){0,4}") {
            let _ = Token::parse(&token);
        }

        #[test]
        fn any_bytes_as_parts_are_read_or_refused(
            header in vec(any::<u8>(), 0..60),
            claims in vec(any::<u8>(), 0..60),
        ) {
            let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
            let good = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
            let rules = ClaimRules { issuer: None, audience: None };
            for header in [header, good] {
                let token = format!("{header}.{claims}.");
                if let Ok(token) = Token::parse(&token) {
                    let _ = token.subject(&rules, SystemTime::now());
                }
            }
        }
    }
}
