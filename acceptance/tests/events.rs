//! The sample events: each goes to the real binary that it is for, and the whole answer is the one that
//! `events/expected.json` promises.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use testkit::answer::Answer;
use testkit::redis::Server;
use testkit::runtime::Function;
use testkit::tokens::{Token, secret, token};
use testkit::upstream::{Script, Upstream};

/// Whose events they are, in tokens and in the claims of authorizers.
const CALLER: &str = "8f14e45f-ceea-467f-a3d1-0c6f3b7d21ab";
const FUNCTIONS: [&str; 3] = ["chat-stream", "clear-history", "session-meta"];

/// A row of the table: `function`, the one that the event is for; `given`, what the answer depends on besides the event;
/// `status`; `headers`, all of them; `body` of a buffered answer or `events` of a stream; and
/// `detail_behind_an_authorizer`, because where tokens are the gateway's business a function cannot tell a bad one from none.
type Expected = Map<String, Value>;

/// Who checks the tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Checks {
    Function,
    Authorizer,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../events")
}

fn read(name: &str) -> String {
    let path = directory().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{error}: {}", path.display()))
}

fn expectations() -> BTreeMap<String, Expected> {
    serde_json::from_str(&read("expected.json")).expect("a table of answers")
}

fn files_below(directory: &Path, prefix: &str) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("UTF-8");
        if entry.path().is_dir() {
            files.extend(files_below(&entry.path(), &format!("{prefix}{name}/")));
        } else {
            files.push(format!("{prefix}{name}"));
        }
    }
    files
}

#[test]
fn every_event_has_an_expected_answer_and_every_expected_answer_an_event() {
    let mut files = files_below(&directory(), "");
    files.retain(|name| name != "expected.json");
    files.sort();
    let expected: Vec<String> = expectations().into_keys().collect();
    assert_eq!(files, expected);
    for name in FUNCTIONS {
        for gateway in ["rest", "http"] {
            let of_it = |file: &&String| {
                file.starts_with(name) && file.ends_with(&format!("{gateway}.json"))
            };
            assert!(files.iter().any(|file| of_it(&file)), "{name} {gateway}");
        }
    }
}

#[test]
fn every_code_of_the_contract_has_an_event() {
    let mut codes: Vec<String> = expectations()
        .values()
        .filter_map(|expected| expected.get("body")?["code"].as_str().map(str::to_owned))
        .collect();
    codes.sort();
    codes.dedup();
    let contract = [
        "character_not_found",
        "internal",
        "invalid_json",
        "invalid_request",
        "memory_unavailable",
        "method_not_allowed",
        "payload_too_large",
        "session_not_found",
        "unauthorized",
        "unsupported_media_type",
    ];
    assert_eq!(codes, contract);
}

#[test]
fn no_event_holds_a_token() {
    for name in expectations().into_keys() {
        let event: Value = serde_json::from_str(&read(&name)).expect("JSON");
        let headers = event["headers"].as_object().expect("headers");
        let authorization = headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("authorization"))
            .map(|(_, value)| value.as_str().expect("text"));
        let harmless = [
            None,
            Some("Bearer ${TOKEN}"),
            Some("Bearer ${EXPIRED_TOKEN}"),
            Some("Bearer not-a-token"),
        ];
        assert!(harmless.contains(&authorization), "{name}");
    }
}

#[tokio::test]
async fn every_event_is_answered_as_expected_by_functions_that_check_tokens() {
    replay(Checks::Function).await;
}

/// As by hand: `AUTH_TRUST_AUTHORIZER=true`, and the events go in as they are.
#[tokio::test]
async fn every_event_is_answered_as_expected_by_functions_behind_an_authorizer() {
    replay(Checks::Authorizer).await;
}

async fn replay(checks: Checks) {
    let upstream = Upstream::start(Script::reply(&["在看呀，", "和你一起。"])).await;
    let redis = Server::start().await;
    let mut gone = Server::start().await;
    gone.kill().await;
    let mut functions = BTreeMap::new();
    for name in FUNCTIONS {
        functions.insert((name, false), start(name, &redis, &upstream, checks).await);
        functions.insert((name, true), start(name, &gone, &upstream, checks).await);
    }
    for (file, expected) in expectations() {
        let _: () = redis.command(&["FLUSHALL"]).await;
        let given = expected.get("given").and_then(Value::as_str);
        arrange(&redis, given).await;
        let name = expected["function"].as_str().expect("a name");
        let function = &functions[&(name, given == Some("no redis"))];
        let answer = function.invoke(&event(&file, checks)).await;
        assert_eq!(answer.error, None, "{file}\n{}", function.output());
        assert_eq!(seen(&answer), promised(&expected, checks), "{file}");
    }
}

