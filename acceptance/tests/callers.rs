//! Authentication in all functions: valid tokens, the subject of the gateway's authorizer, and no other proof.
#![expect(clippy::indexing_slicing, reason = "a test")]

use serde_json::{Value, json};
use testkit::events::{self, Event, Gateway};
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tokens::{KeyPair, Token, secret, token};
use testkit::upstream::{Script, Upstream};

const MISSING: &str = "a bearer token is required";
const INVALID: &str = "the token is not valid";
const EXPIRED: &str = "the token has expired";
const ALGORITHM: &str = "the token is signed in a way that is not accepted here";
const SUBJECT: &str = "the token's subject must be 1 to 128 bytes";
const GATEWAYS: [Gateway; 2] = [Gateway::Rest, Gateway::Http];

fn function(name: &str, redis: &Server) -> FunctionBuilder {
    Function::builder(name).env("REDIS_URL", redis.url())
}

/// Gives a user a session whose state is told apart from that of others.
async fn session_of(redis: &Server, user: &str, state: &str) {
    let key = format!("chat:{user}:luna:meta");
    let _: i64 = redis.command(&["HSET", &key, "state", state]).await;
}

/// Asks for the caller's session with Luna.
fn question() -> Event {
    Event::session().query("character_id", "luna")
}

/// The state of the session that the caller sees.
async fn seen(function: &Function, event: &Value) -> Value {
    let answer = function.invoke(event).await;
    assert_eq!(answer.status, 200, "{event}\n{}", answer.text());
    answer.json()["state"].clone()
}

async fn assert_refused(function: &Function, event: &Value, detail: &str, case: &str) {
    let answer = function.invoke(event).await;
    assert_eq!(
        (answer.status, answer.header("www-authenticate")),
        (401, Some("Bearer")),
        "{case}: {}",
        answer.text()
    );
    assert_eq!(
        answer.json(),
        json!({
            "type": "about:blank", "title": "Unauthorized", "status": 401, "detail": detail, "code": "unauthorized",
        }),
        "{case}"
    );
}

/// Alice's token with one thing changed in what was signed, or in the signature.
fn tampered() -> [String; 2] {
    let (alice, bob) = (token("alice"), token("bob"));
    let [alice, bob] = [&alice, &bob].map(|token| token.split('.').collect::<Vec<_>>());
    [
        [alice[0], alice[1], bob[2]].join("."),
        [alice[0], alice[1], ""].join("."),
    ]
}

#[tokio::test]
async fn without_a_valid_token_a_caller_is_nobody() {
    let redis = Server::start().await;
    session_of(&redis, "alice", "ACTIVE").await;
    let session = function("session-meta", &redis)
        .env("JWT_SECRET", secret())
        .start()
        .await;

    let alice = || Token::new("alice");
    let bearer = |token: String| format!("Bearer {token}");
    let signed = |token: Token| bearer(token.hs256(secret()));
    let [swapped, unsigned] = tampered();
    let cases = [
        ("an empty header", String::new(), MISSING),
        ("the scheme alone", "Bearer".into(), MISSING),
        ("the scheme and a space", "Bearer ".into(), MISSING),
        ("another scheme", "Basic YWxpY2U6eA==".into(), MISSING),
        ("no scheme", token("alice"), MISSING),
        ("garbage", bearer("garbage".into()), INVALID),
        ("garbage in three parts", bearer("a.b.c".into()), INVALID),
        (
            "two tokens",
            bearer(format!("{0} {0}", token("alice"))),
            INVALID,
        ),
        (
            "expired a second ago",
            signed(alice().expires_in(-1)),
            EXPIRED,
        ),
        ("no end", signed(alice().without("exp")), INVALID),
        (
            "an end in words",
            signed(alice().claim("exp", json!("2099-01-01"))),
            INVALID,
        ),
        (
            "not valid yet",
            signed(alice().claim("nbf", json!(32_503_680_000_i64))),
            INVALID,
        ),
        (
            "another secret",
            bearer(alice().hs256("another secret, just as long as the right one")),
            INVALID,
        ),
        ("no signature", bearer(alice().unsigned()), INVALID),
        ("another's signature", bearer(swapped), INVALID),
        ("a signature cut off", bearer(unsigned), INVALID),
        ("another digest", bearer(alice().hs512(secret())), ALGORITHM),
        (
            "a key pair",
            bearer(alice().sign_with(&KeyPair::ed25519("k"))),
            ALGORITHM,
        ),
        ("no subject", signed(alice().without("sub")), INVALID),
        ("an empty subject", signed(Token::new("")), SUBJECT),
        (
            "a subject of 129 bytes",
            signed(Token::new(&"灵".repeat(43))),
            SUBJECT,
        ),
        (
            "a number as subject",
            signed(alice().claim("sub", json!(7))),
            INVALID,
        ),
        (
            "null as subject",
            signed(alice().claim("sub", json!(null))),
            INVALID,
        ),
        (
            "a list as subject",
            signed(alice().claim("sub", json!(["alice"]))),
            INVALID,
        ),
    ];
    for gateway in GATEWAYS {
        assert_refused(&session, &question().build(gateway), MISSING, "no header").await;
        for (case, authorization, detail) in &cases {
            let event = question().header("authorization", authorization);
            assert_refused(&session, &event.build(gateway), detail, case).await;
        }
        // What an authorizer found says nothing where nobody said to trust it.
        let claims = json!({ "claims": { "sub": "alice" }, "jwt": { "claims": { "sub": "alice" } }, "principalId": "alice" });
        let event = question().authorizer(claims).build(gateway);
        assert_refused(&session, &event, MISSING, "claims").await;
    }
}

