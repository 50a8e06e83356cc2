//! The way to a model: its URL, proxies, authorities, addresses, and how answers travel.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use testkit::events;
use testkit::redis::Server;
use testkit::runtime::Function;
use testkit::tokens::{secret, token};
use testkit::upstream::{Front, Script, Silent, Step, Upstream, delta};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{Stage, good};

#[tokio::test]
async fn whatever_base_url_is_given_the_one_right_url_is_asked() {
    for (given, path, query) in [
        ("/api/v3", "/api/v3/chat/completions", None),
        ("/v1/", "/v1/chat/completions", None),
        ("//v1///", "/v1/chat/completions", None),
        ("", "/chat/completions", None),
        ("/v1/chat/completions", "/v1/chat/completions", None),
        ("/v1/chat/completions/", "/v1/chat/completions", None),
        (
            "/deployments/d?api-version=2024-10-21",
            "/deployments/d/chat/completions",
            Some("api-version=2024-10-21"),
        ),
        ("/chat/completions?a=b", "/chat/completions", Some("a=b")),
    ] {
        for blanks in ["", " ", "\n"] {
            let upstream = Upstream::start(good()).await;
            let url = format!(
                "{blanks}http://127.0.0.1:{}{given}{blanks}",
                upstream.port()
            );
            let stage = Stage::before(
                upstream,
                &[("LLM_BASE_URL", &url), ("LLM_MODEL", " model ")],
            )
            .await;
            stage.replies("好", &url).await;
            let asked = &stage.upstream.requests()[0];
            assert_eq!(
                (asked.path.as_str(), asked.query.as_deref()),
                (path, query),
                "{url}"
            );
            assert_eq!(asked.body["model"], "model");
            // Azure looks for the key in a header of its own.
            let is_azure = query.is_some_and(|query| query.starts_with("api-version"));
            assert_eq!(asked.headers.contains_key("api-key"), is_azure, "{url}");
        }
    }
}

#[tokio::test]
async fn a_compressed_answer_that_nobody_asked_for_is_refused_in_the_log_and_not_shown() {
    for encoding in ["gzip", "br", "x-gzip", "zstd"] {
        let compressed = Step::Bytes(vec![0x1F, 0x8B, 8, 0, 0, 0, 0, 0].into());
        let script = Script::raw(vec![compressed]).header("content-encoding", encoding);
        let stage = Stage::new(vec![script]).await;
        stage.fails("upstream_unavailable", encoding).await;
        assert_eq!(
            stage.upstream.requests()[0].headers["accept-encoding"],
            "identity"
        );
        assert!(stage.chat.stop().contains("compressed"), "{encoding}");
    }
    let script = good().header("content-encoding", "identity");
    Stage::new(vec![script])
        .await
        .replies("好", "identity")
        .await;
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_the_key_goes_nowhere() {
    for status in [301, 302, 303, 307, 308] {
        let elsewhere = Upstream::start(good()).await;
        let location = format!("{}/chat/completions", elsewhere.base_url());
        let script = Script::status(status, "").header("location", &location);
        let stage = Stage::new(vec![script]).await;
        stage.fails("upstream_rejected", &status.to_string()).await;
        assert!(elsewhere.requests().is_empty(), "{status}");
        assert!(stage.chat.stop().contains("LLM_BASE_URL"), "{status}");
    }
}

#[tokio::test]
async fn an_https_upstream_is_reached_through_a_proxy_by_a_tunnel() {
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
        let upstream = Upstream::start(good()).await;
        let tls = Front::tls(upstream.port()).await;
        let proxy = Front::proxy(tls.address().port()).await;
        let url = format!("https://localhost:{}/v1", tls.address().port());
        let through = format!("http://somebody:secret@{}", proxy.address());
        let ca_file = tls.ca_file();
        let ca_file = ca_file.to_str().expect("UTF-8");
        let env = [
            ("LLM_BASE_URL", url.as_str()),
            (name, &through),
            ("LLM_TLS_CA_FILE", ca_file),
        ];
        let stage = Stage::before(upstream, &env).await;
        stage.replies("好", name).await;
        let heads = proxy.heads();
        let connect = format!("CONNECT localhost:{} HTTP/1.1\r\n", tls.address().port());
        assert!(
            heads.len() == 1 && heads[0].starts_with(&connect),
            "{heads:?}"
        );
        assert!(
            heads[0].contains("Proxy-Authorization: Basic c29tZWJvZHk6c2VjcmV0\r\n"),
            "{heads:?}"
        );
        // The key is for the upstream alone.
        assert!(!heads[0].contains("sk-of-a-test"), "{heads:?}");
        assert!(
            !stage.upstream.requests()[0]
                .headers
                .contains_key("proxy-authorization")
        );
    }
}

