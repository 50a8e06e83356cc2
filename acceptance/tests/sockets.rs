//! Every socket sends at once: to the platform, to Redis in every topology, to the upstream, and to the publisher of
//! keys. The test reads the socket option and measures no time.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

use testkit::cluster::Cluster;
use testkit::events::{self, Event};
use testkit::jwks::JwksServer;
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::sentinel::Sentinels;
use testkit::tokens::{KeyPair, Token};
use testkit::upstream::{Gate, Script, Step, Upstream};

/// The runtime and the clients open further connections as they go on, so one invocation proves little.
const INVOCATIONS: usize = 20;

/// Published keys, and a token by one of them.
struct Keys {
    publisher: JwksServer,
    alice: String,
}

impl Keys {
    async fn publish() -> Self {
        let key = KeyPair::ed25519("key");
        Self {
            publisher: JwksServer::start(vec![key.jwk()]).await,
            alice: Token::new("alice").sign_with(&key),
        }
    }

    fn function(&self, name: &str, redis: Vec<(String, String)>) -> FunctionBuilder {
        Function::builder(name)
            .envs(redis)
            .env("JWT_JWKS_URL", self.publisher.url())
    }
}

/// That there is a connection to one of each `peers`, and none that waits. Those that `is_idle` says carry nothing.
#[track_caller]
fn assert_no_delay(function: &Function, peers: &[&[u16]], is_idle: impl Fn(u16, u16) -> bool) {
    let connections = function.connections();
    for ports in peers {
        assert!(
            connections.iter().any(|(_, peer, _)| ports.contains(peer)),
            "none to {ports:?}: {connections:?}"
        );
    }
    for (own, peer, nodelay) in &connections {
        assert!(
            *nodelay || is_idle(*own, *peer),
            "to {peer}, of {peers:?}: {connections:?}"
        );
    }
}

/// In mid-reply all connections are there.
async fn assert_no_delay_in_turns(keys: &Keys, redis: Vec<(String, String)>, redis_ports: &[u16]) {
    let gates: Vec<Gate> = std::iter::repeat_with(Gate::new)
        .take(INVOCATIONS)
        .collect();
    let held = |gate: &Gate| {
        let begun = Script::deltas(&["在的"]).then(Step::Wait(gate.clone()));
        begun.finish("stop").done()
    };
    let upstream = Upstream::start_sequence(gates.iter().map(held).collect()).await;
    let chat = keys.function("chat-stream", redis).envs(upstream.env());
    let chat = chat.start().await;
    let (platform, publisher) = (chat.api_port(), keys.publisher.port());
    for gate in &gates {
        let event = events::chat(&keys.alice, "luna", "你在吗？");
        let mut answer = chat.invoke_streaming(&event).await;
        assert_eq!(answer.next_event().await.expect("start").event, "start");
        let delta = answer.next_event().await.expect("a delta");
        assert_eq!(delta.data["content"], "在的");
        // The runtime may have opened a connection to spare, which carries nothing yet.
        let carrier = answer.carried_by();
        assert_no_delay(
            &chat,
            &[&[platform], redis_ports, &[upstream.port()], &[publisher]],
            |own, peer| peer == platform && own != carrier,
        );
        gate.open();
        assert_eq!(answer.finish().await.last()["saved"], true);
    }
}

/// Here nothing looks over the sockets, as the streaming function does for the platform's, so what has the option was
/// given it by its own client. The platform's has not: a whole answer is written to it at once.
async fn assert_no_delay_in_buffered_answers(
    keys: &Keys,
    redis: Vec<(String, String)>,
    redis_ports: &[u16],
) {
    for (name, event, status) in [
        ("session-meta", events::session(&keys.alice, "luna"), 200),
        ("clear-history", events::clear(&keys.alice, "luna"), 200),
        (
            "stop-stream",
            Event::stop()
                .token(&keys.alice)
                .query("character_id", "luna")
                .http(),
            404,
        ),
    ] {
        let function = keys.function(name, redis.clone()).start().await;
        let platform = function.api_port();
        for _ in 0..INVOCATIONS {
            assert_eq!(function.invoke(&event).await.status, status, "{name}");
            let peers = [redis_ports, &[keys.publisher.port()]];
            assert_no_delay(&function, &peers, |_, peer| peer == platform);
        }
    }
}

async fn assert_no_delay_anywhere(redis: Vec<(String, String)>, redis_ports: &[u16]) {
    let keys = Keys::publish().await;
    assert_no_delay_in_turns(&keys, redis.clone(), redis_ports).await;
    assert_no_delay_in_buffered_answers(&keys, redis, redis_ports).await;
}

#[tokio::test]
async fn no_socket_waits_for_acknowledgements() {
    let redis = Server::start().await;
    let setting = vec![("REDIS_URL".to_owned(), redis.url())];
    assert_no_delay_anywhere(setting, &[redis.port()]).await;
}

#[tokio::test]
async fn no_socket_waits_for_acknowledgements_behind_sentinels() {
    let sentinels = Sentinels::start().await;
    let master = sentinels.master_port().await;
    assert_no_delay_anywhere(sentinels.env(), &[master]).await;
}

#[tokio::test]
async fn no_socket_waits_for_acknowledgements_in_a_cluster() {
    let cluster = Cluster::start().await;
    let masters = cluster.masters().await;
    assert_no_delay_anywhere(cluster.env(), &masters).await;
}
