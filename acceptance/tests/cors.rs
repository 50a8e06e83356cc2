//! CORS headers in the responses of all functions: successes, refusals and streams.

use std::collections::BTreeSet;

use serde_json::json;
use testkit::answer::Answer;
use testkit::events::Event;
use testkit::redis::Server;
use testkit::runtime::Function;
use testkit::tokens::{secret, token};

const APP: &str = "https://app.example.com";
const DEVELOPER: &str = "http://localhost:5173";
/// The response headers that every page may read (Fetch standard, "CORS-safelisted response-header name").
const SAFELISTED: [&str; 7] = [
    "cache-control",
    "content-language",
    "content-length",
    "content-type",
    "expires",
    "last-modified",
    "pragma",
];

/// All functions with one setting.
struct Functions {
    redis: Server,
    chat: Function,
    stop: Function,
    clear: Function,
    session: Function,
}

impl Functions {
    async fn start(allowed: Option<&str>) -> Self {
        let redis = Server::start().await;
        let function = |name: &str| {
            let function = Function::builder(name)
                .env("REDIS_URL", redis.url())
                .env("JWT_SECRET", secret())
                .env("LLM_PROVIDER", "echo");
            match allowed {
                Some(allowed) => function.env("CORS_ALLOWED_ORIGINS", allowed),
                None => function,
            }
        };
        Self {
            chat: function("chat-stream").start().await,
            stop: function("stop-stream").start().await,
            clear: function("clear-history").start().await,
            session: function("session-meta").start().await,
            redis,
        }
    }

    /// Every kind of answer, to a page of this origin, from both gateways: what it is, and the answer.
    async fn answers(&self, origin: Option<&str>) -> Vec<(String, Answer)> {
        let token = token("alice");
        let body = json!({ "character_id": "luna", "message": "晚上好呀" });
        let cases = [
            (
                "a stream",
                &self.chat,
                Event::stream().token(&token).json(&body),
                200,
            ),
            (
                "a refused message",
                &self.chat,
                Event::stream().token(&token).json(&json!({})),
                422,
            ),
            ("a stranger", &self.chat, Event::stream().json(&body), 401),
            (
                "preflight of a stream",
                &self.chat,
                Event::new("OPTIONS", "/api/v1/chat/stream"),
                405,
            ),
            (
                "a turn that is unknown",
                &self.chat,
                Event::resume()
                    .token(&token)
                    .query("character_id", "luna")
                    .query("turn_id", "01936d2a-7c3e-7b51-9f04-5a1c8e2d6b90"),
                404,
            ),
            (
                "no turn that runs",
                &self.chat,
                Event::resume().token(&token).query("character_id", "luna"),
                204,
            ),
            (
                "a stop of nothing",
                &self.stop,
                Event::stop().token(&token).query("character_id", "luna"),
                404,
            ),
            (
                "a session",
                &self.session,
                Event::session().token(&token).query("character_id", "luna"),
                200,
            ),
            (
                "no session",
                &self.session,
                Event::session().token(&token).query("character_id", "kai"),
                404,
            ),
            (
                "preflight of a session",
                &self.session,
                Event::new("OPTIONS", "/api/v1/chat/session"),
                405,
            ),
            (
                "a clear",
                &self.clear,
                Event::clear().token(&token).query("character_id", "luna"),
                200,
            ),
            (
                "a clear of nothing named",
                &self.clear,
                Event::clear().token(&token),
                422,
            ),
            (
                "preflight of a clear",
                &self.clear,
                Event::new("OPTIONS", "/api/v1/chat/history"),
                405,
            ),
        ];
        let mut answers = Vec::new();
        for (name, function, event, status) in cases {
            let event = match origin {
                Some(origin) => event.header("origin", origin),
                None => event,
            };
            for (gateway, event) in [("REST", event.rest()), ("HTTP", event.http())] {
                let case = format!("{name} ({gateway}), origin {origin:?}");
                let answer = function.invoke(&event).await;
                assert_eq!(answer.status, status, "{case}: {}", answer.text());
                answers.push((case, answer));
            }
        }
        answers
    }
}

/// All values of a header: one that was repeated shows.
fn values<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    let values = answer.headers.get_all(name).into_iter();
    values
        .map(|value| value.to_str().unwrap_or("not text"))
        .collect()
}

