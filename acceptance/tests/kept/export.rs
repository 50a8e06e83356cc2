//! Exporting a user's data: all that is kept, a line for each thing.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::events::Event;
use testkit::proxy::Proxy;
use testkit::stage::Stage;

use super::Service;

async fn export(service: &Service) -> Vec<Value> {
    let event = Event::get("/api/v1/chat/data").token(&service.stage.token);
    let answer = service.data.invoke(&event.rest()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let text = answer.text();
    assert!(text.ends_with('\n'));
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect()
}

#[tokio::test]
async fn everything_that_is_kept_is_in_it() {
    let service = Service::of(Stage::builder().env("LIMIT_TURNS_PER_MINUTE", "9")).await;
    assert_eq!(
        export(&service).await,
        [json!({ "type": "end", "sessions": 0, "messages": 0, "turns": 0 })]
    );
    let [kai, _] = service.say_to("kai", "你\n好").await;
    let key = format!("chat:{}:kai:messages", Stage::USER);
    let _: i64 = service.redis().command(&["LPUSH", &key, "not JSON"]).await;
    service.say("在吗？").await;
    let lines = export(&service).await;
    let of =
        |kind: &str| -> Vec<&Value> { lines.iter().filter(|line| line["type"] == kind).collect() };
    let characters: Vec<&Value> = of("session")
        .iter()
        .map(|line| &line["character_id"])
        .collect();
    assert_eq!(characters, ["luna", "kai"]);
    assert_eq!(of("session")[0]["stored_messages"], 2);
    let messages = of("message");
    assert_eq!(messages.len(), 4);
    assert_eq!(messages[2]["msg_id"], kai.as_str());
    assert_eq!(messages[2]["content"], "你\n好");
    assert_eq!(of("unreadable")[0]["stored"], "not JSON");
    let turns = of("turn");
    assert_eq!(turns.len(), 2);
    for turn in turns {
        assert_eq!(
            (&turn["state"], &turn["text"]),
            (&json!("ended"), &json!("好"))
        );
    }
    let limit = json!({ "type": "limit", "window": "minute", "used": 2 });
    // A minute may end between the turns.
    assert!(*of("limit")[0] == limit || of("limit")[0]["used"] == 1);
    let end = json!({ "type": "end", "sessions": 2, "messages": 5, "turns": 2 });
    assert_eq!(lines.last(), Some(&end));
}

#[tokio::test]
async fn an_export_that_cannot_go_on_says_so() {
    let mut service = Service::start().await;
    let index = format!("user:{}:sessions", Stage::USER);
    for number in 0..100 {
        let character = format!("c{number}");
        let _: i64 = service
            .redis()
            .command(&["ZADD", &index, &number.to_string(), &character])
            .await;
        let key = format!("chat:{}:{character}:messages", Stage::USER);
        let message = r#"{"msg_id":"a","role":"user","content":"x"}"#;
        let _: i64 = service.redis().command(&["LPUSH", &key, message]).await;
    }
    // It takes 5 s in all.
    let proxy = Proxy::start(service.redis().port()).await;
    proxy.slow(1, Duration::from_millis(50));
    let data = service
        .stage
        .function("user-data")
        .env("REDIS_URL", proxy.url())
        .start()
        .await;
    let event = Event::get("/api/v1/chat/data").token(&service.stage.token);
    let running = data.invoke_streaming(&event.http()).await;
    assert_eq!(running.status(), 200);
    service.stage.redis.kill().await;
    let text = running.finish().await.text();
    let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    let detail = "the data cannot be read or erased at the moment";
    let failed = json!({ "type": "error", "code": "memory_unavailable", "detail": detail });
    assert_eq!(last, failed);
}
