//! Key sets with unusual content: the good keys of a publisher are used, whatever else it publishes.

use serde_json::{Value, json};
use testkit::jwks::JwksServer;
use testkit::tokens::KeyPair;

use super::{House, INVALID, alice, altered};

fn good_keys() -> [KeyPair; 3] {
    [
        KeyPair::rs256("rsa"),
        KeyPair::es256("ec"),
        KeyPair::ed25519("ed"),
    ]
}

/// Returns elements of a key set, as JSON texts, that are no key or no key that can be used here.
fn odd_elements(key: &KeyPair) -> Vec<String> {
    let mut odd: Vec<String> = [
        "null",
        "true",
        "5",
        "1e999",
        "\"key\"",
        "[]",
        "{}",
        "[[]]",
        "[\"RSA\",null]",
        r#""\ud800""#,
        r#"{"kty":null}"#,
        r#"{"kty":7,"kid":"ed"}"#,
        r#"{"kty":"RSA"}"#,
        r#"{"kty":"EC","crv":"P-256"}"#,
        r#"{"kty":"OKP","crv":"Ed25519"}"#,
        r#"{"kty":"OKP","crv":"Ed448","x":"AAAA"}"#,
        r#"{"kty":"OKP","crv":"X25519","x":"AAAA"}"#,
        r#"{"kty":"OKP","crv":"Ed25519","x":"AAAA"}"#,
        r#"{"kty":"OKP","crv":"Ed25519","x":"!"}"#,
        r#"{"kty":"OKP","crv":"Ed25519","x":7}"#,
        r#"{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}"#,
        r#"{"kty":"EC","crv":"P-521","x":"AAAA","y":"AAAA"}"#,
        r#"{"kty":"EC","crv":"brainpoolP256r1","x":"AAAA","y":"AAAA"}"#,
        r#"{"kty":"RSA","n":"","e":""}"#,
        r#"{"kty":"RSA","n":"AQAB","e":"AQAB"}"#,
        r#"{"kty":"RSA","n":["AQAB"],"e":"AQAB"}"#,
        r#"{"kty":"oct","k":"AAAA","alg":"HS256"}"#,
        r#"{"kty":"AKP","alg":"ML-DSA-44","pub":"AAAA"}"#,
        r#"{"kty":"rsa","n":"AQAB","e":"AQAB"}"#,
        r#"{"kty":"RSA","x":{"a":{"b":[1,{"c":2}]}}}"#,
    ]
    .map(str::to_owned)
    .to_vec();
    for members in [
        json!({ "kid": 5 }),
        json!({ "kid": ["ed"] }),
        json!({ "use": 7 }),
        json!({ "alg": 7 }),
        json!({ "key_ops": "verify" }),
        json!({ "key_ops": [7] }),
    ] {
        odd.push(altered(key, &members).to_string());
    }
    let nested = format!("{}{}", "[".repeat(500), "]".repeat(500));
    odd.push(format!(r#"{{"kty":"OKP","deep":{nested}}}"#));
    odd.push(nested);
    odd
}

#[tokio::test]
async fn odd_keys_beside_good_ones_spoil_nothing() {
    let keys = good_keys();
    let good = keys.iter().map(|key| key.jwk().to_string());
    let odd = odd_elements(&keys[2]);
    for document in [
        [odd.clone(), good.clone().collect()].concat().join(","),
        [good.clone().collect(), odd.clone()].concat().join(", \n"),
    ] {
        let publisher = JwksServer::start_with(format!(r#"{{"keys":[{document}]}}"#)).await;
        let house = House::with_keys_at(publisher.url()).await;
        for key in &keys {
            let case = format!("{:?}", key.algorithm());
            house.assert_lets_in(&alice().sign_with(key), &case).await;
            house
                .assert_lets_in(&alice().sign_namelessly_with(key), &case)
                .await;
        }
        assert_eq!(publisher.fetches(), 1);
    }
}

#[tokio::test]
async fn a_document_is_read_in_every_form_that_publishers_use() {
    let key = KeyPair::ed25519("key");
    let jwk = key.jwk();
    let many: Vec<Value> = (0..500)
        .map(|number| {
            altered(
                &key,
                &json!({ "kid": format!("{number}"), "x": "A".repeat(43) }),
            )
        })
        .chain([jwk.clone()])
        .collect();
    let mut not_text = format!(r#"{{"keys":[{{"kty":"OKP","kid":"X"}},{jwk}]}}"#).into_bytes();
    let name = not_text
        .iter()
        .position(|byte| *byte == b'X')
        .expect("a name");
    not_text[name] = 0xff;
    for (case, document) in [
        (
            "a byte order mark",
            format!("\u{feff}{}", json!({ "keys": [jwk] })).into_bytes(),
        ),
        (
            "a byte order mark and a line",
            format!("\u{feff}\r\n {} \n", json!({ "keys": [jwk] })).into_bytes(),
        ),
        ("a bare array", json!([null, jwk]).to_string().into_bytes()),
        (
            "a byte order mark and a bare array",
            format!("\u{feff} [{jwk}]").into_bytes(),
        ),
        (
            "more members",
            json!({ "issuer": ["x"], "keys": [jwk], "next": { "keys": 7 } })
                .to_string()
                .into_bytes(),
        ),
        (
            "the last of two",
            format!(r#"{{"keys":null,"keys":[{jwk}]}}"#).into_bytes(),
        ),
        (
            "an escaped name",
            format!(r#"{{"\u006beys":[{jwk}]}}"#).into_bytes(),
        ),
        (
            "a number beyond all bounds",
            format!(r#"{{"at":1e999,"keys":[{jwk}]}}"#).into_bytes(),
        ),
        ("bytes that are not text", not_text),
        (
            "many keys",
            json!({ "keys": many }).to_string().into_bytes(),
        ),
    ] {
        let publisher = JwksServer::start_with(document).await;
        let house = House::with_keys_at(publisher.url()).await;
        house.assert_lets_in(&alice().sign_with(&key), case).await;
        house
            .assert_lets_in(&alice().sign_namelessly_with(&key), case)
            .await;
    }
}

#[tokio::test]
async fn a_key_verifies_only_if_it_is_published_for_that() {
    let key = KeyPair::ed25519("key");
    for (members, is_used) in [
        (json!({ "key_ops": ["verify"] }), true),
        (json!({ "key_ops": ["sign", "verify", "x"] }), true),
        (json!({ "key_ops": ["sign"] }), false),
        (json!({ "key_ops": ["encrypt", "wrapKey"] }), false),
        (json!({ "key_ops": ["Verify"] }), false),
        (json!({ "key_ops": [] }), false),
        (json!({ "use": "sig" }), true),
        (json!({ "use": "enc" }), false),
        (json!({ "use": "tls" }), false),
        (json!({ "use": "sig", "key_ops": ["sign"] }), false),
        (json!({ "alg": "EdDSA" }), true),
        (json!({ "alg": "Ed25519" }), true),
        (json!({ "alg": null }), true),
        (json!({ "alg": "Ed448" }), false),
        (json!({ "alg": "ES256" }), false),
        (json!({ "alg": "ed25519" }), false),
        (json!({ "x5c": 7, "x5t": [], "ext": true }), true),
    ] {
        let publisher = JwksServer::start(vec![altered(&key, &members)]).await;
        let house = House::with_keys_at(publisher.url()).await;
        for alg in ["EdDSA", "Ed25519"] {
            let token = alice().header_field("alg", json!(alg)).sign_with(&key);
            let case = format!("{members} {alg}");
            if is_used {
                house.assert_lets_in(&token, &case).await;
            } else {
                house.assert_refuses(&token, INVALID, &case).await;
            }
        }
    }
}

#[tokio::test]
async fn a_document_that_is_not_a_key_set_is_not_blamed_on_the_caller() {
    let key = KeyPair::ed25519("key");
    let jwk = key.jwk();
    let padding = " ".repeat(256 * 1024);
    for (document, failure) in [
        (String::new(), "not_a_key_set"),
        ("null".into(), "not_a_key_set"),
        ("{}".into(), "not_a_key_set"),
        ("<html></html>".into(), "not_a_key_set"),
        (r#"{"keys":null}"#.into(), "not_a_key_set"),
        (format!(r#"{{"keys":{jwk}}}"#), "not_a_key_set"),
        (format!(r#"{{"keys":[{jwk}"#), "not_a_key_set"),
        (format!(r#"{{"Keys":[{jwk}]}}"#), "not_a_key_set"),
        (jwk.to_string(), "not_a_key_set"),
        (format!(r#"{{"keys":[{jwk}]}}{padding}"#), "too_large"),
    ] {
        let publisher = JwksServer::start_with(document.clone()).await;
        let house = House::with_keys_at(publisher.url()).await;
        let answer = house.answer(&alice().sign_with(&key)).await;
        assert_eq!(answer.status, 500, "{document:.40}");
        let log = house.session.stop();
        assert!(log.contains(failure), "{document:.40}: {log}");
    }
    // A set without keys says that there are none.
    let publisher = JwksServer::start(Vec::new()).await;
    let house = House::with_keys_at(publisher.url()).await;
    house
        .assert_refuses(&alice().sign_with(&key), INVALID, "no keys")
        .await;
}
