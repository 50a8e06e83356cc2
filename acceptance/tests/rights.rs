//! Each function needs no more rights in Redis than `template.yaml` gives its cache user.

use serde_json::{Value, json};
use testkit::answer::Answer;
use testkit::events::{self, Event};
use testkit::redis::Server;
use testkit::rights::access_string;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tokens::{secret, token};
use testkit::upstream::{Gate, Script, Step, Upstream};

const TEMPLATE: &str = include_str!("../../template.yaml");
const PASSWORD: &str = "password-of-a-test";
/// A turn whose process has died.
const DEAD: &str = "01936d2a-7c3e-7b51-9f04-5a1c8e2d6b90";

/// Returns a function with a route that logs in as a cache user of the template.
async fn function(name: &str, user: &str, redis: &Server) -> FunctionBuilder {
    without_route(name, user, redis)
        .await
        .env("JWT_SECRET", secret())
}

/// Returns a function that logs in as a cache user of the template, and has no settings of callers.
async fn without_route(name: &str, user: &str, redis: &Server) -> FunctionBuilder {
    let rights = access_string(TEMPLATE, user);
    let password = format!(">{PASSWORD}");
    let mut command = vec!["ACL", "SETUSER", user, "reset", &password];
    command.extend(rights.split_whitespace());
    redis.command::<String>(&command).await;
    Function::builder(name)
        .env("REDIS_URL", redis.url())
        .env("REDIS_USERNAME", user)
        .env("REDIS_PASSWORD", PASSWORD)
}

/// Stops a function, and asserts that Redis refused it nothing.
fn assert_refused_nothing(function: Function) {
    let output = function.stop();
    for refused in ["no_permission", "NOPERM", "Redis failed"] {
        assert!(!output.contains(refused), "{output}");
    }
}

#[tokio::test]
async fn turns_are_stored_recorded_repeated_resumed_and_stopped() {
    let redis = Server::start().await;
    let gate = Gate::new();
    let hanging = Script::deltas(&["在"]).then(Step::Wait(gate.clone()));
    let scripts = vec![Script::reply(&["好", "呀"]), hanging];
    let upstream = Upstream::start_sequence(scripts).await;
    let chat = function("chat-stream", "Turns", &redis).await;
    let chat = chat.envs(upstream.env()).concurrency(2).start().await;
    let stopper = function("stop-stream", "Stop", &redis).await.start().await;
    let token = token("alice");
    let ask = |character: &str| {
        let body = json!({ "character_id": character, "message": "晚上好呀" });
        let event = Event::stream().token(&token).json(&body);
        event.header("idempotency-key", character).http()
    };
    let of_turn = |event: Event, turn: &Value| {
        let event = event.token(&token).query("character_id", "luna");
        event.query("turn_id", turn.as_str().expect("text")).http()
    };

    let first = chat.invoke(&ask("luna")).await;
    assert_eq!(first.start()["resumable"], true);
    assert_eq!(first.last()["saved"], true);
    assert_eq!(chat.invoke(&ask("luna")).await.last(), first.last());
    let resumed = of_turn(Event::resume(), &first.last()["turn_id"]);
    assert_eq!(chat.invoke(&resumed).await.last(), first.last());
    // A turn that is refused gives its key back.
    let refused = chat.invoke(&ask("nobody")).await;
    refused.assert_problem(404, "character_not_found");
    let dead = format!("chat:alice:luna:turn:{DEAD}");
    let _: i64 = redis.command(&["HSET", &dead, "lease", "1"]).await;
    let lost = chat.invoke(&of_turn(Event::resume(), &json!(DEAD))).await;
    assert_eq!(lost.last()["code"], "turn_lost");

    let mut running = chat
        .invoke_streaming(&events::chat(&token, "luna", "你在吗？"))
        .await;
    for _ in 0..2 {
        running.next_event().await.expect("start, then a delta");
    }
    let newest = Event::stop().token(&token).query("character_id", "luna");
    assert_eq!(stopper.invoke(&newest.http()).await.status, 202);
    assert_eq!(running.finish().await.last()["finish_reason"], "stopped");
    gate.open();
    assert_refused_nothing(chat);
    assert_refused_nothing(stopper);
}

/// The rights of a user of an ACL that sessions alone need.
const ON_SESSIONS: &str = "on ~chat:* ~user:* ~character:* -@all +ping +eval +evalsha +time +get +lrange +lindex +llen \
                           +lpush +ltrim +rpop +hmget +hset +expire +ttl +zadd +zrevrange +zremrangebyscore";

