//! All functions, which answer the events.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use testkit::answer::{Answer, Problem};
use testkit::binary;
use testkit::redis::Server;
use testkit::runtime::Function;
use testkit::tokens::{Token, secret, token};
use testkit::upstream::{Script, Upstream};

use crate::promised::{assert_promised, headers, printed};
use crate::record::{record, record_direct};
use crate::samples::{Given, Refusal, direct, function_of, is_direct, read, refusals, routes};
use crate::{CALLER, Checks, GATEWAYS, KEY, TURN};

/// The limit of `chat-stream`, which only one refusal reaches.
const TOKENS_PER_DAY: &str = "1000000";

/// All functions, each with a Redis and with none.
pub(super) struct Service {
    checks: Checks,
    redis: Server,
    _upstream: Upstream,
    functions: BTreeMap<String, Function>,
    without_redis: BTreeMap<String, Function>,
}

impl Service {
    pub(super) async fn start(checks: Checks) -> Self {
        let upstream = Upstream::start(Script::reply(&["在看呀，", "和你一起。"])).await;
        let redis = Server::start().await;
        let mut gone = Server::start().await;
        gone.kill().await;
        let start = async |name: &str, redis: &Server| {
            let function = Function::builder(name)
                .env("REDIS_URL", redis.url())
                .envs(upstream.env());
            let function = match name {
                "chat-stream" => function.env("LIMIT_TOKENS_PER_DAY", TOKENS_PER_DAY),
                _ => function,
            };
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

    /// Sends every event, checks the answers, and returns a record of each.
    pub(super) async fn replay(&self) -> Vec<Value> {
        let mut records = Vec::new();
        for route in routes() {
            for gateway in GATEWAYS {
                let name = format!("{route}.{gateway}");
                let sample = format!("{name}.json");
                let answer = self.answer(&route, &sample).await;
                assert_promised(&route, &printed(&answer));
                records.push(record(&name, &sample, &read(&sample), &answer));
            }
        }
        for name in direct() {
            let sample = format!("{name}.json");
            let answer = self.answer_directly(&name, &sample).await;
            assert_promised(&name, &answer);
            records.push(record_direct(&name, &sample, &answer));
        }
        for refusal in refusals() {
            let (name, base) = (&refusal.name, &refusal.base);
            let record = if is_direct(base) {
                record_direct(name, base, &self.refuse_directly(&refusal).await)
            } else {
                record(name, base, &refusal.event(), &self.refuse(&refusal).await)
            };
            records.push(record);
        }
        records
    }

    /// Returns the answer to a sample for the function without a route. The character of the samples is stored, unless
    /// the sample does that itself.
    async fn answer_directly(&self, name: &str, sample: &str) -> String {
        const PUT: &str = "put-character.put";
        let _: () = self.redis.command(&["FLUSHALL"]).await;
        let function = &self.functions[function_of(sample)];
        if name != PUT {
            function.invoke_text(&read(&format!("{PUT}.json"))).await;
        }
        function.invoke_text(&read(sample)).await
    }

    /// Returns the refusal of the function without a route: a problem document alone.
    async fn refuse_directly(&self, refusal: &Refusal) -> String {
        self.prepare(refusal).await;
        let function = self.function_for(refusal);
        let answer = function.invoke_text(&refusal.event()).await;
        let document: Value = serde_json::from_str(&answer).expect("JSON");
        let Problem {
            status,
            code,
            detail,
        } = refusal.problem(self.checks);
        let expected = json!([status, code, detail]);
        let found = json!([document["status"], document["code"], document["detail"]]);
        assert_eq!(found, expected, "{}", refusal.name);
        answer
    }

    /// Returns the answer to a sample. What the request is about is stored: a session, a turn that has ended, or a turn
    /// that runs. For a new message nothing is.
    async fn answer(&self, route: &str, sample: &str) -> Answer {
        let _: () = self.redis.command(&["FLUSHALL"]).await;
        match route {
            "chat-stream.post"
            | "chat-stream.post.with-key"
            | "chat-stream.post.greeting"
            | "chat-stream.post.ai-sdk" => {}
            "user-data.get" | "user-data.delete" => {
                self.store_session().await;
                self.store_turn().await;
            }
            "chat-stream.get" => self.store_turn().await,
            "stop-stream" => {
                // A lease until the year 2100.
                let record = format!("chat:{CALLER}:luna:turn:{TURN}");
                let run = ["HSET", &record, "lease", "4102444800000", "mark", ""];
                let _: i64 = self.redis.command(&run).await;
            }
            "read-character" => {
                let put = read("put-character.put.json");
                self.functions["put-character"].invoke_text(&put).await;
            }
            _ => self.store_session().await,
        }
        let function = &self.functions[function_of(sample)];
        self.invoke(function, read(sample)).await
    }

    /// Stores what a refusal depends on.
    async fn prepare(&self, refusal: &Refusal) {
        let _: () = self.redis.command(&["FLUSHALL"]).await;
        match refusal.given {
            Given::NothingStored | Given::NoRedis => {}
            Given::DamagedCharacter => {
                let damaged = r#"{"name":"Mei","system_prompt":7}"#;
                let set = ["SET", "character:damaged", damaged];
                let _: () = self.redis.command(&set).await;
            }
            Given::StoredTurn => self.store_turn().await,
            Given::UsedLimit => {
                let (seconds, _): (u64, u64) = self.redis.command(&["TIME"]).await;
                let used = format!("{} {TOKENS_PER_DAY}", seconds / 86_400);
                let key = format!("user:{CALLER}:limit:day");
                let _: () = self.redis.command(&["SET", &key, &used]).await;
            }
            Given::UsedKey => {
                let (key, fingerprint) = (format!("user:{CALLER}:key:{KEY}"), "0".repeat(32));
                let set = ["SET", &key, &format!("{TURN}:{fingerprint}")];
                let _: () = self.redis.command(&set).await;
            }
        }
    }

    fn function_for(&self, refusal: &Refusal) -> &Function {
        let functions = match refusal.given {
            Given::NoRedis => &self.without_redis,
            _ => &self.functions,
        };
        &functions[function_of(&refusal.base)]
    }

    async fn refuse(&self, refusal: &Refusal) -> Answer {
        self.prepare(refusal).await;
        let function = self.function_for(refusal);
        let answer = self.invoke(function, refusal.event()).await;
        let problem = refusal.problem(self.checks);
        assert_eq!(answer.problem(), problem, "{}", refusal.name);
        let mut found = headers(&answer);
        if refusal.given == Given::UsedLimit {
            let seconds = found.insert("retry-after".into(), "<seconds>".into());
            let seconds: u64 = seconds.expect("set").parse().expect("a number");
            assert!((1..=86_400).contains(&seconds), "{seconds}");
        }
        assert_eq!(found, refusal.headers(), "{}", refusal.name);
        answer
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
        let (index, entry) = (format!("user:{CALLER}:turns"), format!("{TURN}  luna"));
        let zadd = ["ZADD", &index, "1732431200000000", &entry];
        let _: i64 = self.redis.command(&zadd).await;
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
        let index = format!("user:{CALLER}:sessions");
        let zadd = ["ZADD", &index, "1732431203000000", "luna"];
        let _: i64 = self.redis.command(&zadd).await;
    }
}
