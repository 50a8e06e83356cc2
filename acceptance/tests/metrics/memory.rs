//! The metrics of memory operations, in all functions.

use super::*;

#[tokio::test]
async fn a_redis_that_refuses_is_a_failure_then_an_open_breaker() {
    let mut redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
    redis.kill().await;
    let chat = chat(&redis, &upstream).start().await;
    for _ in 0..2 {
        assert_eq!(
            chat.invoke(&said("今天的晚霞")).await.last()["saved"],
            false
        );
    }
    let told = Told::by(chat);
    told.assert_operations("load", "failure", 2);
    told.assert_operations("commit", "failure", 2);
    told.assert("commits_total", &[("result", "failed")], &[1.0, 1.0]);
    told.assert("short_memory_breaker_open", &[], &[1.0, 1.0]);
    // Once a turn, though neither its load nor its commit could be done.
    told.assert(DEGRADATION, &[], &[1.0, 1.0]);
    told.assert(DEGRADATION, &[("reason", "refused")], &[1.0]);
    told.assert(DEGRADATION, &[("reason", "breaker_open")], &[1.0]);
    told.assert_in_all("short_memory_messages", 0);
    told.assert_requests("chat-stream", "200", 2);
}

#[tokio::test]
async fn a_redis_that_stands_still_is_a_timeout_of_the_whole_budget() {
    let redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
    let chat = chat(&redis, &upstream)
        .env("MEMORY_READ_TIMEOUT_MS", "300")
        .start()
        .await;
    chat.invoke(&said("今天的晚霞")).await;
    redis.pause();
    assert_eq!(
        chat.invoke(&said("今天的晚霞")).await.start()["memory"],
        "unavailable"
    );
    redis.resume();
    let told = Told::by(chat);
    told.assert_operations("load", "success", 1);
    told.assert_operations("load", "timeout", 1);
    let latency = told.values(LATENCY, &[("operation", "load")]);
    assert!(
        matches!(latency.as_slice(), [_, whole] if *whole >= 0.3),
        "{latency:?}"
    );
    told.assert(DEGRADATION, &[("reason", "timeout")], &[1.0]);
    told.assert("short_memory_breaker_open", &[], &[0.0, 1.0]);
}

#[tokio::test]
async fn a_commit_is_told_by_its_result() {
    let redis = Server::start().await;
    let gate = Gate::new();
    let held = Script::deltas(&["海风"])
        .then(Step::Wait(gate.clone()))
        .finish("stop")
        .done();
    let upstream = Upstream::start_sequence(vec![held, reply()]).await;
    let talkative = chat(&redis, &upstream).start().await;
    let clear = function("clear-history", &redis).start().await;
    let mut fenced = talkative.invoke_streaming(&said("今天的晚霞")).await;
    assert_eq!(fenced.next_event().await.expect("start").event, "start");
    let cleared = clear.invoke(&events::clear(&token("alice"), "luna")).await;
    assert_eq!(cleared.status, 200);
    gate.open();
    assert_eq!(fenced.finish().await.last()["saved"], false);
    for setting in [["maxmemory-policy", "noeviction"], ["maxmemory", "1"]] {
        let [name, value] = setting;
        let _: () = redis.command(&["CONFIG", "SET", name, value]).await;
    }
    assert_eq!(
        talkative.invoke(&said("今天的晚霞")).await.last()["saved"],
        false
    );
    let told = Told::by(talkative);
    told.assert("commits_total", &[("result", "fenced")], &[1.0]);
    told.assert("commits_total", &[("result", "failed")], &[1.0]);
    told.assert_in_all("commits_total", 2);
    // Clearing is what the user wanted; a server that is full is not.
    told.assert(DEGRADATION, &[], &[1.0]);
    told.assert(DEGRADATION, &[("reason", "out_of_memory")], &[1.0]);
    told.assert("short_memory_breaker_open", &[], &[0.0, 0.0]);

    let told = Told::by(clear);
    told.assert_operations("clear", "success", 1);
    told.assert_requests("clear-history", "200", 1);
    told.assert_in_all("turns_total", 0);
}

#[tokio::test]
async fn a_commit_that_was_stored_before_is_a_duplicate() {
    let redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
    let directory = tempfile::tempdir().expect("a directory");
    let script = directory.path().join("commit.lua");
    std::fs::write(&script, "return 'duplicate'").expect("written");
    let chat = chat(&redis, &upstream)
        .test_hooks()
        .env("BROKEN_COMMIT_SCRIPT", script.to_str().expect("UTF-8"))
        .start()
        .await;
    assert_eq!(chat.invoke(&said("今天的晚霞")).await.last()["saved"], true);
    Told::by(chat).assert("commits_total", &[("result", "duplicate")], &[1.0]);
}

#[tokio::test]
async fn sessions_and_clears_tell_what_memory_did() {
    let mut redis = Server::start().await;
    let session = function("session-meta", &redis).start().await;
    let clear = function("clear-history", &redis).start().await;
    let alice = token("alice");
    assert_eq!(
        session
            .invoke(&events::session(&alice, "luna"))
            .await
            .status,
        404
    );
    let set = events::set_state(&alice, "luna", "ENDED");
    assert_eq!(session.invoke(&set).await.status, 404);
    redis.kill().await;
    assert_eq!(session.invoke(&set).await.status, 503);
    assert_eq!(
        clear.invoke(&events::clear(&alice, "luna")).await.status,
        503
    );
    let told = Told::by(session);
    told.assert_operations("session", "success", 1);
    told.assert_operations("set_state", "success", 1);
    told.assert_operations("set_state", "failure", 1);
    told.assert_requests("session-meta", "404", 2);
    told.assert_requests("session-meta", "503", 1);
    told.assert("cold_starts_total", &[("function", "session-meta")], &[1.0]);
    told.assert("short_memory_breaker_open", &[], &[0.0, 0.0, 1.0]);
    let told = Told::by(clear);
    told.assert_operations("clear", "failure", 1);
    told.assert_requests("clear-history", "503", 1);
    told.assert_in_all(DEGRADATION, 0);
}
