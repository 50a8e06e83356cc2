//! The sample events: each is sent to the real binary that it is for, and the whole response is compared.
//!
//! `events/` contains one whole event for each route and gateway. `events/refusals.json` is a table of patches (RFC
//! 7396) that turn a sample into an event that is refused, each with the refusal. To try one by hand, use
//! `scripts/event.py`.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use testkit::answer::{Answer, Problem};
use testkit::binary;
use testkit::redis::Server;
use testkit::runtime::Function;
use testkit::tokens::{Token, secret, token};
use testkit::upstream::{Script, Upstream};

/// The user of the samples, in tokens and in the claims of authorizers.
const CALLER: &str = "8f14e45f-ceea-467f-a3d1-0c6f3b7d21ab";
/// The turn of the samples that name one.
const TURN: &str = "01936d2a-7c3e-7b51-9f04-5a1c8e2d6b90";
/// The idempotency key of the samples that have one.
const KEY: &str = "5b0c1d9e-8a41-4c57-b0d3-2f6e7a9c1b84";
const GATEWAYS: [&str; 2] = ["rest", "http"];

/// A row of `refusals.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusal {
    name: String,
    /// The sample that is patched.
    base: String,
    patch: Value,
    /// State on which the refusal depends, besides the event.
    #[serde(default)]
    given: Given,
    status: u16,
    code: String,
    detail: String,
    /// The detail where an authorizer checks the tokens: the function cannot tell a bad token from a missing one.
    detail_behind_an_authorizer: Option<String>,
    /// The headers that only some refusals have.
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
enum Given {
    #[default]
    #[serde(rename = "nothing stored")]
    NothingStored,
    #[serde(rename = "damaged character")]
    DamagedCharacter,
    #[serde(rename = "stored turn")]
    StoredTurn,
    #[serde(rename = "used key")]
    UsedKey,
    #[serde(rename = "no redis")]
    NoRedis,
}

impl Refusal {
    fn event(&self) -> String {
        let mut event: Value = serde_json::from_str(&read(&self.base)).expect("JSON");
        json_patch::merge(&mut event, &self.patch);
        event
            .to_string()
            .replace("${64_KIB}", &"x".repeat(64 * 1024))
    }

    fn problem(&self, checks: Checks) -> Problem {
        let detail = match (checks, &self.detail_behind_an_authorizer) {
            (Checks::Authorizer, Some(detail)) => detail,
            _ => &self.detail,
        };
        Problem {
            status: self.status,
            code: self.code.clone().into(),
            detail: detail.clone().into(),
        }
    }

    /// All headers of the answer.
    fn headers(&self) -> BTreeMap<String, String> {
        let mut headers = self.headers.clone();
        headers.insert("content-type".into(), "application/problem+json".into());
        headers.insert("cache-control".into(), "no-store".into());
        headers
    }
}

/// Returns the names of all files in `events/`.
fn files() -> BTreeSet<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../events");
    std::fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().into_string())
        .map(|name| name.expect("UTF-8"))
        .collect()
}

/// Returns the routes that have a sample. Each is named after its function, and after its method if the function has
/// several; a second sample of a route has one more word.
fn routes() -> BTreeSet<String> {
    let route = |file: &String| {
        let name = file.strip_suffix(".json")?;
        GATEWAYS
            .iter()
            .find_map(|gateway| name.strip_suffix(&format!(".{gateway}")))
            .map(str::to_owned)
    };
    files().iter().filter_map(route).collect()
}

fn samples() -> Vec<String> {
    let of_route = |route: String| GATEWAYS.map(|gateway| format!("{route}.{gateway}.json"));
    routes().into_iter().flat_map(of_route).collect()
}

fn refusals() -> Vec<Refusal> {
    serde_json::from_str(&read("refusals.json")).expect("a table of refusals")
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../events")
        .join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{error}: {}", path.display()))
}

