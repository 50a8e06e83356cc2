//! What is counted, what is stored of it, and what of a stored history is sent on: the real binary behind a stand-in
//! for the platform, a real Redis in which others have written, and an upstream over real HTTP.
#![expect(clippy::expect_used, reason = "a test")]

#[path = "counts/blank.rs"]
mod blank;
#[path = "counts/character.rs"]
mod character;
#[path = "counts/foreign.rs"]
mod foreign;
#[path = "counts/usage.rs"]
mod usage;

use serde_json::{Value, json};
use testkit::answer::Answer;
use testkit::events;
use testkit::redis::Server;
use testkit::runtime::Function;
use testkit::tokens::{secret, token};
use testkit::upstream::{Script, Upstream};

const MESSAGES: &str = "chat:alice:luna:messages";

/// A function, its memory and its upstream.
struct House {
    redis: Server,
    upstream: Upstream,
    chat: Function,
}

impl House {
    /// The upstream answers the first request by the first script, and so on; the last script serves all that follow.
    async fn new(scripts: Vec<Script>) -> Self {
        Self::with(&[], scripts).await
    }

    async fn with(env: &[(&str, &str)], scripts: Vec<Script>) -> Self {
        let redis = Server::start().await;
        // A plain character: its prompt has as much of the history as fits.
        let plain = r#"{"name":"Luna","system_prompt":"p"}"#;
        let _: String = redis.command(&["SET", "character:luna", plain]).await;
        let upstream = Upstream::start_sequence(scripts).await;
        let mut chat = Function::builder("chat-stream")
            .env("REDIS_URL", redis.url())
            .env("JWT_SECRET", secret())
            .envs(upstream.env());
        for (name, value) in env {
            chat = chat.env(name, *value);
        }
        let chat = chat.start().await;
        Self {
            redis,
            upstream,
            chat,
        }
    }

    /// One turn of Alice.
    async fn say(&self, message: &str) -> Answer {
        self.say_to("luna", message).await
    }

    async fn say_to(&self, character: &str, message: &str) -> Answer {
        self.chat
            .invoke(&events::chat(&token("alice"), character, message))
            .await
    }

    /// Stores elements as another writer would, the oldest first.
    async fn store(&self, elements: &[impl AsRef<str>]) {
        for element in elements {
            let _: i64 = self
                .redis
                .command(&["LPUSH", MESSAGES, element.as_ref()])
                .await;
        }
    }

    /// What is remembered, oldest first.
    async fn stored(&self) -> Vec<Value> {
        let elements: Vec<String> = self.redis.command(&["LRANGE", MESSAGES, "0", "-1"]).await;
        elements
            .iter()
            .rev()
            .map(|element| serde_json::from_str(element).expect("JSON"))
            .collect()
    }

    /// The remembered part of the last prompt.
    fn sent_history(&self) -> Vec<(String, String)> {
        let mut messages = self
            .upstream
            .requests()
            .last()
            .expect("a request")
            .messages();
        messages.pop();
        messages.split_off(1)
    }
}

/// A message as the contract has it.
fn element(role: &str, content: &str, token_count: &Value) -> String {
    json!({
        "msg_id": "m", "role": role, "content": content, "timestamp": 1_732_430_000,
        "token_count": token_count, "metadata": null,
    })
    .to_string()
}
