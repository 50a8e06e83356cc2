//! Many streams in one process, when something fails under all of them at once.
//!
//! `MANY_STREAMS` is their number, 50 by default. More are for optimized builds: see docs/testing.md.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use serde_json::Value;
use testkit::answer::Answer;
use testkit::events;
use testkit::redis::Server;
use testkit::runtime::{Function, Streaming};
use testkit::tokens::{secret, token};
use testkit::upstream::{Gate, Script, Step, Upstream};

/// The time for all streams to begin.
const ALL_BEGIN_WITHIN: Duration = Duration::from_secs(300);
/// The most streams that begin in one moment: a listening socket holds a thousand connections that wait to be accepted,
/// and the kernel resets others.
const BEGIN_TOGETHER: usize = 500;
/// The time for all streams to end, from their last text. It is for a machine that is busy with other tests.
const ALL_END_WITHIN: Duration = Duration::from_secs(30);
const MEMORY_BACK_WITHIN: Duration = Duration::from_secs(10);

/// One process, and a model that says "a" to everyone, then waits, and then goes on as it is told.
struct Scene {
    redis: Server,
    upstream: Upstream,
    chat: Function,
    more: Gate,
}

impl Scene {
    /// `then` is what the model does after "a" in the first stream, in the second, and so on, over and over.
    async fn new(then: &[fn(Script) -> Script]) -> Self {
        let more = Gate::new();
        let begun = || Script::deltas(&["a"]).then(Step::Wait(more.clone()));
        let scripts = then.iter().cycle().take(streams());
        let redis = Server::start().await;
        let upstream = Upstream::start_sequence(scripts.map(|then| then(begun())).collect()).await;
        let chat = Function::builder("chat-stream")
            .concurrency(streams())
            .memory(8_192)
            .env("REDIS_URL", redis.url())
            .env("JWT_SECRET", secret())
            // They begin and end in one moment, on a machine that may be busy.
            .env("MEMORY_READ_TIMEOUT_MS", "10000")
            .env("MEMORY_WRITE_TIMEOUT_MS", "10000")
            // The first waits for the last to begin.
            .deadline(ALL_BEGIN_WITHIN)
            .env(
                "LLM_IDLE_TIMEOUT_MS",
                ALL_BEGIN_WITHIN.as_millis().to_string(),
            )
            .envs(upstream.env());
        Self {
            chat: chat.start().await,
            redis,
            upstream,
            more,
        }
    }

    /// Begins all streams, and reads each up to its first text.
    async fn begin(&self) -> Vec<Streaming> {
        let begun = |user| async move {
            let mut stream = self.chat.invoke_streaming(&event(user)).await;
            assert_eq!(next(&mut stream).await["memory"], "empty");
            assert_eq!(next(&mut stream).await["content"], "a");
            stream
        };
        let all = stream::iter(0..streams()).map(begun);
        all.buffered(BEGIN_TOGETHER).collect().await
    }

    /// Reads all streams to their end, and asserts that what each is told of its turn is true.
    async fn end(&self, streams: Vec<Streaming>) -> Vec<Answer> {
        let answers = finished(streams).await;
        for (user, answer) in answers.iter().enumerate() {
            assert!(!answer.truncated, "{user}: {}", answer.text());
            let stored = self.stored(user).await;
            let expected = if answer.last()["saved"] == true { 2 } else { 0 };
            assert_eq!(stored, expected, "{user}: {}", answer.text());
        }
        answers
    }

    async fn stored(&self, user: usize) -> usize {
        let key = format!("chat:u{user}:luna:messages");
        self.redis.command(&["LLEN", &key]).await
    }
}

async fn finished(streams: Vec<Streaming>) -> Vec<Answer> {
    let all = join_all(streams.into_iter().map(Streaming::finish));
    let answers = tokio::time::timeout(ALL_END_WITHIN, all).await;
    answers.expect("all streams end")
}

fn streams() -> usize {
    let asked = std::env::var("MANY_STREAMS").ok();
    asked.map_or(50, |asked| asked.parse().expect("MANY_STREAMS: a number"))
}

fn event(user: usize) -> Value {
    events::chat(&token(&format!("u{user}")), "luna", "你好")
}

async fn next(stream: &mut Streaming) -> Value {
    stream.next_event().await.expect("an event").data
}

fn whole(script: Script) -> Script {
    script.then_delta("b").finish("stop").usage(1, 2).done()
}

fn silent(script: Script) -> Script {
    script.then_silence()
}

#[tokio::test]
async fn a_model_that_cuts_every_second_stream_costs_the_others_nothing() {
    let scene = Scene::new(&[Script::cut, whole]).await;
    let streams = scene.begin().await;
    scene.more.open();
    let answers = scene.end(streams).await;
    let (cut, others): (Vec<_>, Vec<_>) = answers
        .iter()
        .partition(|answer| answer.last()["code"] == "upstream_interrupted");
    assert_eq!(cut.len(), answers.len().div_ceil(2));
    assert!(cut.iter().all(|answer| answer.reply() == "a"));
    assert!(others.iter().all(|answer| answer.reply() == "ab"));
    assert!(answers.iter().all(|answer| answer.last()["saved"] == true));
}

#[tokio::test]
async fn without_redis_from_the_middle_on_all_replies_are_whole_and_said_to_be_lost() {
    let mut scene = Scene::new(&[whole]).await;
    let streams = scene.begin().await;
    scene.redis.kill().await;
    scene.more.open();
    for answer in finished(streams).await {
        assert_eq!(answer.reply(), "ab");
        assert_eq!(answer.last()["unsaved"], "memory", "{}", answer.text());
    }
    scene.redis.restart().await;
    let deadline = Instant::now() + MEMORY_BACK_WITHIN;
    while scene.chat.invoke(&event(0)).await.last()["saved"] == false {
        assert!(Instant::now() < deadline, "{}", scene.chat.output());
    }
    assert_eq!(scene.stored(0).await, 2);
}

#[tokio::test]
async fn a_redis_that_is_restarted_in_the_middle_has_all_turns_in_the_end() {
    let mut scene = Scene::new(&[whole]).await;
    let streams = scene.begin().await;
    scene.redis.kill().await;
    scene.redis.restart().await;
    scene.more.open();
    for answer in scene.end(streams).await {
        assert_eq!(answer.reply(), "ab");
        assert_eq!(answer.last()["saved"], true, "{}", answer.text());
    }
}

#[tokio::test]
async fn a_process_that_is_told_to_end_in_the_middle_stores_what_all_were_told() {
    let mut scene = Scene::new(&[silent]).await;
    let streams = scene.begin().await;
    scene.chat.terminate();
    for answer in scene.end(streams).await {
        assert_eq!(answer.reply(), "a");
        assert_eq!(answer.last()["saved"], true, "{}", answer.text());
    }
    let exit = scene.chat.exit().await;
    assert_eq!(exit.status.code(), Some(0), "{}", exit.output);
    scene.upstream.wait_until_no_streams().await;
}
