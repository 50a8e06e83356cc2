//! Erasing a user's data: nothing is left but the marks that keep it so, and nothing comes back.

use std::time::Instant;

use serde_json::json;
use testkit::cluster::Cluster;
use testkit::events::{self, Event};
use testkit::runtime::Function;
use testkit::stage::Stage;
use testkit::tokens::{secret, token};
use testkit::upstream::Gate;

use super::{PATIENCE, Service, gated, scripts_run, wait_for_scripts};

/// Waits until Redis has these keys and no others: what a refused turn has claimed is released beside the refusal.
pub(crate) async fn settled(service: &Service, expected: &[String]) {
    let began = Instant::now();
    loop {
        let keys = service.keys().await;
        if keys == expected {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{keys:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nothing_is_left_but_marks_that_expire() {
    let stage = Stage::builder()
        .env("LIMIT_TURNS_PER_MINUTE", "100")
        .env("LIMIT_TOKENS_PER_DAY", "100000");
    let service = Service::of(stage).await;
    for character in ["luna", "kai", "mei"] {
        service.say_to(character, "在吗？").await;
    }
    let body = json!({ "character_id": "luna", "message": "在吗？" });
    let event = Event::stream().token(&service.stage.token).json(&body);
    let event = event.header("idempotency-key", "a:b").http();
    assert_eq!(service.stage.chat.invoke(&event).await.status, 200);
    let clear = events::clear(&service.stage.token, "mei");
    assert_eq!(service.clear.invoke(&clear).await.status, 200);
    // Another user's data stays.
    let other = events::chat(&token("bob"), "luna", "在吗？");
    assert_eq!(service.stage.chat.invoke(&other).await.status, 200);

    let answer = service.erase().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let erased = json!({ "sessions": 2, "messages": 6, "turns": 4 });
    assert_eq!(
        answer.json(),
        json!({ "message": "数据已删除", "erased": erased })
    );
    let left: Vec<String> = service
        .keys()
        .await
        .into_iter()
        .filter(|key| key.contains(Stage::USER))
        .collect();
    let expected = [
        "chat:alice:mei:cleared",
        "user:alice:erased",
        "user:alice:limit:day",
        "user:alice:limit:minute",
    ];
    assert_eq!(left, expected);
    for key in &left {
        let seconds: i64 = service.redis().command(&["TTL", key]).await;
        assert!((1..=86_400).contains(&seconds), "{key}: {seconds}");
    }
    // What was used still counts, and no turn is named any more.
    for key in &expected[2..] {
        let used: String = service.redis().command(&["GET", key]).await;
        let numbers: Vec<u64> = used
            .split(' ')
            .map(|number| number.parse().expect("a number"))
            .collect();
        assert!(numbers.len() == 2 && numbers[1] >= 1, "{used}");
    }
    assert!(service.characters().await.is_empty());
    let nothing = json!({ "sessions": 0, "messages": 0, "turns": 0 });
    assert_eq!(service.erase().await.json()["erased"], nothing);
    service.say("又来了").await;
    assert_eq!(service.contents().await, ["又来了", "好"]);
    let bob = Event::get("/api/v1/chat/history")
        .token(&token("bob"))
        .query("character_id", "luna");
    let history = service.history.invoke(&bob.http()).await.json();
    assert_eq!(history["messages"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn turns_that_run_leave_nothing_whatever_their_session() {
    let gate = Gate::new();
    let service = Service::of(Stage::builder().upstream_scripts(vec![gated(&gate)])).await;
    let chat = service
        .stage
        .function("chat-stream")
        .concurrency(20)
        .start()
        .await;
    let mut running = Vec::new();
    for number in 0..20 {
        let character = ["luna", "kai", "mei"][number % 3];
        let body = json!({ "character_id": character, "message": "在吗？" });
        let event = Event::stream().token(&service.stage.token).json(&body);
        // Half of them have a key.
        let event = match number % 2 {
            0 => event.header("idempotency-key", &format!("k{number}")),
            _ => event,
        };
        running.push(chat.invoke_streaming(&event.http()).await);
    }
    service.stage.upstream.wait_for_requests(20).await;
    // Each has written its journal.
    let index = format!("user:{}:turns", Stage::USER);
    let began = Instant::now();
    loop {
        let members: Vec<String> = service
            .redis()
            .command(&["ZRANGE", &index, "0", "-1"])
            .await;
        let texts = service.keys().await;
        let texts = texts.iter().filter(|key| key.ends_with(":text")).count();
        if members.len() == 20 && texts == 20 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{members:?}");
        tokio::task::yield_now().await;
    }
    // The process stands still, so that each journal runs its script once after the erasure, and then no more.
    chat.pause();
    assert_eq!(service.erase().await.json()["erased"]["turns"], 20);
    let run = scripts_run(service.redis()).await;
    chat.resume();
    wait_for_scripts(service.redis(), run + 20).await;
    assert_eq!(service.keys().await, ["user:alice:erased"]);
    gate.open();
    for running in running {
        let last = running.finish().await.last();
        assert_eq!(last["saved"], false, "{last}");
        assert_eq!(last["unsaved"], "cleared", "{last}");
    }
    assert_eq!(service.keys().await, ["user:alice:erased"]);
}

#[tokio::test]
async fn a_turn_without_its_history_that_began_before_is_not_stored() {
    let gate = Gate::new();
    let mut service = Service::of(Stage::builder().upstream_scripts(vec![gated(&gate)])).await;
    service.stage.redis.kill().await;
    let running = service.stage.say_streaming("在吗？").await;
    service.stage.upstream.wait_for_requests(1).await;
    service.stage.redis.restart().await;
    service.stage.chat.pause();
    let began = Instant::now();
    while service.erase().await.status != 200 {
        assert!(began.elapsed() < PATIENCE, "Redis does not come back");
    }
    // Its journal runs its script once after that.
    let run = scripts_run(service.redis()).await;
    service.stage.chat.resume();
    wait_for_scripts(service.redis(), run + 1).await;
    assert_eq!(service.keys().await, ["user:alice:erased"]);
    gate.open();
    let answer = running.finish().await;
    assert_eq!(answer.start()["memory"], "unavailable");
    assert_eq!(answer.last()["unsaved"], "cleared", "{}", answer.last());
    assert_eq!(service.keys().await, ["user:alice:erased"]);
}

#[tokio::test]
async fn a_cluster_erases_and_exports_1000_sessions() {
    let cluster = Cluster::start().await;
    let start = async |name: &str| {
        Function::builder(name)
            .envs(cluster.env())
            .env("JWT_SECRET", secret())
            .env("LLM_PROVIDER", "echo")
            .start()
            .await
    };
    let (chat, data) = (start("chat-stream").await, start("user-data").await);
    let began = Instant::now();
    while chat
        .invoke(&events::chat(&token("alice"), "luna", "在吗？"))
        .await
        .last()["saved"]
        != true
    {
        assert!(began.elapsed() < PATIENCE, "the cluster does not work");
    }
    let index = "user:{alice}:sessions";
    for number in 0..999 {
        let (score, character) = (number.to_string(), format!("c{number}"));
        let zadd = ["ZADD", index, &score, &character];
        let _: i64 = cluster.command(index, &zadd).await;
        let key = format!("chat:{{alice}}:{character}:messages");
        let user = r#"{"msg_id":"a","role":"user","content":"在吗？"}"#;
        let reply = r#"{"msg_id":"b","role":"assistant","content":"在的"}"#;
        let push = ["LPUSH", key.as_str(), user, reply];
        let _: i64 = cluster.command(&key, &push).await;
    }
    let event = |method| {
        let event = Event::new(method, "/api/v1/chat/data");
        event.token(&token("alice")).http()
    };
    let exported = data.invoke(&event("GET")).await.text();
    let last = exported.lines().last().expect("a line");
    let last: serde_json::Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(last["type"], "end");
    assert_eq!(
        (&last["sessions"], &last["messages"]),
        (&json!(1000), &json!(2000))
    );
    let answer = data.invoke(&event("DELETE")).await;
    assert_eq!(
        answer.json()["erased"]["sessions"],
        1000,
        "{}",
        answer.text()
    );
    assert_eq!(answer.json()["erased"]["messages"], 2000);
    let mut left: Vec<String> = Vec::new();
    for port in cluster.masters().await {
        left.extend(
            cluster
                .node(port)
                .command::<Vec<String>>(&["KEYS", "*"])
                .await,
        );
    }
    assert_eq!(left, ["user:{alice}:erased"]);
}
