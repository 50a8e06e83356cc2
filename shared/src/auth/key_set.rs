//! A set of published keys (RFC 7517), and which of them can verify a token: pure functions.
//!
//! A key that cannot be read or used is skipped, so that it does not affect the other keys (section 5). Only the
//! members that are needed are read.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::token::{Token, algorithm};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// The unpadded base64url length of 32 bytes, the length of a coordinate on P-256 (RFC 7518, section 6.2.1.2).
const COORDINATE_CHARS: usize = 43;
const ED25519_KEY_BYTES: usize = 32;
/// The minimum length of an RSA key (RFC 7518, section 3.3).
const MIN_RSA_BITS: usize = 2_048;

/// Keys of a publisher that can verify tokens.
pub(super) struct KeySet {
    keys: Vec<PublishedKey>,
}

struct PublishedKey {
    kid: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// The members of a JSON Web Key that are needed here. Deserialization fails if a member occurs twice.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Returns the usable keys of a document, or `None` if it is not a key set. A byte order mark is skipped, and a
    /// bare array is read as the list of keys.
    pub(super) fn parse(document: &[u8]) -> Option<Self> {
        let document = document.strip_prefix(BYTE_ORDER_MARK).unwrap_or(document);
        // Bytes that are not UTF-8 make only the key that contains them unusable.
        let document = String::from_utf8_lossy(document);
        let keys: Vec<&RawValue> = if document.trim_ascii_start().starts_with('[') {
            serde_json::from_str(&document).ok()?
        } else {
            // A map keeps the last of several equal names, where a struct would fail.
            let members: HashMap<String, &RawValue> = serde_json::from_str(&document).ok()?;
            serde_json::from_str(members.get("keys")?.get()).ok()?
        };
        let keys = keys.into_iter().filter_map(PublishedKey::parse).collect();
        Some(Self { keys })
    }

    /// Returns whether the set contains no usable key.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns whether one of the keys has signed the token: a key with the name in the token's header, or any key if
    /// the header contains no name.
    pub(super) fn has_signed(&self, token: &Token<'_>) -> bool {
        let is_named = |key: &PublishedKey| token.kid.is_none() || token.kid == key.kid;
        self.keys
            .iter()
            .filter(|key| key.algorithm == token.algorithm && is_named(key))
            .any(|key| token.is_signed_by(&key.key))
    }
}

impl PublishedKey {
    fn parse(json: &RawValue) -> Option<Self> {
        // serde would fill a struct from a JSON array too.
        let json = json.get();
        let jwk: Jwk = json
            .starts_with('{')
            .then(|| serde_json::from_str(json).ok())??;
        let (own, key) = jwk.key()?;
        let is_for_it = jwk
            .alg
            .as_deref()
            .is_none_or(|name| algorithm(name) == Some(own));
        (jwk.is_for_verifying() && is_for_it).then_some(Self {
            kid: jwk.kid,
            algorithm: own,
            key,
        })
    }
}

impl Jwk {
    fn is_for_verifying(&self) -> bool {
        let has_use = self.r#use.as_deref().is_none_or(|r#use| r#use == "sig");
        let has_operation = self
            .key_ops
            .as_ref()
            .is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
        has_use && has_operation
    }

    /// Returns the key and the one algorithm that this service accepts from keys of its kind.
    fn key(&self) -> Option<(Algorithm, DecodingKey)> {
        let (x, y) = (self.x.as_deref(), self.y.as_deref());
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let (n, e) = (self.n.as_deref()?, self.e.as_deref()?);
                let (n, e) = (number(n)?, number(e)?);
                let key = DecodingKey::from_rsa_raw_components(&n, &e);
                (bits(&n) >= MIN_RSA_BITS).then_some((Algorithm::RS256, key))
            }
            ("EC", Some("P-256")) => {
                let (x, y) = (x?, y?);
                let are_coordinates = x.len() == COORDINATE_CHARS && y.len() == COORDINATE_CHARS;
                let key = DecodingKey::from_ec_components(x, y).ok()?;
                are_coordinates.then_some((Algorithm::ES256, key))
            }
            ("OKP", Some("Ed25519")) => {
                let key = DecodingKey::from_ed_components(x?).ok()?;
                let bytes = key.try_get_as_bytes().ok()?.len();
                (bytes == ED25519_KEY_BYTES).then_some((Algorithm::EdDSA, key))
            }
            _ => None,
        }
    }
}

/// Returns the bytes of a number without leading zeros. RFC 7518, section 2, forbids them, but some publishers write
/// one.
fn number(text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    Some(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
}

fn bits(number: &[u8]) -> usize {
    let unused = number.first().map_or(0, |first| first.leading_zeros());
    8 * number.len() - unused as usize
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use testkit::tokens::KeyPair;

    use super::*;

    fn has_signed(document: &str, token: &str) -> bool {
        let keys = KeySet::parse(document.as_bytes()).expect("a key set");
        keys.has_signed(&Token::parse(token).expect("a token"))
    }

    /// Returns arbitrary JSON, often with the members of a key.
    fn any_json() -> impl Strategy<Value = Value> {
        let name = prop_oneof![
            prop::sample::select(vec![
                "kty", "use", "key_ops", "alg", "kid", "crv", "n", "e", "x", "y"
            ])
            .prop_map(str::to_owned),
            ".{0,8}",
        ];
        let text = prop_oneof![
            prop::sample::select(vec![
                "RSA", "EC", "OKP", "P-256", "Ed25519", "sig", "EdDSA", "AQAB"
            ])
            .prop_map(str::to_owned),
            ".{0,8}",
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            text.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, move |inner| {
            prop_oneof![
                vec(inner.clone(), 0..6).prop_map(Value::from),
                vec((name.clone(), inner), 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_good_key_is_found_among_any_others(mut others in vec(any_json(), 0..8), at in 0_usize..8) {
            let key = KeyPair::ed25519("key");
            let token = testkit::tokens::Token::new("alice").sign_with(&key);
            others.insert(at.min(others.len()), key.jwk());
            let document = json!({ "keys": others }).to_string();
            prop_assert!(has_signed(&document, &token));
        }

        #[test]
        fn any_document_is_read_or_is_not_a_key_set(document in vec(any::<u8>(), 0..200)) {
            let _ = KeySet::parse(&document);
        }
    }

    #[test]
    fn the_bits_of_a_modulus_are_counted_without_zeros_before_it() {
        let key = KeyPair::rs256("key");
        let token = testkit::tokens::Token::new("alice").sign_with(&key);
        let modulus = key.jwk()["n"].as_str().expect("text").to_owned();
        let bytes = URL_SAFE_NO_PAD.decode(modulus).expect("base64url");
        let with_modulus = |bytes: &[u8]| {
            let mut jwk = key.jwk();
            jwk["n"] = json!(URL_SAFE_NO_PAD.encode(bytes));
            json!([jwk]).to_string()
        };
        let padded = [&[0, 0], bytes.as_slice()].concat();
        assert!(has_signed(&with_modulus(&padded), &token));
        let is_empty = |bytes: &[u8]| {
            KeySet::parse(with_modulus(bytes).as_bytes())
                .expect("a key set")
                .is_empty()
        };
        assert!(is_empty(&bytes[..128]));
        assert!(is_empty(&[&[0; 128], &bytes[..128]].concat()));
        let one_bit_less = [&[bytes[0] >> 1], &bytes[1..]].concat();
        assert!(is_empty(&one_bit_less));
        assert!(!is_empty(&bytes));
    }
}
