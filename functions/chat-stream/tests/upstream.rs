//! What an upstream may send, and what becomes of it: the real binary behind a stand-in for the platform, a real Redis,
//! and an upstream over real HTTP that misbehaves as it is told.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

#[path = "upstream/broken.rs"]
mod broken;
#[path = "upstream/reply.rs"]
mod reply;
#[path = "upstream/request.rs"]
mod request;
#[path = "upstream/retry.rs"]
mod retry;
#[path = "upstream/silence.rs"]
mod silence;

use serde_json::{Value, json};
use testkit::answer::Answer;
use testkit::events;
use testkit::redis::Server;
use testkit::runtime::Function;
use testkit::tokens::{secret, token};
use testkit::upstream::{Script, Upstream};

/// A function, its memory and its upstream.
struct House {
    redis: Server,
    upstream: Upstream,
    chat: Function,
}

impl House {
    /// The upstream answers the first request by the first script, and so on.
    async fn new(scripts: Vec<Script>) -> Self {
        Self::with(&[], scripts).await
    }

    async fn with(env: &[(&str, &str)], scripts: Vec<Script>) -> Self {
        let redis = Server::start().await;
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

    /// One turn.
    async fn say(&self, message: &str) -> Answer {
        self.say_to("luna", message).await
    }

    async fn say_to(&self, character: &str, message: &str) -> Answer {
        self.chat
            .invoke(&events::chat(&token("alice"), character, message))
            .await
    }

    /// What is remembered, oldest first.
    async fn stored(&self) -> Vec<Value> {
        let elements: Vec<String> = self
            .redis
            .command(&["LRANGE", "chat:alice:luna:messages", "0", "-1"])
            .await;
        elements
            .iter()
            .rev()
            .map(|element| serde_json::from_str(element).expect("JSON"))
            .collect()
    }

    /// One turn that fails with `code` after the user was shown `shown`: what was shown is stored and nothing else,
    /// nothing of it is left open, and the next turn works.
    async fn fails(&self, code: &str, shown: &str) -> Answer {
        let answer = self.say("你在吗？").await;
        assert_failed(&answer, code, shown);
        self.upstream.wait_until_no_streams().await;
        let mut expected = Vec::new();
        if !shown.is_empty() {
            expected.push(("user", "你在吗？", Value::Null));
            expected.push((
                "assistant",
                shown,
                json!({ "finish_reason": "interrupted" }),
            ));
        }
        let stored = self.stored().await;
        assert_eq!(said(&stored), expected);

        let next = self.say("还在吗？").await;
        assert_eq!(next.start()["history_messages"], expected.len());
        assert_eq!(next.reply(), "好");
        assert_eq!(next.last()["saved"], true);
        answer
    }
}

/// Role, content and metadata of each message.
fn said(messages: &[Value]) -> Vec<(&str, &str, Value)> {
    let said = messages.iter().map(|message| {
        (
            message["role"].as_str().expect("a role"),
            message["content"].as_str().expect("text"),
            message["metadata"].clone(),
        )
    });
    said.collect()
}

fn assert_failed(answer: &Answer, code: &str, shown: &str) {
    assert_eq!(answer.status, 200);
    assert_eq!(answer.reply(), shown);
    let last = answer.events().pop().expect("an event");
    assert_eq!(last.event, "error", "{last:?}");
    assert_eq!(
        last.data,
        json!({
            "error": "服务暂时不可用，请稍后重试", "code": code,
            "turn_id": answer.start()["turn_id"], "saved": !shown.is_empty(),
        })
    );
}

/// A turn that came to its end and is stored.
fn assert_done(answer: &Answer, reply: &str) {
    assert_eq!(answer.reply(), reply);
    let last = answer.last();
    assert_eq!(
        (&last["done"], &last["finish_reason"], &last["saved"]),
        (&json!(true), &json!("stop"), &json!(true)),
        "{last}"
    );
}

/// What a well-behaved upstream says.
fn good() -> Script {
    Script::reply(&["好"])
}

/// One attempt that goes wrong, and then a good one.
fn once(broken: Script) -> Vec<Script> {
    vec![broken, good()]
}
