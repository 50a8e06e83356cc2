//! Tokens that are verified with published keys: the keys are fetched when necessary, and rarely.

use std::net::TcpListener;

use futures_util::future::join_all;
use serde_json::{Value, json};
use testkit::jwks::JwksServer;
use testkit::tokens::{KeyPair, secret, token};

use super::{ALGORITHM, House, INVALID, alice, altered};

#[tokio::test]
async fn a_token_by_any_published_key_is_let_in() {
    let keys = [
        KeyPair::rs256("rsa"),
        KeyPair::es256("ec"),
        KeyPair::ed25519("ed"),
    ];
    let mut published: Vec<Value> = keys.iter().map(KeyPair::jwk).collect();
    // What a key set may hold besides (RFC 7517, section 5): types, curves and uses that nobody here understands.
    published.insert(
        0,
        json!({ "kty": "AKP", "alg": "ML-DSA-44", "kid": "new", "pub": "AAAA" }),
    );
    published.insert(
        1,
        json!({ "kty": "EC", "crv": "secp256k1", "kid": "coin", "x": "AAAA", "y": "AAAA" }),
    );
    published.push(json!({ "kty": "RSA", "kid": "half" }));
    let publisher = JwksServer::start(published).await;
    let house = House::with_keys_at(publisher.url()).await;

    // Starting asks nobody.
    assert_eq!(publisher.fetches(), 0);
    for (key, case) in keys.iter().zip(["RS256", "ES256", "EdDSA"]) {
        house.assert_lets_in(&alice().sign_with(key), case).await;
        house
            .assert_lets_in(&alice().sign_namelessly_with(key), case)
            .await;
        let expired = alice().expires_in(-1).sign_with(key);
        house
            .assert_refuses(&expired, "the token has expired", case)
            .await;
        let no_subject = alice().without("sub").sign_with(key);
        house.assert_refuses(&no_subject, INVALID, case).await;
    }
    assert_eq!(publisher.fetches(), 1);
}

#[tokio::test]
async fn a_public_key_is_no_shared_secret() {
    let rsa = KeyPair::rs256("rsa");
    let symmetric =
        json!({ "kty": "oct", "alg": "HS256", "kid": "shared", "k": "c2VjcmV0LW9mLWEtdGVzdA" });
    let publisher = JwksServer::start(vec![rsa.jwk(), symmetric]).await;
    let house = House::with_keys_at(publisher.url()).await;

    let modulus = rsa.jwk()["n"].as_str().expect("a modulus").to_owned();
    let named = alice().kid("rsa");
    for (case, token) in [
        ("any secret", token("alice")),
        ("the key's document", named.hs256_bytes(rsa.public_der())),
        ("its modulus", named.hs256(&modulus)),
        ("the published text", named.hs256(&rsa.jwk().to_string())),
        ("no secret", named.hs256("")),
        (
            "a secret that was published",
            alice().kid("shared").hs256("secret-of-a-test"),
        ),
    ] {
        house.assert_refuses(&token, ALGORITHM, case).await;
    }
    house
        .assert_refuses(&alice().unsigned(), INVALID, "no signature")
        .await;
    // Nothing of that was worth a question.
    assert_eq!(publisher.fetches(), 0);
    house
        .assert_lets_in(&alice().sign_with(&rsa), "the key itself")
        .await;
}

#[tokio::test]
async fn a_key_signs_only_in_its_own_way_and_under_its_own_name() {
    let (rsa, ec, ed) = (
        KeyPair::rs256("rsa"),
        KeyPair::es256("ec"),
        KeyPair::ed25519("ed"),
    );
    let (encrypting, other) = (KeyPair::es256("enc"), KeyPair::es256("other"));
    let nameless = KeyPair::ed25519("nameless");
    let publisher = JwksServer::start(vec![
        altered(&rsa, &json!({ "alg": "RS512" })),
        ec.jwk(),
        ed.jwk(),
        altered(&encrypting, &json!({ "use": "enc" })),
        altered(&nameless, &json!({ "kid": null, "alg": null })),
    ])
    .await;
    let house = House::with_keys_at(publisher.url()).await;

    house
        .assert_lets_in(&alice().sign_with(&ec), "its name")
        .await;
    house
        .assert_lets_in(&alice().sign_namelessly_with(&nameless), "no name")
        .await;
    for (case, token) in [
        ("published for another algorithm", alice().sign_with(&rsa)),
        ("published to encrypt", alice().sign_with(&encrypting)),
        (
            "another key under that name",
            alice().kid("ec").sign_with(&other),
        ),
        (
            "a name of another type of key",
            alice().kid("ed").sign_with(&ec),
        ),
        (
            "a key that was never published",
            alice().sign_namelessly_with(&other),
        ),
    ] {
        house.assert_refuses(&token, INVALID, case).await;
    }
}

