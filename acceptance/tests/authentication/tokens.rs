//! Headers and claims, according to RFC 7515 and RFC 7519.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use testkit::tokens::{Token, secret};

use super::{ALGORITHM, EXPIRED, House, INVALID, alice};

const ISSUER: &str = "https://id.example.com/";

async fn house() -> House {
    House::start(|function| function.env("JWT_SECRET", secret())).await
}

/// Returns a token with a header as it is given, valid but for that.
fn with_header(header: &str) -> String {
    let claims = json!({ "sub": "alice", "exp": 32_503_680_000_i64 });
    Token::of_parts(header.as_bytes(), claims.to_string().as_bytes(), secret())
}

/// Returns a token with claims as they are given, under a good header.
fn with_claims(claims: &str) -> String {
    Token::of_parts(br#"{"alg":"HS256"}"#, claims.as_bytes(), secret())
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs_f64()
}

#[tokio::test]
async fn what_a_header_calls_critical_is_never_ignored() {
    let house = house().await;
    for header in [
        r#"{"alg":"HS256","crit":["x"],"x":1}"#,
        r#"{"alg":"HS256","crit":["exp"],"exp":1}"#,
        r#"{"alg":"HS256","crit":["x"]}"#,
        r#"{"alg":"HS256","crit":["alg"]}"#,
        r#"{"alg":"HS256","crit":["b64"],"b64":true}"#,
        r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
        r#"{"alg":"HS256","crit":[]}"#,
        r#"{"alg":"HS256","crit":null}"#,
        r#"{"alg":"HS256","crit":"x","x":1}"#,
        r#"{"alg":"HS256","crit":{"x":1}}"#,
        r#"{"alg":"HS256","\u0063rit":["x"],"x":1}"#,
        r#"{"crit":["x"],"x":1,"alg":"HS256"}"#,
        r#"{"alg":"HS256","b64":false}"#,
        r#"{"alg":"HS256","b64":"false"}"#,
    ] {
        house
            .assert_refuses(&with_header(header), INVALID, header)
            .await;
    }
}

#[tokio::test]
async fn a_header_that_cannot_be_read_is_refused() {
    let house = house().await;
    for (header, detail) in [
        (r#"{"alg":"none"}"#, INVALID),
        (r#"{"alg":"None"}"#, INVALID),
        (r#"{"alg":"hs256"}"#, INVALID),
        (r#"{"alg":"HS256 "}"#, INVALID),
        (r#"{"alg":""}"#, INVALID),
        (r#"{"alg":["HS256"]}"#, INVALID),
        (r#"{"alg":256}"#, INVALID),
        (r#"{"alg":null}"#, INVALID),
        (r#"{"typ":"JWT"}"#, INVALID),
        (r#"{"alg":"HS384"}"#, ALGORITHM),
        (r#"{"alg":"Ed25519"}"#, ALGORITHM),
        (r#"{"alg":"EdDSA"}"#, ALGORITHM),
        (r#"{"alg":"RS256"}"#, ALGORITHM),
        (r#"{"alg":"none","alg":"HS256"}"#, INVALID),
        (r#"{"alg":"HS256","alg":"HS256"}"#, INVALID),
        (r#"{"alg":"HS256","kid":"a","kid":"b"}"#, INVALID),
        (r#"{"alg":"HS256","kid":7}"#, INVALID),
        (r#"["HS256"]"#, INVALID),
        (r#"["HS256",null,true,null]"#, INVALID),
        (r#""HS256""#, INVALID),
        (r#"{"alg":"HS256"} x"#, INVALID),
        (r#"{"alg":"HS256""#, INVALID),
        ("null", INVALID),
        ("", INVALID),
    ] {
        house
            .assert_refuses(&with_header(header), detail, header)
            .await;
    }
    let bytes = Token::of_parts(b"{\"alg\":\"HS256\",\"x\":\"\xff\"}", b"{}", secret());
    house.assert_refuses(&bytes, INVALID, "not UTF-8").await;
    let good = alice().hs256(secret());
    for (token, case) in [
        (format!("{good}="), "a padded signature"),
        (format!("{good}."), "a fourth part"),
        (format!(".{good}"), "a part before the header"),
        (good.replacen('.', "=.", 1), "a padded header"),
        (good.replacen('.', "..", 1), "an empty part"),
    ] {
        house.assert_refuses(&token, INVALID, case).await;
    }
}

#[tokio::test]
async fn a_header_may_say_more_than_is_understood() {
    let house = house().await;
    for header in [
        r#"{"alg":"HS256"}"#,
        r#" { "alg" : "HS256" } "#,
        r#"{"alg":"HS256","typ":"at+jwt"}"#,
        r#"{"alg":"HS256","kid":"any"}"#,
        r#"{"alg":"HS256","kid":null}"#,
        r#"{"alg":"HS256","b64":true}"#,
        r#"{"alg":"HS256","x":1,"x":2}"#,
        r#"{"alg":"HS256","jku":"http://127.0.0.1:9/","x5u":"http://127.0.0.1:9/"}"#,
        r#"{"alg":"HS256","jwk":{"kty":"oct","k":"AAAA"},"x5c":7}"#,
    ] {
        house.assert_lets_in(&with_header(header), header).await;
    }
}

#[tokio::test]
async fn a_token_ends_at_its_exp_and_begins_up_to_a_minute_before_its_nbf() {
    let house = house().await;
    let second = now().floor();
    for exp in [
        json!(second),
        json!(now()),
        json!(second - 1.0),
        json!(0),
        json!(-1),
        json!(-1e300),
    ] {
        let token = alice().claim("exp", exp.clone()).hs256(secret());
        house
            .assert_refuses(&token, EXPIRED, &exp.to_string())
            .await;
    }
    for exp in [
        json!(now() + 100.5),
        json!(u64::MAX),
        json!(1e300),
        json!(253_402_300_800_u64),
    ] {
        let token = alice().claim("exp", exp.clone()).hs256(secret());
        house.assert_lets_in(&token, &exp.to_string()).await;
    }
    for nbf in [
        json!(null),
        json!(0),
        json!(-1),
        json!(now() + 1.0),
        json!(now() + 55.5),
        json!(second + 59.0),
    ] {
        let token = alice().claim("nbf", nbf.clone()).hs256(secret());
        house.assert_lets_in(&token, &nbf.to_string()).await;
    }
    for nbf in [
        json!(now() + 90.0),
        json!(second + 120.0),
        json!(u64::MAX),
        json!(1e300),
    ] {
        let token = alice().claim("nbf", nbf.clone()).hs256(secret());
        house
            .assert_refuses(&token, INVALID, &nbf.to_string())
            .await;
    }
    // The leeway is not for the end.
    let ended = alice().claim("nbf", json!(second + 30.0)).expires_in(-1);
    house
        .assert_refuses(&ended.hs256(secret()), EXPIRED, "ended before it began")
        .await;
    // When it was issued says nothing about when it is valid.
    for iat in [
        json!(now() + 1e6),
        json!(-1),
        json!(1.5),
        json!("yesterday"),
    ] {
        let token = alice().claim("iat", iat.clone()).hs256(secret());
        house.assert_lets_in(&token, &iat.to_string()).await;
    }
}

#[tokio::test]
async fn claims_of_a_wrong_type_are_refused() {
    let house = house().await;
    let odd = |types: &[Value]| types.to_vec();
    let neither = odd(&[
        json!("4102444800"),
        json!(true),
        json!([4_102_444_800_u64]),
        json!({}),
    ]);
    let not_text = odd(&[
        json!(7),
        json!(["alice"]),
        json!([]),
        json!({}),
        json!(true),
    ]);
    let not_audience = odd(&[
        json!(7),
        json!([7]),
        json!(["chat", 7]),
        json!([["chat"]]),
        json!({}),
        json!(true),
    ]);
    for (claim, values) in [
        ("exp", &neither),
        ("nbf", &neither),
        ("sub", &not_text),
        ("iss", &not_text),
        ("aud", &not_audience),
    ] {
        for value in values {
            let token = alice().claim(claim, value.clone()).hs256(secret());
            house
                .assert_refuses(&token, INVALID, &format!("{claim} {value}"))
                .await;
        }
    }
    for claims in [
        r#"{"sub":"bob","sub":"alice","exp":4102444800}"#,
        r#"{"sub":"alice","exp":4102444800,"exp":4102444801}"#,
        r#"{"sub":"alice","exp":1e999}"#,
        r#"{"sub":"alice","exp":null}"#,
        r#"{"sub":"alice","exp":4102444800} x"#,
        r#"["alice",4102444800,null,null,null]"#,
        r#"["alice",4102444800]"#,
        r#"{"sub":"\ud800","exp":4102444800}"#,
        "",
    ] {
        house
            .assert_refuses(&with_claims(claims), INVALID, claims)
            .await;
    }
    house
        .assert_lets_in(
            &with_claims(r#" {"sub":"alice","exp":4102444800,"x":1,"x":2}"#),
            "spaces",
        )
        .await;
}

#[tokio::test]
async fn issuer_and_audience_are_text_or_for_the_audience_a_list() {
    let house = House::start(|function| {
        function
            .env("JWT_SECRET", secret())
            .env("JWT_ISSUER", ISSUER)
            .env("JWT_AUDIENCE", "chat")
    })
    .await;
    let good = || alice().issuer(ISSUER).audience("chat");
    house
        .assert_lets_in(&good().hs256(secret()), "both are right")
        .await;
    for aud in [
        json!(["chat"]),
        json!(["x", "chat"]),
        json!(["chat", "chat"]),
    ] {
        let token = good().claim("aud", aud.clone()).hs256(secret());
        house.assert_lets_in(&token, &aud.to_string()).await;
    }
    for (claim, value) in [
        ("iss", json!([ISSUER])),
        ("iss", json!([ISSUER, "https://other.example/"])),
        ("iss", json!(null)),
        ("iss", json!("")),
        ("iss", json!({ ISSUER: ISSUER })),
        ("aud", json!([])),
        ("aud", json!(null)),
        ("aud", json!("Chat")),
        ("aud", json!("chat ")),
        ("aud", json!(["chat", null])),
        ("aud", json!({ "chat": "chat" })),
    ] {
        let token = good().claim(claim, value.clone()).hs256(secret());
        house
            .assert_refuses(&token, INVALID, &format!("{claim} {value}"))
            .await;
    }
}
