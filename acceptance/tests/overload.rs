//! A process that carries as much as it can refuses new turns, and the running ones do not notice.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::Value;
use testkit::answer::{Answer, Problem};
use testkit::events;
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder, Streaming};
use testkit::tokens::{secret, token};
use testkit::upstream::{Gate, Script, Step, Upstream};

const FULL: Problem = Problem::new(
    503,
    "overloaded",
    "too many turns run at the moment; try again soon",
);
/// A thread that spins takes a whole CPU of this time.
const WATCHED: Duration = Duration::from_secs(2);
const MEMORY_BACK_WITHIN: Duration = Duration::from_secs(10);
const MOST_CPU: Duration = Duration::from_millis(300);

/// A Redis, and an upstream that says "a", and "b" once the gate is open.
struct Scene {
    redis: Server,
    upstream: Upstream,
    gate: Gate,
}

impl Scene {
    async fn new() -> Self {
        Self::over(Server::start().await).await
    }

    async fn over(redis: Server) -> Self {
        let gate = Gate::new();
        let script = Script::deltas(&["a"]).then(Step::Wait(gate.clone()));
        let script = script.then_delta("b").finish("stop").usage(1, 2).done();
        Self {
            redis,
            upstream: Upstream::start(script).await,
            gate,
        }
    }

    fn chat(&self) -> FunctionBuilder {
        Function::builder("chat-stream")
            .env("REDIS_URL", self.redis.url())
            .env("JWT_SECRET", secret())
            // Many turns begin at once, on a machine that may be busy.
            .env("MEMORY_READ_TIMEOUT_MS", "10000")
            .envs(self.upstream.env())
    }

    fn session_meta(&self) -> FunctionBuilder {
        Function::builder("session-meta")
            .env("REDIS_URL", self.redis.url())
            .env("JWT_SECRET", secret())
    }
}

fn event(user: usize) -> Value {
    events::chat(&token(&format!("u{user}")), "luna", "你好")
}

/// Begins turns of these users at once. Returns those that run, with their first text, and the refusals.
async fn begin(chat: &Function, users: std::ops::Range<usize>) -> (Vec<Streaming>, Vec<Answer>) {
    let begun = join_all(users.map(|user| async move {
        let mut stream = chat.invoke_streaming(&event(user)).await;
        if stream.status() != 200 {
            return Err(stream.finish().await);
        }
        assert_eq!(next(&mut stream).await["memory"], "empty");
        assert_eq!(next(&mut stream).await["content"], "a");
        Ok(stream)
    }))
    .await;
    let (running, refused): (Vec<_>, Vec<_>) = begun.into_iter().partition(Result::is_ok);
    (
        running.into_iter().flatten().collect(),
        refused.into_iter().filter_map(Result::err).collect(),
    )
}

async fn next(stream: &mut Streaming) -> Value {
    stream.next_event().await.expect("an event").data
}

async fn assert_all_saved(streams: Vec<Streaming>) {
    for answer in join_all(streams.into_iter().map(Streaming::finish)).await {
        assert_eq!(answer.reply(), "ab");
        assert_eq!(answer.last()["saved"], true, "{:?}", answer.last());
    }
}

