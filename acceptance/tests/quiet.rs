//! The output of a function at any log level: it reports what happened, and contains no message text, prompt, token or
//! secret.

use serde_json::json;
use testkit::events::Event;
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tokens::{KeyPair, Token, secret, token};
use testkit::upstream::{Gate, Script, Step, Upstream};

const PASSWORD: &str = "a-password-of-a-test";
const SAID: &str = "晚霞像橘子汽水";
const REPLY: &str = "海风很轻";
const PROMPT: &str = "你是一盏灯塔";
const NOTE: &str = "备注七十七";

async fn redis_with_a_password() -> Server {
    let redis = Server::start().await;
    let user = [
        "ACL",
        "SETUSER",
        "chat",
        "on",
        &format!(">{PASSWORD}"),
        "~*",
        "+@all",
    ];
    let _: () = redis.command(&user).await;
    redis
}

fn function(name: &str, redis: &Server, format: &str) -> FunctionBuilder {
    let settings = [
        ("REDIS_URL", redis.url()),
        ("REDIS_USERNAME", "chat".to_owned()),
        ("REDIS_PASSWORD", PASSWORD.to_owned()),
        ("JWT_SECRET", secret().to_owned()),
        ("LOG_LEVEL", "trace".to_owned()),
        ("LOG_FORMAT", format.to_owned()),
        ("RUST_LOG", "trace".to_owned()),
        ("RUST_BACKTRACE", "1".to_owned()),
    ];
    Function::builder(name).envs(settings.map(|(name, value)| (name.to_owned(), value)))
}

fn assert_quiet(output: &str, tokens: &[String]) {
    let signatures = tokens.iter().filter_map(|token| token.rsplit('.').next());
    let payloads = tokens.iter().filter_map(|token| token.split('.').nth(1));
    let unspeakable = [
        SAID,
        REPLY,
        PROMPT,
        NOTE,
        PASSWORD,
        secret(),
        "sk-of-a-test",
        "alice",
    ];
    for secret in unspeakable.into_iter().chain(signatures).chain(payloads) {
        assert!(!output.contains(secret), "{secret:?} in\n{output}");
        // As `Debug` and ASCII-only JSON would print it.
        assert!(
            !output.contains(secret.escape_unicode().to_string().as_str()),
            "{secret:?} in\n{output}"
        );
        assert!(
            !output.contains(&format!("{:?}", secret.as_bytes())),
            "{secret:?} in\n{output}"
        );
    }
}

fn said(token: &str, character: &str) -> Event {
    Event::stream().token(token).json(&json!({
        "character_id": character, "message": SAID, "metadata": { "note": NOTE },
    }))
}

