//! Valid tokens verify, and each invalid one has the fault that its name states.
#![expect(clippy::expect_used, reason = "a test")]

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};
use testkit::tokens::{KeyPair, Token, secret, token};

fn verified(token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<Value, ErrorKind> {
    let mut validation = Validation::new(algorithm);
    validation.validate_aud = false;
    decode(token, key, &validation)
        .map(|data| data.claims)
        .map_err(jsonwebtoken::errors::Error::into_kind)
}

fn by_secret(token: &str) -> Result<Value, ErrorKind> {
    verified(
        token,
        &DecodingKey::from_secret(secret().as_bytes()),
        Algorithm::HS256,
    )
}

#[test]
fn a_token_of_a_user_is_valid_for_an_hour() {
    assert!(secret().len() >= 40);
    let claims = by_secret(&token("alice")).expect("valid");
    assert_eq!(claims["sub"], "alice");
    let left = claims["exp"].as_u64().expect("seconds") - jsonwebtoken::get_current_timestamp();
    assert!((3_500..=3_600).contains(&left), "{left}");
}

#[test]
fn claims_are_what_they_were_set_to() {
    let token = Token::new("alice")
        .issuer("https://id.example.com")
        .audience("app")
        .claim("n", json!(1));
    let claims = by_secret(&token.hs256(secret())).expect("valid");
    assert_eq!(
        (&claims["iss"], &claims["aud"], &claims["n"]),
        (&json!("https://id.example.com"), &json!("app"), &json!(1))
    );
}

#[test]
fn a_bad_token_is_bad_in_one_way() {
    let alice = Token::new("alice");
    let cases = [
        (
            alice.clone().expires_in(-3_600).hs256(secret()),
            ErrorKind::ExpiredSignature,
        ),
        (
            alice.clone().no_expiry().hs256(secret()),
            ErrorKind::MissingRequiredClaim("exp".into()),
        ),
        (alice.hs256("another secret"), ErrorKind::InvalidSignature),
        (alice.hs512(secret()), ErrorKind::InvalidAlgorithm),
    ];
    for (token, expected) in cases {
        assert_eq!(by_secret(&token), Err(expected));
    }
}

#[test]
fn an_unsigned_token_says_so() {
    let token = Token::new("alice").unsigned();
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!((parts.len(), parts[2]), (3, ""));
    assert_eq!(part(&token, 0), json!({ "alg": "none", "typ": "JWT" }));
    assert_eq!(part(&token, 1)["sub"], "alice");
    assert!(by_secret(&token).is_err());
}

#[test]
fn a_field_of_the_header_may_lie() {
    let token = Token::new("alice")
        .header_field("alg", json!("none"))
        .header_field("typ", json!("at+jwt"))
        .kid("k")
        .hs256(secret());
    assert_eq!(
        part(&token, 0),
        json!({ "alg": "none", "typ": "at+jwt", "kid": "k" })
    );
    // The signature is good for the header as it is sent.
    let (message, signature) = token.rsplit_once('.').expect("three parts");
    let key = DecodingKey::from_secret(secret().as_bytes());
    let good = jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key, Algorithm::HS256);
    assert_eq!(good, Ok(true));
}

#[test]
fn what_a_key_signs_its_published_half_verifies() {
    let pairs = [
        (KeyPair::rs256 as fn(&str) -> KeyPair, Algorithm::RS256),
        (KeyPair::es256, Algorithm::ES256),
        (KeyPair::ed25519, Algorithm::EdDSA),
    ];
    for (make, algorithm) in pairs {
        let (key, another) = (make("a"), make("b"));
        assert_eq!(key.algorithm(), algorithm);
        let token = Token::new("alice").sign_with(&key);
        assert_eq!(
            decode_header(&token).expect("a header").kid.as_deref(),
            Some("a")
        );
        let named = Token::new("alice").kid("z").sign_with(&key);
        assert_eq!(part(&named, 0)["kid"], "z");
        let nameless = Token::new("alice").sign_namelessly_with(&key);
        assert_eq!(part(&nameless, 0)["kid"], Value::Null);

        for token in [&token, &named, &nameless] {
            let claims = verified(token, &published(&key), algorithm).expect("valid");
            assert_eq!(claims["sub"], "alice");
            assert_eq!(
                verified(token, &published(&another), algorithm),
                Err(ErrorKind::InvalidSignature)
            );
        }
        assert_eq!(key.jwk()["kid"], "a");
        assert!(key.jwk().get("d").is_none(), "the private half stays");
    }
}

fn published(key: &KeyPair) -> DecodingKey {
    let jwk = serde_json::from_value(key.jwk()).expect("a key");
    DecodingKey::from_jwk(&jwk).expect("a key")
}

fn part(token: &str, number: usize) -> Value {
    use base64::Engine;
    let part = token.split('.').nth(number).expect("a part");
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(part)
        .expect("base64");
    serde_json::from_slice(&bytes).expect("JSON")
}
