//! A publisher of keys that is unavailable costs little time, and the log states the reason.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::jwks::JwksServer;
use testkit::tokens::KeyPair;
use testkit::upstream::{Front, Silent};
use tokio::time::interval;

use super::{House, alice};

/// A request that comes after a failure waits at most a quarter of a second for the publisher.
const SOON: Duration = Duration::from_millis(900);

/// Returns the line of the log that says that the keys could not be fetched.
fn failed_fetch(log: &str) -> Value {
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut lines = lines.filter(|line| line["failure"].is_string());
    lines
        .next()
        .unwrap_or_else(|| panic!("no line of a failure in {log}"))
}

#[tokio::test]
async fn a_silent_publisher_costs_one_request_its_time_limit_and_no_other() {
    let key = KeyPair::ed25519("key");
    let publisher = JwksServer::start(vec![key.jwk()]).await;
    publisher.fall_silent(true);
    let house = House::with_keys_at(publisher.url()).await;
    let token = alice().sign_with(&key);
    assert_eq!(house.answer(&token).await.status, 500);
    assert_eq!(publisher.fetches(), 1);

    // For longer than the cool-down and a probe, so that some requests come while a probe runs.
    let mut pace = interval(Duration::from_millis(100));
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        pace.tick().await;
        let asked = Instant::now();
        assert_eq!(house.answer(&token).await.status, 500);
        assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    }
    let probes = publisher.fetches() - 1;
    assert!((1..=2).contains(&probes), "{probes} probes");

    publisher.fall_silent(false);
    house.let_in_again(&token).await;
    // Known keys serve without delay, whatever becomes of the publisher.
    publisher.fall_silent(true);
    let asked = Instant::now();
    house.assert_lets_in(&token, "the key is known").await;
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    assert_eq!(failed_fetch(&house.session.stop())["failure"], "timeout");
}

#[tokio::test]
async fn the_log_names_the_kind_of_a_failure() {
    let key = KeyPair::ed25519("key");
    let publisher = JwksServer::start(vec![key.jwk()]).await;
    publisher.fail(true);
    let tls = Front::tls(publisher.port()).await;
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody = closed.local_addr().expect("bound");
    drop(closed);
    for (url, kind, detail) in [
        (publisher.url(), "http_status", "500"),
        (format!("http://{nobody}/"), "refused", "refused"),
        ("http://keys.invalid/".to_owned(), "dns", "lookup"),
        (
            format!("https://{}/", tls.address()),
            "tls",
            "UnknownIssuer",
        ),
        (
            format!("https://127.0.0.1:{}/", publisher.port()),
            "tls",
            "corrupt",
        ),
    ] {
        let house = House::with_keys_at(url.clone()).await;
        assert_eq!(
            house.answer(&alice().sign_with(&key)).await.status,
            500,
            "{url}"
        );
        let line = failed_fetch(&house.session.stop());
        assert_eq!(line["failure"], kind, "{url}: {line}");
        let said = line["detail"].as_str().expect("text");
        assert!(said.contains(detail), "{url}: {said}");
    }
}

#[tokio::test]
async fn keys_behind_a_private_authority_are_fetched_where_it_is_trusted() {
    let key = KeyPair::es256("key");
    let publisher = JwksServer::start(vec![key.jwk()]).await;
    let tls = Front::tls(publisher.port()).await;
    let url = format!("https://localhost:{}/jwks.json", tls.address().port());
    let trusting = House::start(|function| {
        function
            .env("JWT_JWKS_URL", url.clone())
            .env("JWT_JWKS_TLS_CA_FILE", tls.ca_file().display().to_string())
    })
    .await;
    trusting
        .assert_lets_in(&alice().sign_with(&key), "trusted")
        .await;
    let distrusting = House::with_keys_at(url).await;
    assert_eq!(
        distrusting.answer(&alice().sign_with(&key)).await.status,
        500
    );
}

#[tokio::test]
async fn a_publisher_is_reached_behind_an_address_that_drops_packets() {
    let key = KeyPair::ed25519("key");
    let publisher = JwksServer::start(vec![key.jwk()]).await;
    let healthy = Front::on("127.0.0.2", publisher.port()).await;
    let port = healthy.address().port();
    let _silent = Silent::on(port);
    let house = House::start(|function| {
        function
            .hosts("127.0.0.1 keys.test\n127.0.0.2 keys.test\n")
            .env("JWT_JWKS_URL", format!("http://keys.test:{port}/jwks.json"))
    })
    .await;
    let asked = Instant::now();
    house
        .assert_lets_in(&alice().sign_with(&key), "two addresses")
        .await;
    // The silent one had its head start, and no more.
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
    assert_eq!(publisher.fetches(), 1);
}
