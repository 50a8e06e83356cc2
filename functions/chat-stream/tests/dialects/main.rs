//! The dialects that models speak, and the ways to reach them: the real binary behind a stand-in for the platform, a
//! real Redis, and an upstream over real HTTP.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

mod refused;
mod shapes;
mod thought;
mod way;

use serde_json::{Value, json};
use testkit::answer::Answer;
use testkit::events;
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tokens::{secret, token};
use testkit::upstream::{Script, Step, Upstream, chunk};

/// A function, its memory and its upstream.
struct Stage {
    redis: Server,
    upstream: Upstream,
    chat: Function,
}

impl Stage {
    /// The upstream answers the first request by the first script, and so on.
    async fn new(scripts: Vec<Script>) -> Self {
        Self::with(&[], scripts).await
    }

    async fn with(env: &[(&str, &str)], scripts: Vec<Script>) -> Self {
        let upstream = Upstream::start_sequence(scripts).await;
        Self::before(upstream, env).await
    }

    async fn before(upstream: Upstream, env: &[(&str, &str)]) -> Self {
        let redis = Server::start().await;
        let mut builder: FunctionBuilder = Function::builder("chat-stream")
            .env("REDIS_URL", redis.url())
            .env("JWT_SECRET", secret())
            .envs(upstream.env());
        for (name, value) in env {
            builder = builder.env(name, *value);
        }
        let chat = builder.start().await;
        Self {
            redis,
            upstream,
            chat,
        }
    }

    async fn say(&self, message: &str) -> Answer {
        self.say_to("luna", message).await
    }

    async fn say_to(&self, character: &str, message: &str) -> Answer {
        self.chat
            .invoke(&events::chat(&token("alice"), character, message))
            .await
    }

    async fn character(&self, id: &str, character: &Value) {
        let () = self
            .redis
            .command(&["SET", &format!("character:{id}"), &character.to_string()])
            .await;
    }

    /// What Alice and Luna said, oldest first.
    async fn stored(&self) -> Vec<String> {
        let elements: Vec<String> = self
            .redis
            .command(&["LRANGE", "chat:alice:luna:messages", "0", "-1"])
            .await;
        let contents = elements.iter().rev().map(|element| {
            let message: Value = serde_json::from_str(element).expect("JSON");
            message["content"].as_str().expect("text").to_owned()
        });
        contents.collect()
    }

    /// One turn whose reply is `reply`, which is stored and nothing else of it.
    async fn replies(&self, reply: &str, case: &str) -> Answer {
        let before = self.stored().await.len();
        let answer = self.say("你在吗？").await;
        assert_eq!(answer.reply(), reply, "{case}: {}", answer.text());
        assert_eq!(answer.last()["saved"], true, "{case}: {}", answer.last());
        assert_eq!(self.stored().await[before..], ["你在吗？", reply], "{case}");
        answer
    }

    /// One turn that fails before anything was shown.
    async fn fails(&self, code: &str, case: &str) {
        let answer = self.say("你在吗？").await;
        let last = answer.events().pop().expect("an event");
        assert_eq!(
            (last.event.as_str(), &last.data["code"], &last.data["saved"]),
            ("error", &json!(code), &json!(false)),
            "{case}: {}",
            answer.text()
        );
        assert_eq!(answer.reply(), "", "{case}");
    }
}

/// A delta of any shape.
fn with_delta(delta: &Value) -> Step {
    Step::Bytes(chunk(
        &json!({ "choices": [{ "index": 0, "delta": delta, "finish_reason": null }] }),
    ))
}

/// A stream of deltas of any shape that ends well.
fn deltas(deltas: &[Value]) -> Script {
    Script::raw(deltas.iter().map(with_delta).collect())
        .finish("stop")
        .done()
}

fn good() -> Script {
    Script::reply(&["好"])
}