#[test]
fn every_function_has_samples_for_each_gateway_and_every_refusal_patches_one() {
    let routes = routes();
    let sampled: BTreeSet<&str> = routes.iter().map(|route| function_of(route)).collect();
    assert_eq!(Vec::from_iter(sampled), binary::functions());
    let mut expected = BTreeSet::from_iter(samples());
    for refusal in refusals() {
        assert!(expected.contains(&refusal.base), "{}", refusal.name);
    }
    expected.insert("refusals.json".into());
    assert_eq!(files(), expected);
    let names: BTreeSet<String> = refusals().into_iter().map(|refusal| refusal.name).collect();
    assert_eq!(names.len(), refusals().len(), "a name is used twice");
}

#[test]
fn every_code_of_the_contract_has_an_event() {
    let codes: BTreeSet<String> = refusals().into_iter().map(|refusal| refusal.code).collect();
    let contract = [
        "bad_request",
        "character_not_found",
        "idempotency_key_reused",
        "internal",
        "invalid_json",
        "invalid_request",
        "memory_unavailable",
        "method_not_allowed",
        "payload_too_large",
        "session_not_found",
        "turn_not_found",
        "unauthorized",
        "unsupported_media_type",
    ];
    assert_eq!(codes, contract.map(str::to_owned).into());
}

#[test]
fn no_event_holds_a_token() {
    let mut events: Vec<String> = samples().iter().map(|name| read(name)).collect();
    events.extend(refusals().iter().map(Refusal::event));
    for event in events {
        let event: Value = serde_json::from_str(&event).expect("JSON");
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
        assert!(harmless.contains(&authorization), "{event}");
    }
}

#[tokio::test]
async fn every_event_is_answered_as_expected_by_functions_that_check_tokens() {
    Service::start(Checks::Function).await.replay().await;
}

/// Here the events are sent as they are, with placeholders instead of tokens.
#[tokio::test]
async fn every_event_is_answered_as_expected_by_functions_behind_an_authorizer() {
    Service::start(Checks::Authorizer).await.replay().await;
}

/// The part that verifies tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Checks {
    Function,
    Authorizer,
}

/// All functions, each with a Redis and with none.
struct Service {
    checks: Checks,
    redis: Server,
    _upstream: Upstream,
    functions: BTreeMap<String, Function>,
    without_redis: BTreeMap<String, Function>,
}

impl Service {
    async fn start(checks: Checks) -> Self {
        let upstream = Upstream::start(Script::reply(&["在看呀，", "和你一起。"])).await;
        let redis = Server::start().await;
        let mut gone = Server::start().await;
        gone.kill().await;
        let start = async |name: &str, redis: &Server| {
            let function = Function::builder(name)
                .env("REDIS_URL", redis.url())
                .envs(upstream.env());
            let function = match checks {
                Checks::Function => function.env("JWT_SECRET", secret()),
                Checks::Authorizer => function.env("AUTH_TRUST_AUTHORIZER", "true"),
            };
            function.start().await
        };
        let (mut functions, mut without_redis) = (BTreeMap::new(), BTreeMap::new());
        for name in binary::functions() {
            without_redis.insert(name.clone(), start(&name, &gone).await);
            functions.insert(name.clone(), start(&name, &redis).await);
        }
        Self {
            checks,
            redis,
            _upstream: upstream,
            functions,
            without_redis,
        }
    }

    async fn replay(&self) {
        for route in routes() {
            for gateway in GATEWAYS {
                assert_promised(&route, &self.answer(&route, gateway).await);
            }
        }
        for refusal in refusals() {
            self.refuse(&refusal).await;
        }
    }

    /// Returns the whole answer to a sample as text. What the request is about is stored: a session, a turn that has
    /// ended, or a turn that runs. For a new message nothing is.
    async fn answer(&self, route: &str, gateway: &str) -> String {
        let name = format!("{route}.{gateway}.json");
        let _: () = self.redis.command(&["FLUSHALL"]).await;
        match route {
            "chat-stream.post" | "chat-stream.post.with-key" => {}
            "chat-stream.get" => self.store_turn().await,
            "stop-stream" => {
                // A lease until the year 2100.
                let record = format!("chat:{CALLER}:luna:turn:{TURN}");
                let run = ["HSET", &record, "lease", "4102444800000", "mark", ""];
                let _: i64 = self.redis.command(&run).await;
            }
            _ => self.store_session().await,
        }
        let function = &self.functions[function_of(&name)];
        let answer = self.invoke(function, read(&name)).await;
        printed(&answer)
    }