#[tokio::test]
async fn a_valid_token_says_who_calls() {
    let redis = Server::start().await;
    let longest = "a".repeat(128);
    session_of(&redis, "alice", "ENDED").await;
    session_of(&redis, &longest, "INACTIVE").await;
    let session = function("session-meta", &redis)
        .env("JWT_SECRET", secret())
        .start()
        .await;

    let more = Token::new("alice")
        .claim("nbf", json!(1_700_000_000))
        .claim("iss", json!("anybody"))
        .claim("aud", json!(["anything"]))
        .claim("user_id", json!("bob"));
    for gateway in GATEWAYS {
        for name in ["authorization", "Authorization"] {
            for scheme in ["Bearer", "bearer", "BEARER", " Bearer "] {
                let value = format!("{scheme} {}", token("alice"));
                let event = question().header(name, &value).build(gateway);
                assert_eq!(seen(&session, &event).await, "ENDED", "{name}: {scheme}");
            }
        }
        let event = question().token(&more.hs256(secret())).build(gateway);
        assert_eq!(seen(&session, &event).await, "ENDED");
        let event = question().token(&token(&longest)).build(gateway);
        assert_eq!(seen(&session, &event).await, "INACTIVE");
    }
}

#[tokio::test]
async fn issuer_and_audience_are_checked_where_they_are_set() {
    let redis = Server::start().await;
    session_of(&redis, "alice", "ACTIVE").await;
    let issuer = "https://id.example.com/";
    let strict = function("session-meta", &redis)
        .env("JWT_SECRET", secret())
        .env("JWT_ISSUER", issuer)
        .env("JWT_AUDIENCE", "chat")
        .start()
        .await;

    let good = || {
        Token::new("alice")
            .claim("iss", json!(issuer))
            .claim("aud", json!("chat"))
    };
    let event = |token: Token| question().token(&token.hs256(secret())).rest();
    assert_eq!(seen(&strict, &event(good())).await, "ACTIVE");
    let among_others = good().claim("aud", json!(["billing", "chat"]));
    assert_eq!(seen(&strict, &event(among_others)).await, "ACTIVE");
    for (case, token) in [
        (
            "another issuer",
            good().claim("iss", json!("https://id.example.com")),
        ),
        ("no issuer", good().without("iss")),
        ("another audience", good().claim("aud", json!("billing"))),
        (
            "other audiences",
            good().claim("aud", json!(["billing", "chatter"])),
        ),
        ("no audience", good().without("aud")),
    ] {
        assert_refused(&strict, &event(token), INVALID, case).await;
    }
}

