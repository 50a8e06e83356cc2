//! Start-up: errors name the setting that is missing or wrong, settings that are not needed are not required, and an
//! outage does not prevent a start.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

use serde_json::{Value, json};
use testkit::binary::{WITHOUT_ROUTE, functions, functions_with_routes};
use testkit::events::{self, Event};
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tokens::{secret, token};

fn function(name: &str) -> FunctionBuilder {
    Function::builder(name).env("JWT_SECRET", secret())
}

/// A chat that would start: nothing is asked over the network at start.
fn chat() -> FunctionBuilder {
    function("chat-stream")
        .env("LLM_BASE_URL", "http://127.0.0.1:9/v1")
        .env("LLM_API_KEY", "sk-of-a-test")
        .env("LLM_MODEL", "model-of-a-test")
}

/// It ends at once and says which variable is to blame, in one line for machines, without its value.
async fn assert_names(function: FunctionBuilder, variable: &str, value: &str) {
    let exit = function.start_expecting_exit().await;
    let case = format!("{variable}={value:?}: {}", exit.output);
    assert_eq!(exit.status.code(), Some(1), "{case}");
    let mut lines = exit.output.lines();
    let line: Value = serde_json::from_str(lines.next().expect("a line")).expect("JSON");
    assert_eq!(lines.next(), None, "{case}");
    assert_eq!(line["level"], "ERROR", "{case}");
    assert_eq!(line["message"], "start failed", "{case}");
    let reason = line["reason"].as_str().expect("text");
    assert!(reason.starts_with(&format!("{variable}: ")), "{case}");
    // Values can be secrets that ended up in the wrong place; short ones are in any text by chance.
    assert!(
        value.len() < 4 || !exit.output.contains(value.trim()),
        "{case}"
    );
}

#[tokio::test]
async fn a_missing_setting_is_named() {
    for name in &functions_with_routes() {
        assert_names(Function::builder(name), "JWT_SECRET", "").await;
        // Set to nothing is not set: templates cannot leave a variable out.
        let empty = function(name).env("JWT_SECRET", "").env("JWT_JWKS_URL", "");
        assert_names(empty, "JWT_SECRET", "").await;
        let distrusting = Function::builder(name).env("AUTH_TRUST_AUTHORIZER", "false");
        assert_names(distrusting, "JWT_SECRET", "").await;
    }
    for variable in ["LLM_BASE_URL", "LLM_API_KEY", "LLM_MODEL"] {
        assert_names(chat().without(variable), variable, "").await;
        assert_names(chat().env(variable, ""), variable, "").await;
    }
}

#[tokio::test]
async fn a_bad_setting_is_named_and_its_value_is_not_repeated() {
    for (variable, value) in [
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "yaml-ish"),
        ("METRICS", "statsd"),
        ("METRICS_NAMESPACE", "AWS/Lambda"),
        ("AUTH_TRUST_AUTHORIZER", "yes-please"),
        ("JWT_JWKS_URL", "ftp://keys.invalid/"),
        ("JWT_JWKS_URL", "keys.invalid"),
        ("JWT_JWKS_URL", " "),
        ("JWT_JWKS_URL", "https://keys.invalid/jwks.json#fragment"),
        ("JWT_JWKS_URL", "https://somebody@keys.invalid/jwks.json"),
        ("JWT_JWKS_URL", "https://somebody:a-password@keys.invalid/"),
        ("JWT_JWKS_URL", "https://keys.invalid:70000/jwks.json"),
        ("JWT_SECRET", " "),
        ("JWT_SECRET", "\t\n"),
        ("JWT_ISSUER", " "),
        ("JWT_AUDIENCE", "\n"),
        ("JWT_JWKS_TLS_CA_FILE", " "),
        ("REDIS_MODE", "mirrored"),
        ("REDIS_URL", "http://127.0.0.1:6379"),
        ("REDIS_URL", "127.0.0.1:6379"),
        ("REDIS_URL", "redis://a:6379,redis://b:6379"),
        ("REDIS_URL", "redis://:a-password@:port/"),
        ("REDIS_KEY_LAYOUT", "diagonal"),
        ("REDIS_AUTH", "kerberos"),
        ("REDIS_PASSWORD_SECRET_ARN", "a-password-of-a-test"),
        ("JWT_SECRET_SECRET_ARN", "arn:aws:s3:::bucket"),
        ("MEMORY_MAX_MESSAGES", "1"),
        ("MEMORY_MAX_MESSAGES", "many"),
        ("MEMORY_TTL_SECONDS", "0"),
        ("MEMORY_TTL_SECONDS", "1e5"),
        ("TURN_TTL_SECONDS", "-1"),
        ("TURN_TTL_SECONDS", "604801"),
        ("MEMORY_READ_TIMEOUT_MS", "0"),
        ("MEMORY_WRITE_TIMEOUT_MS", "99999999"),
        ("CORS_ALLOWED_ORIGINS", "https://app.example.com/"),
        ("CORS_ALLOWED_ORIGINS", "https://a.example,*"),
    ] {
        let of_callers = ["JWT_", "AUTH_", "CORS_"];
        let is_of_callers = of_callers.iter().any(|group| variable.starts_with(group));
        for name in &functions() {
            let function = match name.as_str() {
                "chat-stream" => chat(),
                WITHOUT_ROUTE if is_of_callers => continue,
                _ => function(name),
            };
            assert_names(function.env(variable, value), variable, value).await;
        }
    }
    for (variable, value) in [("CONTEXT_MAX_MESSAGES", "-1"), ("CONTEXT_MAX_TOKENS", "0")] {
        for function in [chat(), Function::builder(WITHOUT_ROUTE)] {
            assert_names(function.env(variable, value), variable, value).await;
        }
    }
    for (variable, value) in [
        ("LLM_PROVIDER", "oracle"),
        ("LLM_BASE_URL", "llm.invalid/v1"),
        ("LLM_BASE_URL", "https://llm.invalid/v1#fragment"),
        ("LLM_BASE_URL", "https://somebody@llm.invalid/v1"),
        ("LLM_BASE_URL", "https://somebody:a-password@llm.invalid/v1"),
        ("LLM_BASE_URL", "https://llm.invalid:70000/v1"),
        ("LLM_MODEL", " "),
        ("LLM_API_KEY", "\t"),
        ("LLM_STARTS_THINKING", "sometimes"),
        ("LLM_TLS_CA_FILE", "/nowhere/ca.pem"),
        ("LLM_TLS_CA_FILE", "/dev/null"),
        ("HTTPS_PROXY", "socks5://proxy.invalid:1080"),
        ("https_proxy", "http:///a-proxy"),
        ("LLM_API_KEY", "sk-of-a-test\nand-more"),
        ("LLM_API_KEY_SECRET_ARN", "sk-of-a-test"),
        ("LLM_CONNECT_TIMEOUT_MS", "two seconds"),
        ("LLM_FIRST_TOKEN_TIMEOUT_MS", "30000ms"),
        ("LLM_IDLE_TIMEOUT_MS", "99999999"),
        ("LLM_MAX_RETRIES", "eleven"),
    ] {
        assert_names(chat().env(variable, value), variable, value).await;
    }
    let cluster = chat()
        .env("REDIS_MODE", "cluster")
        .env("REDIS_KEY_LAYOUT", "plain");
    assert_names(cluster, "REDIS_KEY_LAYOUT", "").await;
    let unreadable = chat()
        .env("REDIS_URL", "rediss://127.0.0.1:6379")
        .env("REDIS_TLS_CA_FILE", "/nowhere/ca.pem");
    assert_names(unreadable, "REDIS_TLS_CA_FILE", "/nowhere/ca.pem").await;
    for file in ["/nowhere/ca.pem", "/dev/null"] {
        let unusable = function("session-meta")
            .env("JWT_JWKS_URL", "https://keys.invalid/jwks.json")
            .env("JWT_JWKS_TLS_CA_FILE", file);
        assert_names(unusable, "JWT_JWKS_TLS_CA_FILE", file).await;
    }
}

