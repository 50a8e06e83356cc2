//! Limits of what a user may use, on Redis's clock.

use futures_util::future::join_all;
use serde_json::json;
use testkit::answer::Answer;
use testkit::events::{self, Event};
use testkit::redis::Server;
use testkit::stage::Stage;
use testkit::tokens::token;
use testkit::upstream::Script;

use super::Service;

/// 2026-11-27 00:00:00 UTC in Unix seconds.
const A_MIDNIGHT: i64 = 1_795_737_600;

/// Starts a Redis whose clock shows this moment.
async fn redis_at(unix_seconds: i64) -> Server {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = i64::try_from(now.expect("after 1970").as_millis()).expect("in range");
    Server::start_with_clock(&[], unix_seconds * 1_000 - now).await
}

fn retry_after(answer: &Answer) -> i64 {
    answer.assert_problem(429, "too_many_requests");
    let seconds = answer.header("retry-after").expect("a header");
    seconds.parse().expect("a number")
}

#[tokio::test]
async fn of_100_concurrent_turns_over_several_processes_exactly_as_many_begin_as_allowed() {
    for turn_ttl in ["3600", "0"] {
        // A minute begins, so that none ends meanwhile.
        let redis = redis_at(A_MIDNIGHT + 12 * 3_600).await;
        let stage = Stage::builder()
            .env("LIMIT_TURNS_PER_MINUTE", "30")
            .env("TURN_TTL_SECONDS", turn_ttl);
        let stage = stage.start_with(redis).await;
        let processes = [
            stage.function("chat-stream").concurrency(50).start().await,
            stage.function("chat-stream").concurrency(50).start().await,
        ];
        let event = events::chat(&stage.token, "luna", "在吗？");
        let all = (0..100).map(|number| processes[number % 2].invoke(&event));
        let answers = join_all(all).await;
        let begun = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(begun, 30, "{turn_ttl}");
        for refused in answers.iter().filter(|answer| answer.status != 200) {
            assert!((1..=60).contains(&retry_after(refused)));
        }
        assert_eq!(stage.upstream.requests().len(), 30);
        let other = events::chat(&token("bob"), "luna", "在吗？");
        assert_eq!(stage.chat.invoke(&other).await.status, 200);
        // An erasure does not reset a limit.
        let data = stage.function("user-data").start().await;
        let erase = Event::delete("/api/v1/chat/data").token(&stage.token);
        assert_eq!(data.invoke(&erase.http()).await.status, 200);
        retry_after(&stage.say("在吗？").await);
    }
}

#[tokio::test]
async fn the_next_minute_and_the_next_day_begin_anew() {
    let redis = redis_at(A_MIDNIGHT - 8).await;
    let stage = Stage::builder()
        .upstream_scripts(vec![
            Script::deltas(&["好"]).finish("stop").usage(60, 40).done(),
        ])
        .env("LIMIT_TURNS_PER_MINUTE", "2")
        .env("LIMIT_TOKENS_PER_DAY", "150");
    let stage = stage.start_with(redis).await;
    for _ in 0..2 {
        assert_eq!(stage.say("在吗？").await.status, 200);
    }
    let seconds = retry_after(&stage.say("在吗？").await);
    assert!((1..=8).contains(&seconds), "{seconds}");
    tokio::time::sleep(std::time::Duration::from_secs(seconds.unsigned_abs())).await;
    let answer = stage.say("在吗？").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn tokens_of_a_day_are_limited_when_they_are_used_up() {
    let stage = Stage::builder()
        .upstream_scripts(vec![
            Script::deltas(&["好"]).finish("stop").usage(60, 40).done(),
        ])
        .env("LIMIT_TOKENS_PER_DAY", "150");
    let stage = stage.start_with(redis_at(A_MIDNIGHT + 3_600).await).await;
    for _ in 0..2 {
        assert_eq!(stage.say("在吗？").await.status, 200);
    }
    let seconds = retry_after(&stage.say("在吗？").await);
    assert!((82_000..=82_800).contains(&seconds), "{seconds}");
    let used: String = stage.redis.command(&["GET", "user:alice:limit:day"]).await;
    assert_eq!(used.split(' ').nth(1), Some("200"), "{used}");
}

#[tokio::test]
async fn an_upstream_that_counts_nonsense_locks_nobody_out() {
    let nonsense = Script::deltas(&["好"])
        .finish("stop")
        .usage(60, 9_000_000_000)
        .done();
    let stage = Stage::builder()
        .upstream_scripts(vec![nonsense])
        .env("LIMIT_TOKENS_PER_DAY", "1000000");
    let stage = stage.start_with(redis_at(A_MIDNIGHT + 3_600).await).await;
    for _ in 0..2 {
        assert_eq!(stage.say("在吗？").await.status, 200);
    }
}

#[tokio::test]
async fn repeats_of_a_key_are_free() {
    let stage = Stage::builder().env("LIMIT_TURNS_PER_MINUTE", "1");
    let stage = stage.start_with(redis_at(A_MIDNIGHT + 3_600).await).await;
    let keyed = |key: &str| {
        let body = json!({ "character_id": "luna", "message": "在吗？" });
        let event = Event::stream().token(&stage.token).json(&body);
        event.header("idempotency-key", key).http()
    };
    let first = stage.chat.invoke(&keyed("a")).await;
    for _ in 0..3 {
        assert_eq!(stage.chat.invoke(&keyed("a")).await.last(), first.last());
    }
    retry_after(&stage.chat.invoke(&keyed("b")).await);
    let resume = Event::resume()
        .token(&stage.token)
        .query("character_id", "luna")
        .query("turn_id", &super::text(&first.last()["turn_id"]));
    assert_eq!(stage.chat.invoke(&resume.http()).await.status, 200);
}

#[tokio::test]
async fn without_redis_nothing_is_limited() {
    let mut service = Service::of(Stage::builder().env("LIMIT_TURNS_PER_MINUTE", "1")).await;
    service.stage.redis.kill().await;
    for _ in 0..3 {
        assert_eq!(service.stage.say("在吗？").await.status, 200);
    }
}
