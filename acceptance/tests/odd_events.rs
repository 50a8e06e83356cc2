//! Events with odd fields. Callers choose most of an event, and a gateway passes much of it on unchanged. Every value
//! gets a response, and none affects the process.

use serde_json::{Value, json};
use testkit::answer::Problem;
use testkit::binary;
use testkit::events::{Event, Gateway};
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tokens::{secret, token};
use testkit::upstream::{Script, Upstream};

fn function(name: &str, redis: &Server) -> FunctionBuilder {
    Function::builder(name)
        .env("REDIS_URL", redis.url())
        .env("JWT_SECRET", secret())
}

fn patched(event: &Value, patch: &Value) -> Value {
    let mut event = event.clone();
    json_patch::merge(&mut event, patch);
    event
}

/// Returns patches of an event that do not change its response.
fn odd() -> Vec<Value> {
    let mut patches = vec![
        json!({ "path": null, "rawPath": null }),
        json!({ "requestContext": { "stage": "\"<", "domainName": "a b", "path": "%", "accountId": [] } }),
        json!({ "requestContext": { "identity": 1, "requestTimeEpoch": "soon", "timeEpoch": {} } }),
        json!({ "stageVariables": 1, "pathParameters": [], "cookies": {}, "version": 7, "resource": false }),
        json!({ "headers": { "a b": "c", "": "d", "x-line": "a\nb", "x-nul": "\u{0}", "x-number": 1, "x-null": [null] } }),
    ];
    for host in [
        "",
        " ",
        "a b",
        "[",
        "a:b:c",
        "host:99999",
        "\u{0}",
        "@",
        "é",
        "x".repeat(9_999).as_str(),
    ] {
        patches.push(json!({ "headers": { "host": host, "Host": host } }));
    }
    for scheme in [
        "http, https",
        "https,http",
        "",
        " ",
        "a b",
        ":",
        "1",
        "http://",
        "\"<>",
    ] {
        patches.push(json!({ "headers": { "x-forwarded-proto": scheme } }));
    }
    for path in [
        "",
        "/",
        "no-slash",
        "//",
        "/a b",
        "/\"<>",
        "/%",
        "/%ff",
        "/\u{0}\u{7f}",
        "/é?#",
        "?",
        "#",
    ] {
        patches.push(json!({ "path": path, "rawPath": path }));
    }
    patches
}

#[tokio::test]
async fn an_odd_field_that_nothing_depends_on_costs_nothing() {
    let redis = Server::start().await;
    let session = function("session-meta", &redis).start().await;
    let upstream = Upstream::start(Script::reply(&["好"])).await;
    let chat = function("chat-stream", &redis).envs(upstream.env());
    let chat = chat.start().await;
    let token = token("alice");
    let message = json!({ "character_id": "luna", "message": "晚上好呀" });
    for gateway in [Gateway::Rest, Gateway::Http] {
        let turn = Event::stream().token(&token).json(&message).build(gateway);
        let read = Event::session().token(&token).query("character_id", "luna");
        let read = read.build(gateway);
        for patch in odd() {
            let answer = chat.invoke(&patched(&turn, &patch)).await;
            assert_eq!(answer.last()["saved"], true, "{patch}: {answer:?}");
            let answer = session.invoke(&patched(&read, &patch)).await;
            assert_eq!(answer.status, 200, "{patch}: {answer:?}");
        }
    }
    for function in [session, chat] {
        assert!(!function.stop().contains("panic"));
    }
}

#[tokio::test]
async fn a_query_is_read_however_raw_the_gateway_passes_it_on() {
    let redis = Server::start().await;
    let session = function("session-meta", &redis).start().await;
    let event = Event::session().token(&token("alice")).http();
    for (query, status, code) in [
        ("character_id=\"<luna> \\^`{|}\"", 404, "session_not_found"),
        ("character_id=é雨\u{7f}", 404, "session_not_found"),
        ("character_id=%", 404, "session_not_found"),
        ("character_id=a&x=\"#<%zz", 404, "session_not_found"),
        ("\"<>=1&&&=", 422, "invalid_request"),
        ("character_id=", 422, "invalid_request"),
        ("character_id=a&character_id=b", 422, "invalid_request"),
    ] {
        let event = patched(&event, &json!({ "rawQueryString": query }));
        let problem = session.invoke(&event).await.problem();
        assert_eq!((problem.status, &*problem.code), (status, code), "{query}");
    }
}

#[tokio::test]
async fn a_parameter_of_the_query_that_is_not_utf_8_is_refused_and_nothing_is_changed() {
    let redis = Server::start().await;
    let token = token("alice");
    // The session that is meant if the bytes are replaced.
    let key = "chat:alice:a%EF%BF%BD:messages";
    let _: i64 = redis.command(&["LPUSH", key, "{}"]).await;
    for (name, event) in [
        ("session-meta", Event::session()),
        ("clear-history", Event::clear()),
        ("stop-stream", Event::stop()),
    ] {
        let function = function(name, &redis).start().await;
        let event = event.token(&token);
        let http = event.clone().http();
        let raw = |query: &str| patched(&http, &json!({ "rawQueryString": query }));
        for event in [
            raw("character_id=a%ff"),
            raw("character_id=a%C3"),
            raw("character_id=a%ED%A0%80"),
            raw("character_id=a%EF%BF%BD"),
            // The gateway has replaced the bytes.
            event.query("character_id", "a\u{FFFD}").rest(),
        ] {
            let problem = function.invoke(&event).await.problem();
            let detail = "character_id: must be valid UTF-8 without U+FFFD";
            assert_eq!(
                problem,
                Problem::new(422, "invalid_request", detail),
                "{name}"
            );
        }
    }
    let left: i64 = redis.command(&["EXISTS", key]).await;
    assert_eq!(left, 1);
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_the_next_one_is_answered() {
    let redis = Server::start().await;
    let events = [
        json!(null),
        json!([]),
        json!("text"),
        json!({}),
        json!({ "Records": [{ "eventSource": "aws:sqs" }] }),
        json!({ "httpMethod": 1, "requestContext": { "http": { "method": "" } } }),
        json!({ "httpMethod": "POST", "requestContext": null, "body": "!", "isBase64Encoded": true }),
    ];
    let direct = function(binary::WITHOUT_ROUTE, &redis).start().await;
    for event in &events {
        let problem = direct.invoke_direct(event).await;
        assert_eq!(
            (&problem["status"], &problem["code"]),
            (&json!(422), &json!("invalid_request")),
            "{event}"
        );
    }
    // A request that somebody sends it by mistake is refused in the same way.
    let request = Event::get("/api/v1/chat/character").http();
    assert_eq!(direct.invoke_direct(&request).await["status"], 422);
    for name in &binary::functions_with_routes() {
        let function = function(name, &redis).env("LLM_PROVIDER", "echo");
        let function = function.start().await;
        for event in &events {
            let answer = function.invoke(event).await;
            let problem = answer.problem();
            assert_eq!(
                (problem.status, &*problem.code),
                (400, "bad_request"),
                "{event}"
            );
        }
        let stranger = Event::new("OPTIONS", "/").http();
        assert_eq!(function.invoke(&stranger).await.status, 405, "{name}");
    }
}