    async fn refuse(&self, refusal: &Refusal) {
        let _: () = self.redis.command(&["FLUSHALL"]).await;
        match refusal.given {
            Given::NothingStored | Given::NoRedis => {}
            Given::DamagedCharacter => {
                let damaged = r#"{"name":"Mei","system_prompt":7}"#;
                let set = ["SET", "character:damaged", damaged];
                let _: () = self.redis.command(&set).await;
            }
            Given::StoredTurn => self.store_turn().await,
            Given::UsedKey => {
                let (key, fingerprint) = (format!("user:{CALLER}:key:{KEY}"), "0".repeat(32));
                let set = ["SET", &key, &format!("{TURN}:{fingerprint}")];
                let _: () = self.redis.command(&set).await;
            }
        }
        let functions = match refusal.given {
            Given::NoRedis => &self.without_redis,
            _ => &self.functions,
        };
        let function = &functions[function_of(&refusal.base)];
        let answer = self.invoke(function, refusal.event()).await;
        let problem = refusal.problem(self.checks);
        assert_eq!(answer.problem(), problem, "{}", refusal.name);
        assert_eq!(headers(&answer), refusal.headers(), "{}", refusal.name);
    }

    async fn invoke(&self, function: &Function, mut event: String) -> Answer {
        if self.checks == Checks::Function {
            let expired = Token::new(CALLER).expires_in(-1).hs256(secret());
            event = event
                .replace("${TOKEN}", &token(CALLER))
                .replace("${EXPIRED_TOKEN}", &expired);
        }
        let event = serde_json::from_str(&event).expect("JSON");
        let answer = function.invoke(&event).await;
        assert_eq!(answer.error, None, "{}", function.output());
        answer
    }

    /// Stores the record of a turn that has ended.
    async fn store_turn(&self) {
        let record = format!("chat:{CALLER}:luna:turn:{TURN}");
        let reply = "在看呀，和你一起。";
        let end = format!("saved {} done {TURN} {TURN} stop 310 2", reply.len());
        let hset = [
            "HSET",
            &record,
            "mark",
            "",
            "start",
            "empty 0 true",
            "end",
            &end,
        ];
        let _: i64 = self.redis.command(&hset).await;
        let text = format!("{record}:text");
        let set = ["SET", &text, reply];
        let _: () = self.redis.command(&set).await;
    }

    async fn store_session(&self) {
        let (messages, meta) = (
            format!("chat:{CALLER}:luna:messages"),
            format!("chat:{CALLER}:luna:meta"),
        );
        let user = r#"{"msg_id":"m1","role":"user","content":"你好","timestamp":1732431200,"token_count":5,"metadata":null}"#;
        let reply = r#"{"msg_id":"m2","role":"assistant","content":"你好呀！","timestamp":1732431203,"token_count":12,"metadata":null}"#;
        let push = ["LPUSH", &messages, user, reply];
        let _: i64 = self.redis.command(&push).await;
        let fields = "state ACTIVE last_active_at 1732431203 message_count 2 session_start 1732431200 total_tokens 17";
        let mut hset = vec!["HSET", &meta];
        hset.extend(fields.split(' '));
        let _: i64 = self.redis.command(&hset).await;
        for key in [&messages, &meta] {
            let _: i64 = self.redis.command(&["EXPIRE", key, "86400"]).await;
        }
    }
}

