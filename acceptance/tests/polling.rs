//! The Runtime API is polled. When that fails, there are pauses between attempts, and later invocations are served.

use std::time::{Duration, Instant};

use testkit::events;
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tokens::{secret, token};

/// The time after which a process for one invocation ends whose polls all fail.
const GIVES_UP_AFTER: Duration = Duration::from_secs(2);
const WORKERS: usize = 8;
const WATCHED: Duration = Duration::from_secs(3);
/// For each worker: the pauses of 50, 100, 200, 400, 800 and 1,000 ms end within 3 s, and one poll came before them.
const MOST_POLLS: usize = WORKERS * 7;
/// A worker that spins takes a whole CPU.
const MOST_CPU: Duration = Duration::from_millis(300);

fn session_meta(redis: &Server) -> FunctionBuilder {
    Function::builder("session-meta")
        .env("REDIS_URL", redis.url())
        .env("JWT_SECRET", secret())
}

#[tokio::test]
async fn workers_pause_while_polls_fail_and_serve_again_afterwards() {
    let redis = Server::start().await;
    let function = session_meta(&redis).concurrency(WORKERS).start().await;
    let read = events::session(&token("alice"), "luna");
    assert_eq!(function.invoke(&read).await.status, 404);
    for status in [500, 403, 204, 200] {
        let before = function.polls();
        function.fail_polls(Some(status));
        let cpu = function.cpu_while(WATCHED).await;
        let polls = function.polls() - before;
        assert!(polls <= MOST_POLLS, "{status}: {polls} polls");
        assert!(polls >= WORKERS, "{status}: {polls} polls");
        assert!(cpu < MOST_CPU, "{status}: {cpu:?}");
        function.fail_polls(None);
        let asked = Instant::now();
        assert_eq!(function.invoke(&read).await.status, 404, "{status}");
        // The longest pause is a second.
        assert!(asked.elapsed() < Duration::from_secs(2), "{status}");
    }
    let output = function.stop();
    assert!(!output.contains("panic"), "{output}");
    let told = output.matches("the Runtime API cannot be polled").count();
    assert!((1..=4 * WORKERS).contains(&told), "{told} lines:\n{output}");
}

#[tokio::test]
async fn workers_pause_while_the_platform_is_gone() {
    let redis = Server::start().await;
    let mut function = session_meta(&redis).concurrency(WORKERS).start().await;
    function.stop_platform();
    let cpu = function.cpu_while(WATCHED).await;
    assert!(cpu < MOST_CPU, "{cpu:?}");
    assert!(function.is_running());
}

#[tokio::test]
async fn a_process_for_one_invocation_survives_failed_polls() {
    let redis = Server::start().await;
    let mut function = session_meta(&redis).start().await;
    let read = events::session(&token("alice"), "luna");
    assert_eq!(function.invoke(&read).await.status, 404);
    let began = Instant::now();
    // A debug build of the runtime takes 204 for no event yet, and polls again at once.
    for (round, status) in (1..).zip([500, 403, 200]) {
        function.fail_polls(Some(status));
        let told = |output: &str| output.matches("the Runtime API cannot be polled").count();
        while told(&function.output()) < round {
            assert!(function.is_running(), "{status}: {}", function.output());
            tokio::task::yield_now().await;
        }
        function.fail_polls(None);
        assert_eq!(function.invoke(&read).await.status, 404, "{status}");
        // Failures add up only if no invocation is between them: the process gives up after two seconds of them.
        if round == 1 {
            tokio::time::sleep(GIVES_UP_AFTER).await;
        }
    }
    assert!(began.elapsed() > GIVES_UP_AFTER);
}

/// A platform that answers a response before it has read it may learn only from the next request on its connection that
/// it has ended. So does `cargo lambda watch`.
#[tokio::test]
async fn a_process_for_one_invocation_polls_on_the_connection_of_its_response() {
    let redis = Server::start().await;
    let function = session_meta(&redis).start().await;
    let read = events::session(&token("alice"), "luna");
    for _ in 0..20 {
        let before = function.polls();
        assert_eq!(function.invoke(&read).await.status, 404);
        let polled = async {
            while function.polls() == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let polled = tokio::time::timeout(Duration::from_secs(10), polled).await;
        polled.expect("the next poll");
        let connections = function.connections().into_iter();
        let platform = connections.filter(|(_, peer, _)| *peer == function.api_port());
        assert_eq!(platform.count(), 1);
    }
}

#[tokio::test]
async fn a_process_for_one_invocation_ends_when_it_cannot_poll() {
    let redis = Server::start().await;
    session_meta(&redis).start().await.lose_platform().await;
}