fn assert_refused(refused: &[Answer]) {
    for answer in refused {
        assert_eq!(answer.problem(), FULL);
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
}

#[tokio::test]
async fn turns_beyond_the_limit_of_descriptors_are_refused() {
    let scene = Scene::new().await;
    let chat = scene.chat().concurrency(64).descriptors(64, 64);
    let chat = chat.start().await;
    let (running, refused) = begin(&chat, 0..40).await;
    assert_eq!((running.len(), refused.len()), (10, 30));
    assert_refused(&refused);
    let cpu = chat.cpu_while(WATCHED).await;
    assert!(cpu < MOST_CPU, "{cpu:?}");
    assert_refused(&begin(&chat, 40..60).await.1);
    scene.gate.open();
    assert_all_saved(running).await;
    // The refused ones asked nobody, and there is room for them now.
    assert_eq!(scene.upstream.requests().len(), 10);
    let (running, refused) = begin(&chat, 60..65).await;
    assert_eq!(refused.len(), 0);
    assert_all_saved(running).await;
    let output = chat.stop();
    assert!(output.contains(r#""lacks":"descriptors""#), "{output}");
    assert!(!output.contains("open files"), "{output}");
}

#[tokio::test]
async fn a_soft_limit_of_descriptors_is_raised() {
    let scene = Scene::new().await;
    let chat = scene.chat().concurrency(64).descriptors(64, 1_024);
    let chat = chat.start().await;
    let (running, refused) = begin(&chat, 0..64).await;
    assert_eq!((running.len(), refused.len()), (64, 0));
    scene.gate.open();
    assert_all_saved(running).await;
}

#[tokio::test]
async fn a_process_without_any_descriptor_left_loses_no_turn_and_recovers() {
    let scene = Scene::new().await;
    let chat = scene.chat().concurrency(16).start().await;
    let (running, _) = begin(&chat, 0..4).await;
    chat.withhold_descriptors(true);
    // A response needs a connection, so not all of these are answered.
    let answers = join_all((4..8).map(|user| {
        let chat = &chat;
        async move {
            let event = event(user);
            tokio::time::timeout(WATCHED, chat.invoke(&event))
                .await
                .ok()
        }
    }));
    let (answers, cpu) = tokio::join!(answers, chat.cpu_while(WATCHED));
    assert!(cpu < MOST_CPU, "{cpu:?}");
    for answer in answers.into_iter().flatten() {
        assert_eq!(answer.last()["code"], "upstream_unavailable");
    }
    scene.gate.open();
    assert_all_saved(running).await;
    chat.withhold_descriptors(false);
    let (running, refused) = begin(&chat, 8..24).await;
    assert_eq!((running.len(), refused.len()), (16, 0));
    assert_all_saved(running).await;
}

#[tokio::test]
async fn turns_beyond_the_memory_are_refused() {
    let scene = Scene::new().await;
    // Less than an idle process has, so one turn fills it.
    let chat = scene.chat().concurrency(8).memory(4).start().await;
    let (running, refused) = begin(&chat, 0..8).await;
    assert_eq!((running.len(), refused.len()), (1, 7));
    assert_refused(&refused);
    scene.gate.open();
    assert_all_saved(running).await;
    let (running, _) = begin(&chat, 8..9).await;
    assert_all_saved(running).await;
    let output = chat.stop();
    assert!(output.contains(r#""lacks":"memory""#), "{output}");
}

#[tokio::test]
async fn a_redis_that_takes_no_more_clients_costs_new_processes_their_memory_and_others_nothing() {
    // One for the first process, and one that is taken.
    let scene = Scene::over(Server::start_with(&["--maxclients", "2"]).await).await;
    let chat = scene.chat().concurrency(8).start().await;
    let (running, _) = begin(&chat, 0..4).await;
    let taken = scene.redis.connection().await;
    let other = scene.chat().start().await;
    let mut stream = other.invoke_streaming(&event(4)).await;
    assert_eq!(next(&mut stream).await["memory"], "unavailable");
    scene.gate.open();
    let answer = stream.finish().await;
    assert_eq!(answer.reply(), "ab");
    assert_eq!(answer.last()["unsaved"], "memory");
    let session = scene.session_meta().start().await;
    let read = events::session(&token("u0"), "luna");
    let refused = session.invoke(&read).await;
    assert_eq!(refused.problem().code, "memory_unavailable");
    drop(session);
    assert_all_saved(running).await;
    drop(taken);
    let deadline = Instant::now() + MEMORY_BACK_WITHIN;
    while other.invoke(&event(5)).await.last()["saved"] == false {
        assert!(Instant::now() < deadline, "{}", other.output());
    }
}