#[tokio::test]
async fn behind_an_authorizer_its_finding_alone_says_who_calls() {
    let redis = Server::start().await;
    session_of(&redis, "alice", "ENDED").await;
    session_of(&redis, "bob", "ACTIVE").await;
    let session = function("session-meta", &redis)
        .env("AUTH_TRUST_AUTHORIZER", "true")
        // Set as well, it lets nobody in.
        .env("JWT_SECRET", secret())
        .start()
        .await;

    let cognito = json!({ "claims": { "sub": "alice", "aud": "app" } });
    let lambda = json!({ "principalId": "alice", "integrationLatency": 7 });
    let both = json!({ "claims": { "sub": "alice" }, "principalId": "bob" });
    let jwt = json!({ "jwt": { "claims": { "sub": "alice", "aud": "app" }, "scopes": null } });
    let cases = [
        (Gateway::Rest, cognito),
        (Gateway::Rest, lambda),
        (Gateway::Rest, both),
        (Gateway::Http, jwt),
    ];
    for (gateway, finding) in cases {
        let event = question().authorizer(finding.clone());
        // A token is ignored: another's, and one that is none.
        for event in [
            event.clone(),
            event.clone().token(&token("bob")),
            event.token("x"),
        ] {
            assert_eq!(
                seen(&session, &event.build(gateway)).await,
                "ENDED",
                "{finding}"
            );
        }
    }

    let nobody = [
        (Gateway::Rest, json!({ "claims": {} }), MISSING),
        (Gateway::Rest, json!({ "claims": { "sub": 7 } }), MISSING),
        (Gateway::Rest, json!({ "principalId": null }), MISSING),
        (Gateway::Rest, json!({ "claims": { "sub": "" } }), SUBJECT),
        (
            Gateway::Rest,
            json!({ "principalId": "a".repeat(129) }),
            SUBJECT,
        ),
        (
            Gateway::Http,
            json!({ "jwt": { "claims": {}, "scopes": null } }),
            MISSING,
        ),
        (
            Gateway::Http,
            json!({ "jwt": { "claims": { "sub": "" }, "scopes": null } }),
            SUBJECT,
        ),
    ];
    for (gateway, finding, detail) in nobody {
        let event = question()
            .authorizer(finding.clone())
            .token(&token("alice"));
        assert_refused(
            &session,
            &event.build(gateway),
            detail,
            &finding.to_string(),
        )
        .await;
    }
    for gateway in GATEWAYS {
        let event = question().token(&token("alice")).build(gateway);
        assert_refused(&session, &event, MISSING, "no finding").await;
    }
}

#[tokio::test]
async fn a_body_a_query_or_a_header_never_says_who_calls() {
    let redis = Server::start().await;
    let upstream = Upstream::start(Script::reply(&["好"])).await;
    let chat = function("chat-stream", &redis)
        .envs(upstream.env())
        .env("JWT_SECRET", secret())
        .start()
        .await;
    let clear = function("clear-history", &redis)
        .env("JWT_SECRET", secret())
        .start()
        .await;
    let session = function("session-meta", &redis)
        .env("JWT_SECRET", secret())
        .start()
        .await;
    let said = chat
        .invoke(&events::chat(&token("alice"), "luna", "我的秘密"))
        .await;
    assert_eq!(said.last()["saved"], true);

    let bob = token("bob");
    // In every place and under every name that somebody might look for.
    let disguised = |mut event: Event| {
        for name in ["user_id", "userId", "user", "sub"] {
            event = event
                .query(name, "alice")
                .header(&format!("x-{name}"), "alice");
        }
        event.query("character_id", "luna").token(&bob)
    };
    let body = |more: Value| {
        let mut body = json!({ "user_id": "alice", "userId": "alice", "user": "alice", "sub": "alice", "character_id": "luna" });
        for (name, value) in more.as_object().expect("an object") {
            body[name] = value.clone();
        }
        body
    };
    for gateway in GATEWAYS {
        let read = session
            .invoke(&disguised(Event::session()).build(gateway))
            .await;
        assert_eq!(read.json()["code"], "session_not_found");
        let ended = disguised(Event::set_state()).json(&body(json!({ "state": "ENDED" })));
        assert_eq!(
            session.invoke(&ended.build(gateway)).await.json()["code"],
            "session_not_found"
        );
        let event = disguised(Event::stream()).json(&body(json!({ "message": "晚上好呀" })));
        let answer = chat.invoke(&event.build(gateway)).await;
        assert_eq!(answer.start()["memory"], "empty");
        let cleared = clear
            .invoke(&disguised(Event::clear()).build(gateway))
            .await;
        assert_eq!(cleared.status, 200);
    }
    let sent: Vec<String> = upstream
        .requests()
        .iter()
        .map(|request| request.body.to_string())
        .collect();
    assert_eq!(sent.len(), 3);
    assert_eq!(
        sent.iter().filter(|body| body.contains("我的秘密")).count(),
        1
    );
    let alice = session
        .invoke(&events::session(&token("alice"), "luna"))
        .await
        .json();
    assert_eq!(
        (&alice["state"], &alice["stored_messages"]),
        (&json!("ACTIVE"), &json!(2))
    );
}