fn assert_tells(answers: &[(String, Answer)], allow_origin: &[&str], vary: &[&str]) {
    let exposed: &[&str] = match allow_origin {
        [] => &[],
        _ => &["allow,retry-after,www-authenticate,x-amzn-requestid"],
    };
    for (case, answer) in answers {
        assert_eq!(
            values(answer, "access-control-expose-headers"),
            exposed,
            "{case}"
        );
        assert_eq!(
            values(answer, "access-control-allow-origin"),
            allow_origin,
            "{case}"
        );
        assert_eq!(values(answer, "vary"), vary, "{case}");
    }
}

#[tokio::test]
async fn pages_of_a_listed_origin_may_read_every_answer() {
    let functions = Functions::start(Some(&format!("{APP}, {DEVELOPER}"))).await;
    for origin in [APP, DEVELOPER] {
        assert_tells(
            &functions.answers(Some(origin)).await,
            &[origin],
            &["Origin"],
        );
    }
}

/// A page reads only the headers that are exposed, and those that the Fetch standard safelists.
#[tokio::test]
async fn a_page_may_read_every_header_that_an_answer_depends_on() {
    let functions = Functions::start(Some(APP)).await;
    let mut answers = functions.answers(Some(APP)).await;
    let (chat, session) = (&functions.chat, &functions.session);
    let read = Event::session()
        .token(&token("alice"))
        .query("character_id", "luna")
        .header("origin", APP);
    functions.redis.pause();
    answers.push(("no memory".into(), session.invoke(&read.http()).await));
    functions.redis.resume();
    let stranger = Event::stream().header("origin", APP);
    answers.push(("a stranger".into(), chat.invoke(&stranger.rest()).await));
    let mut seen = BTreeSet::new();
    for (case, answer) in &answers {
        let exposed = values(answer, "access-control-expose-headers").concat();
        let readable: Vec<&str> = exposed.split(',').chain(SAFELISTED).collect();
        for name in answer.headers.keys().map(|name| name.as_str()) {
            let is_cors = name.starts_with("access-control-") || name == "vary";
            // Proxies obey it; a page has no use for it.
            let is_for_proxies = name == "x-accel-buffering";
            assert!(
                is_cors || is_for_proxies || readable.contains(&name),
                "{case}: {name}"
            );
            seen.insert(name.to_owned());
        }
    }
    for name in ["allow", "retry-after", "www-authenticate"] {
        assert!(seen.contains(name), "{name}");
    }
}

#[tokio::test]
async fn no_other_page_may_and_caches_know_that_it_depends() {
    let functions = Functions::start(Some(APP)).await;
    for origin in [
        None,
        Some("null"),
        Some("*"),
        Some(DEVELOPER),
        Some("http://app.example.com"),
        Some("https://app.example.com:444"),
        Some("https://app.example.com.evil.example"),
        Some("https://app.example.com, https://evil.example"),
    ] {
        assert_tells(&functions.answers(origin).await, &[], &["Origin"]);
    }
}

#[tokio::test]
async fn every_page_may_where_all_are_allowed() {
    let functions = Functions::start(Some("*")).await;
    for origin in [None, Some(APP), Some("null")] {
        assert_tells(&functions.answers(origin).await, &["*"], &[]);
    }
}

#[tokio::test]
async fn nothing_is_said_where_nothing_is_set() {
    for unset in [None, Some("")] {
        let functions = Functions::start(unset).await;
        assert_tells(&functions.answers(Some(APP)).await, &[], &[]);
    }
}

/// The rest of an answer is what it was, and a stream still streams.
#[tokio::test]
async fn the_answers_are_otherwise_the_same() {
    let (silent, listed) = (
        Functions::start(None).await,
        Functions::start(Some(APP)).await,
    );
    let without = silent.answers(Some(APP)).await;
    let with = listed.answers(Some(APP)).await;
    for ((case, mut without), (_, mut with)) in without.into_iter().zip(with) {
        with.headers.remove("access-control-allow-origin");
        with.headers.remove("access-control-expose-headers");
        with.headers.remove("vary");
        for volatile in ["date", "content-length"] {
            with.headers.remove(volatile);
            without.headers.remove(volatile);
        }
        assert_eq!(with.headers, without.headers, "{case}");
        assert_eq!(with.streamed, without.streamed, "{case}");
        if case.starts_with("a stream") {
            assert!(with.chunks.len() > 2, "{case}: {:?}", with.chunks.len());
            assert_eq!(with.last()["saved"], true, "{case}");
        }
        if case.starts_with("preflight") {
            assert!(with.header("allow").is_some(), "{case}");
        }
    }
}
