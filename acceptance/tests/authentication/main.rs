//! Authentication in detail: valid and invalid tokens, the published keys that are used, and when they are fetched.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

mod key_sets;
mod keys;
mod publisher;
mod rotation;
mod tokens;

use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::answer::Answer;
use testkit::events::Event;
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tokens::{KeyPair, Token};
use tokio::time::interval;

const INVALID: &str = "the token is not valid";
const EXPIRED: &str = "the token has expired";
const ALGORITHM: &str = "the token is signed in a way that is not accepted here";

/// The cool-down of a publisher that has failed, and an attempt that was running when it recovered.
const AVAILABLE_AGAIN_WITHIN: Duration = Duration::from_secs(6);

/// A function and a session of Alice in its Redis, which only Alice sees.
struct House {
    session: Function,
    _redis: Server,
}

impl House {
    async fn start(configure: impl FnOnce(FunctionBuilder) -> FunctionBuilder) -> Self {
        let redis = Server::start().await;
        let _: i64 = redis
            .command(&["HSET", "chat:alice:luna:meta", "state", "ACTIVE"])
            .await;
        let function = Function::builder("session-meta").env("REDIS_URL", redis.url());
        Self {
            session: configure(function).start().await,
            _redis: redis,
        }
    }

    async fn with_keys_at(url: String) -> Self {
        Self::start(|function| function.env("JWT_JWKS_URL", url)).await
    }

    async fn answer(&self, token: &str) -> Answer {
        let event = Event::session().query("character_id", "luna").token(token);
        self.session.invoke(&event.http()).await
    }

    async fn assert_lets_in(&self, token: &str, case: &str) {
        let answer = self.answer(token).await;
        assert_eq!(answer.status, 200, "{case}: {}", answer.text());
    }

    /// Brings a token until it is accepted, which a publisher of keys that has recovered makes it within its cool-down.
    async fn let_in_again(&self, token: &str) {
        let asked = Instant::now();
        let mut pace = interval(Duration::from_millis(50));
        while self.answer(token).await.status != 200 {
            assert!(asked.elapsed() < AVAILABLE_AGAIN_WITHIN);
            pace.tick().await;
        }
    }

    async fn assert_refuses(&self, token: &str, detail: &str, case: &str) {
        let answer = self.answer(token).await;
        assert_eq!(answer.status, 401, "{case}: {}", answer.text());
        assert_eq!(answer.json()["detail"], detail, "{case}");
    }
}

fn alice() -> Token {
    Token::new("alice")
}

/// A published key with members changed, or taken away by null.
fn altered(key: &KeyPair, members: &Value) -> Value {
    let mut jwk = key.jwk();
    for (name, value) in members.as_object().expect("an object") {
        match value {
            Value::Null => {
                jwk.as_object_mut().expect("an object").remove(name);
            }
            value => jwk[name] = value.clone(),
        }
    }
    jwk
}
