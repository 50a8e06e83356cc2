//! A chat with everything behind it, and how it answers and refuses.

use serde_json::{Value, json};
use testkit::answer::Answer;
use testkit::events::Event;
use testkit::redis::Server;
use testkit::runtime::Function;
use testkit::tokens::{secret, token};
use testkit::upstream::{Script, Upstream};

pub(crate) struct House {
    pub(crate) redis: Server,
    pub(crate) upstream: Upstream,
    pub(crate) chat: Function,
    pub(crate) token: String,
}

impl House {
    pub(crate) async fn start() -> Self {
        let redis = Server::start().await;
        let upstream = Upstream::start(Script::reply(&["好"])).await;
        let chat = Function::builder("chat-stream")
            .env("REDIS_URL", redis.url())
            .env("JWT_SECRET", secret())
            .envs(upstream.env())
            .start()
            .await;
        Self {
            redis,
            upstream,
            chat,
            token: token("alice"),
        }
    }

    /// A request with these bytes as its body, from Alice.
    pub(crate) fn event(&self) -> Event {
        Event::stream()
            .token(&self.token)
            .header("content-type", "application/json")
    }

    pub(crate) async fn assert_answers(&self, event: &Value, message: &str, case: &str) {
        let before = self.upstream.requests().len();
        let answer = self.chat.invoke(event).await;
        assert_eq!(answer.status, 200, "{case}: {}", answer.text());
        assert_eq!(answer.last()["saved"], true, "{case}");
        let requests = self.upstream.requests();
        assert_eq!(requests.len(), before + 1, "{case}");
        let sent = requests[before].messages().pop().expect("a message");
        assert!(
            sent == ("user".to_owned(), message.to_owned()),
            "{case}: {sent:?}"
        );
    }

    pub(crate) async fn assert_refuses(&self, event: &Value, expected: Refusal, case: &str) {
        let before = self.upstream.requests().len();
        let answer = self.chat.invoke(event).await;
        expected.assert_is(&answer, case);
        assert_eq!(self.upstream.requests().len(), before, "{case}");
    }
}

/// Status, title, code, detail.
#[derive(Clone, Copy)]
pub(crate) struct Refusal(
    pub(crate) u16,
    pub(crate) &'static str,
    pub(crate) &'static str,
    pub(crate) &'static str,
);

impl Refusal {
    pub(crate) fn json(detail: &'static str) -> Self {
        Self(400, "Bad Request", "invalid_json", detail)
    }

    pub(crate) fn request(detail: &'static str) -> Self {
        Self(422, "Unprocessable Entity", "invalid_request", detail)
    }

    pub(crate) fn assert_is(self, answer: &Answer, case: &str) {
        let Self(status, title, code, detail) = self;
        assert_eq!(
            (answer.status, answer.json()),
            (
                status,
                json!({ "type": "about:blank", "title": title, "status": status, "detail": detail, "code": code })
            ),
            "{case}"
        );
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{case}"
        );
    }
}
