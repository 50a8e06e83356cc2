//! Prints the metric events of the real functions in one condition, and nothing else. The alarms are tested with them.
//!
//! `cargo run -p testkit --example metric_events -- CONDITION`. Each condition takes at most 20 seconds.
//!
//! | condition | fault |
//! | --- | --- |
//! | `healthy` | none |
//! | `failing` | Redis was killed |
//! | `timeouts` | one request in six to Redis is not answered in time |
//! | `slow` | Redis takes 0.6 s for each answer, and the upstream 6 s for its first delta |
//! | `upstream` | the upstream refuses, breaks off, or is silent |
//! | `commits` | Redis is full: reads succeed and writes fail |
#![expect(clippy::print_stdout, reason = "a test tool, whose output this is")]

use std::time::Duration;

use testkit::emf;
use testkit::events::{self, Event};
use testkit::proxy::Proxy;
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tokens::{secret, token};
use testkit::upstream::{Script, Step, Upstream};

const TURNS: usize = 10;
const CHARACTER: &str = "luna";
const MESSAGE: &str = "今天的晚霞真好看";

#[tokio::main]
async fn main() {
    let condition = std::env::args().nth(1).unwrap_or_default();
    let printed = match condition.as_str() {
        "healthy" => healthy().await,
        "failing" => failing().await,
        "timeouts" => timeouts().await,
        "slow" => slow().await,
        "upstream" => upstream().await,
        "commits" => commits().await,
        _ => panic!("one of healthy, failing, timeouts, slow, upstream, commits"),
    };
    for line in printed.iter().flat_map(|output| emf::lines(output)) {
        println!("{line}");
    }
}

async fn healthy() -> Vec<String> {
    let redis = Server::start().await;
    all_functions(&redis.url()).await
}

async fn failing() -> Vec<String> {
    let mut redis = Server::start().await;
    redis.kill().await;
    all_functions(&redis.url()).await
}

async fn timeouts() -> Vec<String> {
    let redis = Server::start().await;
    let proxy = Proxy::start(redis.port()).await;
    proxy.slow(6, Duration::from_millis(1_500));
    let upstream = Upstream::start(reply()).await;
    let chat = chat(&proxy.url(), &upstream).start().await;
    talk(&chat, TURNS).await;
    vec![chat.stop()]
}

async fn slow() -> Vec<String> {
    let redis = Server::start().await;
    let proxy = Proxy::start(redis.port()).await;
    let upstream = Upstream::start(reply()).await;
    let far_from_redis = chat(&proxy.url(), &upstream).start().await;
    talk(&far_from_redis, 1).await;
    proxy.slow(1, Duration::from_millis(600));
    let late = Script::raw(vec![Step::Delay(Duration::from_secs(6))])
        .then_delta("是啊")
        .finish("stop")
        .usage(310, 1)
        .done();
    let late = Upstream::start(late).await;
    let behind_a_slow_upstream = chat(&redis.url(), &late).concurrency(TURNS).start().await;
    let many = async {
        let turns = (0..TURNS).map(|_| talk(&behind_a_slow_upstream, 1));
        futures_util::future::join_all(turns).await
    };
    tokio::join!(talk(&far_from_redis, TURNS), many);
    vec![far_from_redis.stop(), behind_a_slow_upstream.stop()]
}

async fn upstream() -> Vec<String> {
    let redis = Server::start().await;
    let upstream = Upstream::start_sequence(vec![
        Script::status(503, "{}"),
        Script::status(429, "{}"),
        Script::status(400, "{}"),
        Script::raw(vec![Step::Silence]),
        Script::deltas(&["海风", "很轻"]).then_cut(),
        reply(),
        Script::status(503, "{}"),
    ])
    .await;
    let chat = chat(&redis.url(), &upstream)
        .env("LLM_MAX_RETRIES", "0")
        .env("LLM_FIRST_TOKEN_TIMEOUT_MS", "500")
        .start()
        .await;
    talk(&chat, TURNS).await;
    vec![chat.stop()]
}

async fn commits() -> Vec<String> {
    let redis = Server::start().await;
    let _: () = redis
        .command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])
        .await;
    let _: () = redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let upstream = Upstream::start(reply()).await;
    let chat = chat(&redis.url(), &upstream).start().await;
    talk(&chat, TURNS).await;
    vec![chat.stop()]
}

async fn all_functions(redis: &str) -> Vec<String> {
    let upstream = Upstream::start(reply()).await;
    let chat = chat(redis, &upstream).start().await;
    let session = function("session-meta", redis).start().await;
    let clear = function("clear-history", redis).start().await;
    let stop = function("stop-stream", redis).start().await;
    talk(&chat, TURNS).await;
    let token = token("alice");
    session.invoke(&events::session(&token, CHARACTER)).await;
    session
        .invoke(&events::set_state(&token, CHARACTER, "INACTIVE"))
        .await;
    clear.invoke(&events::clear(&token, CHARACTER)).await;
    for (function, event) in [(&chat, Event::resume()), (&stop, Event::stop())] {
        let event = event.token(&token).query("character_id", CHARACTER);
        function.invoke(&event.http()).await;
    }
    vec![chat.stop(), session.stop(), clear.stop(), stop.stop()]
}

async fn talk(chat: &Function, turns: usize) {
    for _ in 0..turns {
        chat.invoke(&events::chat(&token("alice"), CHARACTER, MESSAGE))
            .await;
    }
}

fn reply() -> Script {
    Script::reply(&["是啊，", "像橘子汽水。"])
}

fn chat(redis: &str, upstream: &Upstream) -> FunctionBuilder {
    function("chat-stream", redis).envs(upstream.env())
}

fn function(name: &str, redis: &str) -> FunctionBuilder {
    Function::builder(name)
        .env("REDIS_URL", redis)
        .env("JWT_SECRET", secret())
}