#[tokio::test]
async fn a_chat_is_logged_without_what_was_said_in_it() {
    let redis = redis_with_a_password().await;
    let character = json!({ "name": "灯", "system_prompt": PROMPT }).to_string();
    let damaged = json!({ "name": "灯", "system_prompt": "", "temperature": PROMPT }).to_string();
    let torn = format!(r#"{{"name":"{PROMPT}","system_prompt":"{PROMPT}"#);
    for (id, json) in [("lamp", &character), ("damaged", &damaged), ("torn", &torn)] {
        let _: () = redis
            .command(&["SET", &format!("character:{id}"), json])
            .await;
    }
    let quoting = format!(r#"{{"error":{{"message":"cannot answer {SAID} to {PROMPT}"}}}}"#);
    for format in ["json", "text"] {
        let gate = Gate::new();
        let upstream = Upstream::start_sequence(vec![
            Script::reply(&[REPLY]),
            Script::status(400, &quoting),
            Script::status(503, &quoting),
            Script::raw(vec![Step::Bytes(
                format!("data: {{\"choices\":\"{REPLY}\"}}\n\n").into(),
            )]),
            Script::deltas(&[REPLY])
                .then(Step::Wait(gate.clone()))
                .then(Step::Cut),
            Script::reply(&[REPLY]),
        ])
        .await;
        let chat = function("chat-stream", &redis, format)
            .envs(upstream.env())
            .env("LLM_MAX_RETRIES", "0")
            .start()
            .await;
        let alice = token("alice");
        let refused = [
            Token::new("alice").expires_in(-1).hs256(secret()),
            Token::new("alice").hs256("another secret, just as long as the right one"),
            Token::new("alice").sign_with(&KeyPair::ed25519("k")),
        ];
        for _ in 0..4 {
            assert_eq!(chat.invoke(&said(&alice, "lamp").rest()).await.status, 200);
        }
        let mut cut = chat.invoke_streaming(&said(&alice, "lamp").rest()).await;
        assert_eq!(cut.next_event().await.expect("start").event, "start");
        assert_eq!(
            cut.next_event().await.expect("a delta").data["content"],
            REPLY
        );
        gate.open();
        assert_eq!(cut.finish().await.last()["code"], "upstream_interrupted");
        assert_eq!(
            chat.invoke(&said(&alice, "damaged").rest()).await.status,
            500
        );
        assert_eq!(chat.invoke(&said(&alice, "torn").http()).await.status, 500);
        for token in &refused {
            assert_eq!(chat.invoke(&said(token, "lamp").http()).await.status, 401);
        }
        for body in [
            format!("{{{SAID}"),
            format!(r#"{{"message":["{SAID}"],"character_id":"lamp"}}"#),
            SAID.repeat(4_000),
        ] {
            let event = said(&alice, "lamp").body(&body).http();
            assert!(
                (400..=422).contains(&chat.invoke(&event).await.status),
                "{body}"
            );
        }
        let last = chat.invoke(&said(&alice, "lamp").http()).await;
        assert_eq!(last.last()["saved"], true);

        let turn = last.start()["turn_id"].as_str().expect("text").to_owned();
        let output = chat.printed(&turn).await;
        // It does say what happened.
        for happened in [
            "upstream_rejected",
            "upstream_unavailable",
            "upstream_interrupted",
            "a stored character cannot be read",
        ] {
            assert!(output.contains(happened), "no {happened:?} in\n{output}");
        }
        let tokens: Vec<String> = refused.into_iter().chain([alice]).collect();
        assert_quiet(&output, &tokens);
    }
}

#[tokio::test]
async fn clearing_stopping_and_sessions_are_logged_without_who_and_by_which_token() {
    let mut redis = redis_with_a_password().await;
    let alice = token("alice");
    let refused = Token::new("alice").expires_in(-1).hs256(secret());
    let mut functions = Vec::new();
    for format in ["json", "text"] {
        for name in ["clear-history", "stop-stream", "session-meta"] {
            let good = function(name, &redis, format).start().await;
            let locked_out = function(name, &redis, format)
                .env("REDIS_PASSWORD", format!("{PASSWORD}-of-yesterday"))
                .start()
                .await;
            functions.push((name, good, locked_out));
        }
    }
    let requests = |name: &str, token: &str| {
        let event = match name {
            "clear-history" => Event::clear(),
            "stop-stream" => Event::stop(),
            _ => Event::set_state().json(&json!({
                "character_id": "lamp", "state": "ENDED", "note": NOTE,
            })),
        };
        event
            .token(token)
            .query("character_id", "lamp")
            .query("note", SAID)
            .http()
    };
    for (name, good, locked_out) in &functions {
        let status = if *name == "clear-history" { 200 } else { 404 };
        assert_eq!(good.invoke(&requests(name, &alice)).await.status, status);
        assert_eq!(good.invoke(&requests(name, &refused)).await.status, 401);
        assert_eq!(locked_out.invoke(&requests(name, &alice)).await.status, 503);
    }
    redis.kill().await;
    for (name, good, locked_out) in &functions {
        assert_eq!(good.invoke(&requests(name, &alice)).await.status, 503);
        for function in [good, locked_out] {
            let output = function.printed("memory is unavailable").await;
            assert_quiet(&output, &[alice.clone(), refused.clone()]);
        }
    }
}