#[tokio::test]
async fn an_http_upstream_is_reached_through_a_proxy_by_its_whole_url() {
    for name in ["HTTP_PROXY", "http_proxy"] {
        let upstream = Upstream::start(good()).await;
        let proxy = Front::proxy(upstream.port()).await;
        let through = format!("http://somebody:secret@{}", proxy.address());
        let env = [
            ("LLM_BASE_URL", "http://model.invalid/v1"),
            (name, &through),
        ];
        let stage = Stage::before(upstream, &env).await;
        stage.replies("好", name).await;
        let head = proxy.heads().remove(0);
        assert!(
            head.starts_with("POST http://model.invalid/v1/chat/completions HTTP/1.1\r\n"),
            "{head}"
        );
        assert!(
            head.to_ascii_lowercase()
                .contains("proxy-authorization: basic "),
            "{head}"
        );
    }
}

#[tokio::test]
async fn where_no_proxy_is_wanted_none_is_used() {
    for (name, direct) in [
        ("NO_PROXY", "127.0.0.1"),
        ("no_proxy", "example.com, 127.0.0.0/8"),
        ("NO_PROXY", "*"),
    ] {
        let upstream = Upstream::start(good()).await;
        let proxy = Front::proxy(upstream.port()).await;
        let through = format!("http://{}", proxy.address());
        let url = upstream.base_url().replace(
            "127.0.0.1",
            if direct == "*" {
                "localhost"
            } else {
                "127.0.0.1"
            },
        );
        let env = [
            ("HTTP_PROXY", through.as_str()),
            (name, direct),
            ("LLM_BASE_URL", &url),
        ];
        let stage = Stage::before(upstream, &env).await;
        stage.replies("好", direct).await;
        assert!(proxy.heads().is_empty(), "{direct}");
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_by_its_file_and_only_by_it() {
    let upstream = Upstream::start(good()).await;
    let tls = Front::tls(upstream.port()).await;
    let ca_file = tls.ca_file();
    let ca_file = ca_file.to_str().expect("UTF-8");
    for host in ["localhost", "127.0.0.1"] {
        let upstream = Upstream::start(good()).await;
        let tls = Front::tls(upstream.port()).await;
        let own = tls.ca_file();
        let url = format!("https://{host}:{}/v1", tls.address().port());
        let trusted = [
            ("LLM_BASE_URL", url.as_str()),
            ("LLM_TLS_CA_FILE", own.to_str().expect("UTF-8")),
        ];
        let stage = Stage::before(upstream, &trusted).await;
        stage.replies("好", host).await;
    }
    let url = format!("https://localhost:{}/v1", tls.address().port());
    let stranger = Front::tls(upstream.port()).await;
    let other = stranger.ca_file();
    for file in [None, Some(other.to_str().expect("UTF-8"))] {
        let mut env = vec![("LLM_BASE_URL", url.as_str())];
        env.extend(file.map(|file| ("LLM_TLS_CA_FILE", file)));
        let stage = Stage::before(Upstream::start(good()).await, &env).await;
        stage.fails("upstream_unavailable", ca_file).await;
        let log = stage.chat.stop();
        assert!(log.contains("LLM_TLS_CA_FILE"), "{log}");
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn an_ipv6_address_is_reached() {
    let upstream = Upstream::start(good()).await;
    let front = Front::on("[::1]", upstream.port()).await;
    let url = format!("http://{}/v1", front.address());
    let stage = Stage::before(upstream, &[("LLM_BASE_URL", &url)]).await;
    stage.replies("好", &url).await;
    assert_eq!(
        stage.upstream.requests()[0].headers["host"],
        front.address().to_string()
    );
}

#[tokio::test]
async fn a_healthy_address_is_reached_behind_one_that_drops_packets() {
    let upstream = Upstream::start(good()).await;
    let healthy = Front::on("127.0.0.2", upstream.port()).await;
    let port = healthy.address().port();
    let _silent = Silent::on(port);
    let url = format!("http://model.test:{port}/v1");
    let redis = Server::start().await;
    let chat = Function::builder("chat-stream")
        .hosts("127.0.0.1 model.test\n127.0.0.2 model.test\n")
        .env("REDIS_URL", redis.url())
        .env("JWT_SECRET", secret())
        .envs(upstream.env())
        .env("LLM_BASE_URL", &url)
        .env("LLM_MAX_RETRIES", "0")
        .start()
        .await;
    for turn in 0..2 {
        let asked = Instant::now();
        let answer = chat
            .invoke(&events::chat(&token("alice"), "luna", "你在吗？"))
            .await;
        assert_eq!(answer.reply(), "好", "{}", answer.text());
        // The silent one had its head start, and no more.
        assert!(
            asked.elapsed() < Duration::from_millis(1_500),
            "{turn}: {:?}",
            asked.elapsed()
        );
    }
}

/// How a server ends a connection that a second request came over.
#[derive(Debug, Clone, Copy)]
enum Farewell {
    Close,
    Reset,
}

/// A server whose connections answer so many requests well, and end without an answer when another one has come.
async fn tires(after: usize, farewell: Farewell) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let connections = Arc::new(AtomicUsize::new(0));
    let accepted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            accepted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(serve(client, after, farewell));
        }
    });
    (format!("http://{address}/v1"), connections)
}

