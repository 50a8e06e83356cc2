//! When Redis fails, the log names the reason: the kind of failure, the known details, and no secret.
#![expect(clippy::expect_used, reason = "a test")]

use serde_json::Value;
use testkit::events;
use testkit::redis::Server;
use testkit::runtime::Function;
use testkit::tls::TlsServer;
use testkit::tokens::{secret, token};
use tokio::net::TcpListener;

const PASSWORD: &str = "password-of-a-test";

/// Sends a request to a function with these settings, and returns the line that says why Redis failed.
async fn failure(settings: &[(&str, &str)]) -> Value {
    failure_and_request(settings).await.0
}

/// Sends a request to a function with these settings, and returns the line that says why Redis failed, and the line of
/// the request.
async fn failure_and_request(settings: &[(&str, &str)]) -> (Value, Value) {
    let mut builder = Function::builder("session-meta")
        .env("JWT_SECRET", secret())
        .env("MEMORY_READ_TIMEOUT_MS", "400");
    for (name, value) in settings {
        builder = builder.env(name, *value);
    }
    let function = builder.start().await;
    let answer = function
        .invoke(&events::session(&token("alice"), "luna"))
        .await;
    assert_eq!(answer.status, 503, "{settings:?}");
    let output = function.stop();
    assert!(!output.contains(PASSWORD), "{output}");
    assert!(!output.contains("alice"), "a key is not logged: {output}");
    let line = |text: &str| {
        let line = output.lines().find(|line| line.contains(text));
        let line = line.unwrap_or_else(|| panic!("no line has {text}: {output}"));
        serde_json::from_str(line).expect("JSON")
    };
    (line("\"Redis failed\""), line("\"message\":\"request\""))
}

fn assert_says(line: &Value, reason: &str, detail: &str) {
    assert_eq!(line["reason"], reason, "{line}");
    let said = line["detail"].as_str().unwrap_or_default();
    assert!(said.contains(detail), "{line}");
}

#[tokio::test]
async fn what_lies_between_is_named() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let nobody = format!("redis://{}", closed.local_addr().expect("bound"));
    drop(closed);
    let tls = TlsServer::start().await;
    for (url, reason, detail) in [
        ("redis://cache.invalid:6379".to_owned(), "dns", "lookup"),
        (nobody, "refused", "refused"),
        (tls.url(), "tls", "UnknownIssuer"),
    ] {
        assert_says(&failure(&[("REDIS_URL", &url)]).await, reason, detail);
        // The same words for the seeds of a cluster, and for sentinels.
        for mode in ["cluster", "sentinel"] {
            let line = failure(&[("REDIS_URL", &url), ("REDIS_MODE", mode)]).await;
            assert_says(&line, reason, detail);
        }
    }
    let hangs = Server::start().await;
    hangs.pause();
    assert_says(
        &failure(&[("REDIS_URL", &hangs.url())]).await,
        "timeout",
        "",
    );
    hangs.resume();
}

#[tokio::test]
async fn what_the_server_refuses_is_named() {
    let server = Server::start_with(&["--requirepass", "another"]).await;
    let url = server.url();
    assert_says(&failure(&[("REDIS_URL", &url)]).await, "authentication", "");
    let login = [("REDIS_URL", url.as_str()), ("REDIS_PASSWORD", PASSWORD)];
    assert_says(&failure(&login).await, "authentication", "");
}

#[tokio::test]
async fn a_missing_right_is_named_with_its_command() {
    let server = Server::start().await;
    let url = server.url();
    let password = format!(">{PASSWORD}");
    let rights = [
        "+evalsha", "+eval", "+exists", "+llen", "+hmget", "+ttl", "+time",
    ];
    for (missing, detail) in [("+evalsha", "evalsha"), ("+exists", "NOPERM")] {
        let mut user = vec![
            "ACL", "SETUSER", "session", "reset", "on", &password, "~chat:*",
        ];
        user.extend(rights.iter().filter(|right| **right != missing));
        server.command::<String>(&user).await;
        let line = failure(&[
            ("REDIS_URL", &url),
            ("REDIS_USERNAME", "session"),
            ("REDIS_PASSWORD", PASSWORD),
        ])
        .await;
        assert_says(&line, "no_permission", detail);
    }
}

#[tokio::test]
async fn a_server_that_loads_its_data_says_so() {
    let mut server = Server::start_with(&["--appendonly", "yes"]).await;
    // While it loads, the server replies once every 1,024 commands.
    let fill = "for number = 1, 1000 do redis.call('SET', ARGV[1] .. number, 'x') end";
    for part in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        server.command::<()>(&["EVAL", fill, "0", part]).await;
    }
    server
        .command::<String>(&["CONFIG", "SET", "aof-use-rdb-preamble", "no"])
        .await;
    server.restart_loading(&["--key-load-delay", "500"]).await;
    let (line, request) = failure_and_request(&[
        ("REDIS_URL", &server.url()),
        ("MEMORY_READ_TIMEOUT_MS", "3000"),
    ])
    .await;
    assert_says(&line, "loading", "LOADING");
    assert_eq!(request["breaker_open"], true, "{request}");
}
