//! What is sent leaves at once, on every socket: to the platform, to Redis, to the upstream. This looks at the option and not
//! at the clock.

use testkit::events;
use testkit::redis::Server;
use testkit::runtime::Function;
use testkit::tokens::{secret, token};
use testkit::upstream::{Gate, Script, Step, Upstream};

#[tokio::test]
async fn no_socket_waits_for_acknowledgements() {
    let redis = Server::start().await;
    let gate = Gate::new();
    let held = Script::deltas(&["在"])
        .then(Step::Wait(gate.clone()))
        .finish("stop")
        .done();
    let upstream = Upstream::start(held).await;
    let chat = Function::builder("chat-stream")
        .env("REDIS_URL", redis.url())
        .env("JWT_SECRET", secret())
        .envs(upstream.env())
        .start()
        .await;

    // The runtime opens further connections as it goes on, so one turn proves little.
    for turn in 0..20 {
        let event = events::chat(&token("alice"), "luna", "在吗");
        let mut answer = chat.invoke_streaming(&event).await;
        assert_eq!(answer.next_event().await.expect("start").event, "start");
        assert_eq!(
            answer.next_event().await.expect("a delta").data["content"],
            "在"
        );
        // In mid-reply all three connections are there. The runtime may have opened one to spare, which carries nothing yet.
        let connections = chat.connections();
        let carrying = |(own, peer, _): &&(u16, u16, bool)| {
            *peer != chat.api_port() || *own == answer.carried_by()
        };
        let carrying: Vec<_> = connections.iter().filter(carrying).collect();
        for port in [chat.api_port(), redis.port(), upstream.port()] {
            assert!(
                carrying.iter().any(|(_, peer, _)| *peer == port),
                "turn {turn}: none to {port}: {connections:?}"
            );
        }
        assert!(
            carrying.iter().all(|(_, _, nodelay)| *nodelay),
            "turn {turn}: {connections:?}"
        );
        gate.open();
        assert_eq!(answer.finish().await.last()["saved"], true);
    }
}
