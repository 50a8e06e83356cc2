//! A key is replaced by one with the same name, or without a name.

use serde_json::json;
use testkit::jwks::JwksServer;
use testkit::tokens::{KeyPair, Token};

use super::{House, INVALID, alice, altered};

/// What a key and its token say of the key's name.
#[derive(Debug, Clone, Copy)]
enum Name {
    Nowhere,
    Both,
    KeyAlone,
}

const NAMES: [Name; 3] = [Name::Nowhere, Name::Both, Name::KeyAlone];

fn published(key: &KeyPair, name: Name) -> serde_json::Value {
    match name {
        Name::Nowhere => altered(key, &json!({ "kid": null })),
        Name::Both | Name::KeyAlone => key.jwk(),
    }
}

fn signed(token: &Token, key: &KeyPair, name: Name) -> String {
    match name {
        Name::Nowhere | Name::KeyAlone => token.sign_namelessly_with(key),
        Name::Both => token.sign_with(key),
    }
}

#[tokio::test]
async fn the_next_key_works_at_once_and_the_withdrawn_one_no_longer() {
    type Make = fn(&str) -> KeyPair;
    for make in [KeyPair::rs256 as Make, KeyPair::es256, KeyPair::ed25519] {
        for name in NAMES {
            let (old, new, stranger) = (make("key"), make("key"), make("key"));
            let case = format!("{:?}, the name {name:?}", old.algorithm());
            let publisher = JwksServer::start(vec![published(&old, name)]).await;
            let house = House::with_keys_at(publisher.url()).await;
            house
                .assert_lets_in(&signed(&alice(), &old, name), &case)
                .await;
            assert_eq!(publisher.fetches(), 1, "{case}");

            publisher.set_keys(vec![published(&new, name)]);
            house
                .assert_lets_in(&signed(&alice(), &new, name), &case)
                .await;
            assert_eq!(publisher.fetches(), 2, "{case}");
            house
                .assert_refuses(&signed(&alice(), &old, name), INVALID, &case)
                .await;
            house
                .assert_lets_in(&signed(&alice(), &new, name), &case)
                .await;

            // Anybody can send a token with any signature.
            for number in 0..10 {
                let token = alice().claim("jti", json!(number));
                house
                    .assert_refuses(&signed(&token, &stranger, name), INVALID, &case)
                    .await;
            }
            assert_eq!(publisher.fetches(), 2, "{case}");
        }
    }
}

#[tokio::test]
async fn of_several_keys_with_one_name_each_is_tried() {
    let (first, second) = (KeyPair::es256("key"), KeyPair::es256("key"));
    let other = KeyPair::rs256("key");
    let publisher = JwksServer::start(vec![first.jwk(), other.jwk(), second.jwk()]).await;
    let house = House::with_keys_at(publisher.url()).await;
    for key in [&first, &second, &other] {
        house
            .assert_lets_in(&alice().sign_with(key), "one of three")
            .await;
        house
            .assert_lets_in(&alice().sign_namelessly_with(key), "one of three")
            .await;
    }
    assert_eq!(publisher.fetches(), 1);
}