async fn serve(mut client: TcpStream, after: usize, farewell: Farewell) {
    let end = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
    let body = [
        String::from_utf8(delta("好").to_vec()).expect("UTF-8"),
        format!("data: {end}\n\ndata: [DONE]\n\n"),
    ]
    .concat();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    for served in 0.. {
        // The prompt ends the request, whose head and body may come apart.
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            if client.read_buf(&mut request).await.unwrap_or(0) == 0 {
                return;
            }
        }
        if served == after {
            if matches!(farewell, Farewell::Reset) {
                let _ = client.set_zero_linger();
            }
            return;
        }
        let _ = client.write_all(answer.as_bytes()).await;
    }
}

#[tokio::test]
async fn a_request_over_a_connection_that_had_ended_is_sent_again_without_a_retry() {
    for farewell in [Farewell::Close, Farewell::Reset] {
        let (url, connections) = tires(1, farewell).await;
        let env = [("LLM_BASE_URL", url.as_str()), ("LLM_MAX_RETRIES", "0")];
        let stage = Stage::with(&env, vec![good()]).await;
        for turn in 0..3 {
            stage.replies("好", &format!("{farewell:?} {turn}")).await;
        }
        assert_eq!(connections.load(Ordering::Relaxed), 3, "{farewell:?}");
    }
}

#[tokio::test]
async fn a_request_over_a_new_connection_that_ends_is_sent_again_only_by_a_retry() {
    for farewell in [Farewell::Close, Farewell::Reset] {
        let (url, connections) = tires(0, farewell).await;
        let env = [("LLM_BASE_URL", url.as_str()), ("LLM_MAX_RETRIES", "0")];
        let stage = Stage::with(&env, vec![good()]).await;
        stage
            .fails("upstream_unavailable", &format!("{farewell:?}"))
            .await;
        assert_eq!(connections.load(Ordering::Relaxed), 1, "{farewell:?}");
    }
}