/// Asserts that this is the answer to the route's sample, which is the same behind each gateway.
fn assert_promised(route: &str, answer: &str) {
    insta::allow_duplicates! {
        match route {
            "chat-stream.post" | "chat-stream.post.with-key" => insta::assert_snapshot!(answer, @r#"
            200
            cache-control: no-cache, no-transform
            content-type: text/event-stream; charset=utf-8
            x-accel-buffering: no

            id: 0
            event: start
            data: {"turn_id":"<turn>","memory":"empty","history_messages":0,"resumable":true}

            id: 12
            event: message
            data: {"content":"在看呀，","done":false}

            id: 27
            event: message
            data: {"content":"和你一起。","done":false}

            id: done
            event: message
            data: {"content":"","done":true,"turn_id":"<turn>","msg_id":"<message>","user_msg_id":"<user message>","finish_reason":"stop","saved":true,"usage":{"prompt_tokens":310,"completion_tokens":2}}
            "#),
            // The sample has seen the first 12 bytes of the text.
            "chat-stream.get" => insta::assert_snapshot!(answer, @r#"
            200
            cache-control: no-cache, no-transform
            content-type: text/event-stream; charset=utf-8
            x-accel-buffering: no

            id: 27
            event: message
            data: {"content":"和你一起。","done":false}

            id: done
            event: message
            data: {"content":"","done":true,"turn_id":"<turn>","msg_id":"<turn>","user_msg_id":"<turn>","finish_reason":"stop","saved":true,"usage":{"prompt_tokens":310,"completion_tokens":2}}
            "#),
            "stop-stream" => insta::assert_snapshot!(answer, @r#"
            202
            cache-control: no-store
            content-type: application/json

            {"turn_id":"<turn>","state":"stopping"}
            "#),
            "clear-history" => insta::assert_snapshot!(answer, @r#"
            200
            cache-control: no-store
            content-type: application/json

            {"message":"历史已清空"}
            "#),
            "session-meta.get" => insta::assert_snapshot!(answer, @r#"
            200
            cache-control: no-store
            content-type: application/json

            {"character_id":"luna","state":"ACTIVE","last_active_at":1732431203,"message_count":2,"session_start":1732431200,"total_tokens":17,"stored_messages":2,"expires_in":<seconds>}
            "#),
            "session-meta.patch" => insta::assert_snapshot!(answer, @r#"
            200
            cache-control: no-store
            content-type: application/json

            {"character_id":"luna","state":"INACTIVE","last_active_at":1732431203,"message_count":2,"session_start":1732431200,"total_tokens":17,"stored_messages":2,"expires_in":<seconds>}
            "#),
            other => panic!("no answer is promised for {other}"),
        }
    }
}

/// Returns the function that a sample is for, by the sample's name.
fn function_of(sample: &str) -> &str {
    sample.split('.').next().unwrap_or_default()
}

fn headers(answer: &Answer) -> BTreeMap<String, String> {
    let headers: BTreeMap<String, String> = answer
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()))
        .collect();
    assert_eq!(headers.len(), answer.headers.len(), "a header is repeated");
    headers
}

/// Returns status, headers and body as text. What differs between runs is checked and replaced.
fn printed(answer: &Answer) -> String {
    let mut body = answer.text();
    if answer.streamed {
        let turn = uuid(&answer.last()["turn_id"]);
        body = body.replace(&turn, "<turn>");
        for (field, name) in [("msg_id", "<message>"), ("user_msg_id", "<user message>")] {
            body = body.replace(&uuid(&answer.last()[field]), name);
        }
    } else if answer.json()["turn_id"] == TURN {
        body = body.replace(TURN, "<turn>");
    } else if let Some(seconds) = answer.json()["expires_in"].as_i64() {
        assert!((86_300..=86_400).contains(&seconds), "{seconds}");
        body = body.replace(
            &format!(r#""expires_in":{seconds}"#),
            r#""expires_in":<seconds>"#,
        );
    }
    let headers: String = headers(answer)
        .iter()
        .map(|(name, value)| format!("{name}: {value}\n"))
        .collect();
    format!("{}\n{headers}\n{body}", answer.status)
}

/// Returns the text of an id, which is a UUID in its usual form.
fn uuid(id: &Value) -> String {
    let text = id.as_str().expect("text");
    let is_uuid = text.len() == 36
        && text.char_indices().all(|(at, character)| match at {
            8 | 13 | 18 | 23 => character == '-',
            _ => character.is_ascii_hexdigit() && !character.is_ascii_uppercase(),
        });
    assert!(is_uuid, "{text}");
    text.to_owned()
}