/// Sends a message with a key as a user with these rights. Returns the answer, and the function.
async fn say_with(rights: &str, settings: &[(&str, &str)]) -> (Answer, Function) {
    let redis = Server::start().await;
    let password = format!(">{PASSWORD}");
    let mut command = vec!["ACL", "SETUSER", "sessions", "reset", &password];
    command.extend(rights.split_whitespace());
    redis.command::<String>(&command).await;
    let upstream = Upstream::start(Script::reply(&["好", "呀"])).await;
    let mut chat = Function::builder("chat-stream")
        .env("REDIS_URL", redis.url())
        .env("REDIS_USERNAME", "sessions")
        .env("REDIS_PASSWORD", PASSWORD)
        .env("JWT_SECRET", secret())
        .envs(upstream.env());
    for (name, value) in settings {
        chat = chat.env(name, *value);
    }
    let chat = chat.start().await;
    let body = json!({ "character_id": "luna", "message": "晚上好呀" });
    let event = Event::stream().token(&token("alice")).json(&body);
    let answer = chat
        .invoke(&event.header("idempotency-key", "a-key").http())
        .await;
    (answer, chat)
}

#[tokio::test]
async fn without_records_turns_need_only_the_rights_on_sessions() {
    let (answer, chat) = say_with(ON_SESSIONS, &[("TURN_TTL_SECONDS", "0")]).await;
    assert_eq!(answer.start()["resumable"], false);
    assert_eq!(answer.last()["saved"], true);
    assert_refused_nothing(chat);
}

#[tokio::test]
async fn a_right_that_only_records_need_is_not_missed_by_sessions() {
    let records = "+set +del +hget +hdel +exists +strlen +getrange +setrange +zrem";
    let records: Vec<&str> = records.split(' ').collect();
    // Without all of them, and without each.
    let mut cases = vec![ON_SESSIONS.to_owned()];
    for missing in &records {
        let others: Vec<&str> = records
            .iter()
            .filter(|right| *right != missing)
            .copied()
            .collect();
        cases.push(format!("{ON_SESSIONS} {}", others.join(" ")));
    }
    for rights in cases {
        let (answer, _chat) = say_with(&rights, &[]).await;
        assert_eq!(answer.last()["saved"], true, "{rights}");
    }
}

#[tokio::test]
async fn sessions_are_read_changed_and_cleared() {
    let redis = Server::start().await;
    let token = token("alice");
    let meta = ["HSET", "chat:alice:luna:meta", "state", "ACTIVE"];
    let _: i64 = redis.command(&meta).await;
    let session = function("session-meta", "Session", &redis).await;
    let session = session.start().await;
    for event in [
        events::session(&token, "luna"),
        events::set_state(&token, "luna", "ENDED"),
    ] {
        assert_eq!(session.invoke(&event).await.status, 200);
    }
    let clear = function("clear-history", "Clear", &redis).await;
    let clear = clear.start().await;
    let answer = clear.invoke(&events::clear(&token, "luna")).await;
    assert_eq!(answer.status, 200);
    assert_refused_nothing(session);
    assert_refused_nothing(clear);
}

#[tokio::test]
async fn characters_are_stored_listed_shown_greet_and_are_deleted() {
    let redis = Server::start().await;
    let shelf = without_route("put-character", "Shelf", &redis).await;
    let shelf = shelf.start().await;
    let put = json!({ "action": "put", "character_id": "mira", "card": {
        "spec": "chara_card_v3",
        "spec_version": "3.0",
        "data": { "name": "Mira", "first_mes": "水刚烧开。" },
    }});
    assert_eq!(shelf.invoke_direct(&put).await["name"], "Mira");
    let of_mira = |action: &str| json!({ "action": action, "character_id": "mira" });
    let stored = shelf.invoke_direct(&of_mira("get")).await;
    assert_eq!(stored["is_sample"], false, "{stored}");
    let list = json!({ "action": "list" });
    let listed = shelf.invoke_direct(&list).await;
    assert_eq!(listed["characters"], json!(["mira"]), "{listed}");

    let token = token("alice");
    let read = |path: &str| {
        let event = Event::get(path).token(&token);
        event.query("character_id", "mira").http()
    };
    let character = function("read-character", "Card", &redis).await;
    let character = character.start().await;
    let answer = character.invoke(&read("/api/v1/chat/character")).await;
    assert_eq!(answer.json()["greetings"], json!(["水刚烧开。"]));
    let history = function("read-history", "History", &redis).await;
    let history = history.start().await;
    let messages = async || history.invoke(&read("/api/v1/chat/history")).await.json();
    assert_eq!(messages().await["greeting"], "水刚烧开。");

    let upstream = Upstream::start(Script::reply(&["好", "呀"])).await;
    let chat = function("chat-stream", "Turns", &redis).await;
    let chat = chat.envs(upstream.env()).start().await;
    let body = json!({ "character_id": "mira", "message": "晚上好呀", "greeting": 0 });
    let said = chat
        .invoke(&Event::stream().token(&token).json(&body).http())
        .await;
    assert_eq!(said.last()["saved"], true);
    let page = messages().await;
    assert_eq!(page["messages"].as_array().map(Vec::len), Some(3), "{page}");

    let deleted = shelf.invoke_direct(&of_mira("delete")).await;
    assert_eq!(deleted["deleted"], true, "{deleted}");
    let listed = shelf.invoke_direct(&list).await;
    assert_eq!(listed["characters"], json!([]), "{listed}");
    for function in [shelf, character, history, chat] {
        assert_refused_nothing(function);
    }
}