#[tokio::test]
async fn only_a_chat_needs_anything_of_an_upstream() {
    let redis = Server::start().await;
    for (name, event, status) in without_upstream() {
        for nonsense in [false, true] {
            let mut function = function(name).env("REDIS_URL", redis.url());
            if nonsense {
                function = function
                    .env("LLM_PROVIDER", "oracle")
                    .env("CONTEXT_MAX_TOKENS", "-");
            }
            let function = function.start().await;
            assert_eq!(function.invoke(&event).await.status, status, "{name}");
        }
    }
}

#[tokio::test]
async fn an_outage_is_no_reason_not_to_start() {
    let mut redis = Server::start().await;
    redis.kill().await;
    let down = |name: &str| {
        function(name)
            .env("REDIS_URL", redis.url())
            // As down as Redis is.
            .env("JWT_JWKS_URL", "http://127.0.0.1:9/jwks.json")
    };
    let chat = down("chat-stream")
        .env("LLM_PROVIDER", "echo")
        .start()
        .await;
    let turn = chat
        .invoke(&events::chat(&token("alice"), "luna", "晚上好呀"))
        .await;
    assert_eq!(turn.start()["memory"], "unavailable");
    assert!(turn.reply().contains("晚上好呀"), "{}", turn.reply());
    assert_eq!(turn.last()["saved"], false);
    for (name, event, _) in without_upstream() {
        let function = down(name).start().await;
        assert_eq!(function.invoke(&event).await.status, 503, "{name}");
    }
}

#[tokio::test]
async fn a_function_without_a_route_needs_no_setting_of_callers_or_of_an_upstream() {
    let mut redis = Server::start().await;
    let function = Function::builder(WITHOUT_ROUTE).env("REDIS_URL", redis.url());
    let list = json!({ "action": "list" });
    let nonsense = function
        .env("JWT_JWKS_URL", "ftp://keys.invalid/")
        .env("AUTH_TRUST_AUTHORIZER", "yes-please")
        .env("CORS_ALLOWED_ORIGINS", "https://a.example,*")
        .env("LLM_PROVIDER", "oracle");
    let answer = nonsense.start().await.invoke_direct(&list).await;
    assert_eq!(answer["characters"], json!([]), "{answer}");
    redis.kill().await;
    let function = Function::builder(WITHOUT_ROUTE).env("REDIS_URL", redis.url());
    let answer = function.start().await.invoke_direct(&list).await;
    assert_eq!(answer["code"], "memory_unavailable", "{answer}");
}

/// Returns a request for each function that needs no upstream, and the status of its answer if nothing is stored.
fn without_upstream() -> [(&'static str, Value, u16); 5] {
    let token = token("alice");
    let stop = Event::stop().token(&token).query("character_id", "luna");
    let read = |path: &str| {
        let event = Event::get(path).token(&token);
        event.query("character_id", "nobody").http()
    };
    [
        ("read-character", read("/api/v1/chat/character"), 404),
        ("read-history", read("/api/v1/chat/history"), 200),
        ("clear-history", events::clear(&token, "luna"), 200),
        ("session-meta", events::session(&token, "luna"), 404),
        ("stop-stream", stop.http(), 404),
    ]
}