async fn start(name: &str, redis: &Server, upstream: &Upstream, checks: Checks) -> Function {
    let function = Function::builder(name).env("REDIS_URL", redis.url());
    let function = match checks {
        Checks::Function => function.env("JWT_SECRET", secret()),
        Checks::Authorizer => function.env("AUTH_TRUST_AUTHORIZER", "true"),
    };
    match name {
        "chat-stream" => function.envs(upstream.env()),
        _ => function,
    }
    .start()
    .await
}

async fn arrange(redis: &Server, given: Option<&str>) {
    match given {
        None | Some("no redis") => {}
        Some("damaged character") => {
            let _: () = redis
                .command(&[
                    "SET",
                    "character:damaged",
                    r#"{"name":"Mei","system_prompt":7}"#,
                ])
                .await;
        }
        Some("session") => {
            let (messages, meta) = (
                format!("chat:{CALLER}:luna:messages"),
                format!("chat:{CALLER}:luna:meta"),
            );
            let user = r#"{"msg_id":"m1","role":"user","content":"你好","timestamp":1732431200,"token_count":5,"metadata":null}"#;
            let reply = r#"{"msg_id":"m2","role":"assistant","content":"你好呀！","timestamp":1732431203,"token_count":12,"metadata":null}"#;
            let _: i64 = redis.command(&["LPUSH", &messages, user, reply]).await;
            let fields = "state ACTIVE last_active_at 1732431203 message_count 2 session_start 1732431200 total_tokens 17";
            let mut hset = vec!["HSET", &meta];
            hset.extend(fields.split(' '));
            let _: i64 = redis.command(&hset).await;
            for key in [&messages, &meta] {
                let _: i64 = redis.command(&["EXPIRE", key, "86400"]).await;
            }
        }
        Some(other) => panic!("nobody knows how to arrange {other:?}"),
    }
}

fn event(file: &str, checks: Checks) -> Value {
    let mut text = read(file);
    if checks == Checks::Function {
        let expired = Token::new(CALLER).expires_in(-1).hs256(secret());
        text = text
            .replace("${TOKEN}", &token(CALLER))
            .replace("${EXPIRED_TOKEN}", &expired);
    }
    serde_json::from_str(&text).expect("JSON")
}

fn promised(expected: &Expected, checks: Checks) -> Value {
    let part = |name: &str| expected.get(name).cloned().unwrap_or_default();
    let mut body = part("body");
    if let (Checks::Authorizer, Some(detail)) =
        (checks, expected.get("detail_behind_an_authorizer"))
    {
        body["detail"] = detail.clone();
    }
    json!({
        "status": part("status"),
        "headers": part("headers"),
        "body": body,
        "events": part("events"),
    })
}

/// The whole answer in the words of the table: what differs from run to run is checked here and replaced.
fn seen(answer: &Answer) -> Value {
    let headers: Map<String, Value> = answer
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), json!(value.to_str().expect("text"))))
        .collect();
    assert_eq!(headers.len(), answer.headers.len(), "a header is repeated");
    let streams = answer.header("content-type") == Some("text/event-stream; charset=utf-8");
    let (body, events) = if streams {
        (Value::Null, events_of(answer))
    } else {
        (body_of(answer), Value::Null)
    };
    json!({ "status": answer.status, "headers": headers, "body": body, "events": events })
}

fn body_of(answer: &Answer) -> Value {
    let mut body = answer.json();
    if let Some(seconds) = body.get_mut("expires_in") {
        let left = seconds.as_i64().expect("a number");
        assert!((86_300..=86_400).contains(&left), "{left}");
        *seconds = json!("<seconds>");
    }
    body
}

fn events_of(answer: &Answer) -> Value {
    let turn = answer.start()["turn_id"].clone();
    let mut events = Vec::new();
    for event in answer.events() {
        let mut data = event.data;
        if let Some(id) = data.get_mut("turn_id") {
            assert_eq!(*id, turn, "one answer, one turn");
            *id = id_of("<turn>", id);
        }
        if let Some(id) = data.get_mut("msg_id") {
            *id = id_of("<message>", id);
        }
        events.push(json!({ "event": event.event, "data": data }));
    }
    Value::Array(events)
}

/// `name`, if `id` is a UUID in its usual form.
fn id_of(name: &str, id: &Value) -> Value {
    let text = id.as_str().expect("text");
    let is_uuid = text.len() == 36
        && text.char_indices().all(|(at, character)| match at {
            8 | 13 | 18 | 23 => character == '-',
            _ => character.is_ascii_hexdigit() && !character.is_ascii_uppercase(),
        });
    assert!(is_uuid, "{text}");
    json!(name)
}