#[tokio::test]
async fn a_new_key_works_at_once_and_unknown_names_do_not_wear_the_publisher_out() {
    let (old, new) = (KeyPair::es256("2024"), KeyPair::es256("2025"));
    let publisher = JwksServer::start(vec![old.jwk()]).await;
    let house = House::with_keys_at(publisher.url()).await;
    house
        .assert_lets_in(&alice().sign_with(&old), "the first key")
        .await;
    assert_eq!(publisher.fetches(), 1);

    publisher.set_keys(vec![new.jwk()]);
    house
        .assert_lets_in(&alice().sign_with(&old), "a key that is known")
        .await;
    assert_eq!(publisher.fetches(), 1);
    house
        .assert_lets_in(&alice().sign_with(&new), "the next key")
        .await;
    assert_eq!(publisher.fetches(), 2);
    house
        .assert_refuses(
            &alice().sign_with(&old),
            INVALID,
            "a key that was withdrawn",
        )
        .await;

    // Anybody can send a token that names a key.
    let stranger = KeyPair::es256("stranger");
    for n in 0..20 {
        let token = alice().kid(&format!("unknown-{n}")).sign_with(&stranger);
        house
            .assert_refuses(&token, INVALID, "an unknown key")
            .await;
    }
    assert_eq!(publisher.fetches(), 2);
}

#[tokio::test]
async fn known_keys_serve_while_the_publisher_is_down_and_unknown_ones_are_not_blamed_on_the_caller()
 {
    let key = KeyPair::ed25519("key");
    let publisher = JwksServer::start(vec![key.jwk()]).await;
    publisher.fail(true);
    let house = House::with_keys_at(publisher.url()).await;

    // The second request comes while the publisher is left alone.
    for _ in 0..2 {
        let answer = house.answer(&alice().sign_with(&key)).await;
        assert_eq!(answer.status, 500);
        assert_eq!(
            answer.json(),
            json!({
                "type": "about:blank", "title": "Internal Server Error", "status": 500,
                "detail": "服务暂时不可用，请稍后重试", "code": "internal",
            })
        );
        assert_eq!(publisher.fetches(), 1);
    }
    publisher.fail(false);
    house.let_in_again(&alice().sign_with(&key)).await;
    assert_eq!(publisher.fetches(), 2);

    publisher.fail(true);
    house
        .assert_lets_in(&alice().sign_with(&key), "it is known")
        .await;
    let unknown = alice().kid("unknown").sign_with(&key);
    house.assert_refuses(&unknown, INVALID, "it is down").await;
    house
        .assert_lets_in(&alice().sign_with(&key), "it is still known")
        .await;
}

/// A publisher that takes connections and never answers costs one time limit, not one for every caller in turn.
#[tokio::test]
async fn many_callers_wait_for_a_silent_publisher_together() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let address = silent.local_addr().expect("bound");
    let house = House::start(|function| {
        function
            .env("JWT_JWKS_URL", format!("http://{address}/jwks.json"))
            .concurrency(4)
    })
    .await;

    let token = alice().sign_with(&KeyPair::ed25519("key"));
    let answers = join_all((0..4).map(|_| house.answer(&token))).await;
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [500; 4]);
    silent.set_nonblocking(true).expect("a socket");
    let asked = std::iter::from_fn(|| silent.accept().ok()).count();
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn a_secret_and_published_keys_serve_side_by_side_and_the_issuer_is_checked_for_both() {
    let key = KeyPair::rs256("rsa");
    let publisher = JwksServer::start(vec![key.jwk()]).await;
    let house = House::start(|function| {
        function
            .env("JWT_JWKS_URL", publisher.url())
            .env("JWT_SECRET", secret())
            .env("JWT_ISSUER", "https://id.example.com/")
    })
    .await;

    let issued = alice().claim("iss", json!("https://id.example.com/"));
    house
        .assert_lets_in(&issued.hs256(secret()), "by the secret")
        .await;
    house
        .assert_lets_in(&issued.sign_with(&key), "by the key")
        .await;
    house
        .assert_refuses(&alice().hs256(secret()), INVALID, "no issuer")
        .await;
    house
        .assert_refuses(&alice().sign_with(&key), INVALID, "no issuer")
        .await;
    let confused = issued.hs256_bytes(key.public_der());
    house
        .assert_refuses(&confused, INVALID, "a public key as the secret")
        .await;
}
