//! Real model servers: the two of llama.cpp, LiteLLM's proxy, and llmock, which judges its clients. The real binary
//! behind a stand-in for the platform, with a real Redis, talks to each server as installed from its package.
//!
//! `make upstreams` installs them and runs these tests. `make test` omits them, because the installation takes minutes.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test"
)]

mod litellm;
mod llama;
mod llmock;
mod model;

use std::time::Duration;

use serde_json::{Value, json};
use testkit::answer::Answer;
use testkit::events;
use testkit::redis::Server;
use testkit::runtime::{Function, Streaming};
use testkit::tokens::{secret, token};

/// The time that a test waits for something that takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A function and its memory, before a model server.
struct Stage {
    redis: Server,
    chat: Function,
}

impl Stage {
    /// Settings replace the usual ones.
    async fn before(base_url: &str, settings: &[(&str, &str)]) -> Self {
        let redis = Server::start().await;
        let mut chat = Function::builder("chat-stream")
            .env("REDIS_URL", redis.url())
            .env("JWT_SECRET", secret())
            .env("LLM_BASE_URL", base_url)
            .env("LLM_API_KEY", "sk-of-a-test")
            .env("LLM_MODEL", "model-of-a-test");
        for (name, value) in settings {
            chat = chat.env(name, *value);
        }
        let chat = chat.start().await;
        Self { redis, chat }
    }

    /// Makes Luna a character with these fields and few instructions.
    async fn character(&self, fields: Value) {
        let mut character = json!({ "name": "Luna", "system_prompt": "你是月亮。" });
        let (all, more) = (character.as_object_mut(), fields.as_object());
        all.expect("an object")
            .extend(more.expect("an object").clone());
        let () = self
            .redis
            .command(&["SET", "character:luna", &character.to_string()])
            .await;
    }

    async fn say(&self, message: &str) -> Answer {
        self.say_streaming(message).await.finish().await
    }

    async fn say_streaming(&self, message: &str) -> Streaming {
        let event = events::chat(&token("alice"), "luna", message);
        self.chat.invoke_streaming(&event).await
    }

    /// Returns the messages of Alice and Luna, oldest first, as (role, content, metadata).
    async fn stored(&self) -> Vec<(String, String, Value)> {
        let elements: Vec<String> = self
            .redis
            .command(&["LRANGE", "chat:alice:luna:messages", "0", "-1"])
            .await;
        let messages = elements.iter().rev().map(|element| {
            let message: Value = serde_json::from_str(element).expect("JSON");
            let text = |name: &str| message[name].as_str().expect("text").to_owned();
            (text("role"), text("content"), message["metadata"].clone())
        });
        messages.collect()
    }
}

/// Asserts that a turn came to its end and was stored.
fn assert_done(answer: &Answer, reply: &str, finish_reason: &str) {
    assert_eq!(answer.reply(), reply, "{}", answer.text());
    let last = answer.last();
    assert_eq!(
        (&last["done"], &last["finish_reason"], &last["saved"]),
        (&json!(true), &json!(finish_reason), &json!(true)),
        "{last}"
    );
}

/// Asserts that a turn failed after the user was shown `shown`.
fn assert_failed(answer: &Answer, code: &str, shown: &str) {
    assert_eq!(answer.reply(), shown, "{}", answer.text());
    let last = answer.events().pop().expect("an event");
    assert_eq!(
        (last.event.as_str(), &last.data["code"], &last.data["saved"]),
        ("error", &json!(code), &json!(!shown.is_empty())),
        "{}",
        answer.text()
    );
}

/// Waits until this many messages are stored, and returns them.
async fn wait_for_stored(stage: &Stage, count: usize) -> Vec<(String, String, Value)> {
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            let stored = stage.stored().await;
            if stored.len() >= count {
                return stored;
            }
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("the turns are stored")
}
