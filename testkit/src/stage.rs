//! A conversation with all its parts: `chat-stream`, a Redis, an upstream, and a user.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::answer::{Answer, Problem};
use crate::events::{self, Event};
use crate::redis::Server;
use crate::runtime::{Function, FunctionBuilder, Streaming};
use crate::tokens::{secret, token};
use crate::upstream::{Script, Upstream};

/// The time that memory may take to return after an outage.
const MEMORY_BACK_WITHIN: Duration = Duration::from_secs(10);

/// Prepares a [`Stage`].
pub struct StageBuilder {
    scripts: Vec<Script>,
    env: Vec<(String, String)>,
    deadline: Option<Duration>,
}

impl StageBuilder {
    /// Sets the reply that the upstream gives to every request.
    #[must_use]
    pub fn upstream(self, reply: &str) -> Self {
        self.upstream_scripts(vec![Script::reply(&[reply])])
    }

    /// Sets the upstream's answers: the first to the first request, and so on; the last to all further ones.
    #[must_use]
    pub fn upstream_scripts(mut self, scripts: Vec<Script>) -> Self {
        self.scripts = scripts;
        self
    }

    /// Sets an environment variable of every function.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets how long the platform lets an invocation run.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Starts Redis, the upstream and `chat-stream`.
    ///
    /// # Panics
    /// If one of them does not start.
    pub async fn start(self) -> Stage {
        let redis = Server::start().await;
        self.start_with(redis).await
    }

    /// Starts the upstream and `chat-stream` in front of this Redis, which may be down.
    ///
    /// # Panics
    /// If one of them does not start.
    pub async fn start_with(self, redis: Server) -> Stage {
        let upstream = Upstream::start_sequence(self.scripts).await;
        let mut chat = function(&redis, &upstream, &self.env, "chat-stream");
        if let Some(deadline) = self.deadline {
            chat = chat.deadline(deadline);
        }
        Stage {
            chat: chat.start().await,
            redis,
            upstream,
            token: token(Stage::USER),
            env: self.env,
        }
    }
}

/// A running `chat-stream` with a Redis and an upstream of its own, and the token of a user who talks to a character.
///
/// # Example
/// ```no_run
/// # use testkit::stage::Stage;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let mut stage = Stage::builder().upstream("在的").start().await;
/// assert_eq!(stage.say("你在吗？").await.last()["saved"], true);
/// stage.redis.kill().await;
/// let answer = stage.say("你在吗？").await;
/// assert_eq!((answer.reply().as_str(), &answer.last()["saved"]), ("在的", &false.into()));
/// # }
/// ```
pub struct Stage {
    /// The Redis behind the functions.
    pub redis: Server,
    /// The upstream behind `chat-stream`.
    pub upstream: Upstream,
    /// The function.
    pub chat: Function,
    /// The bearer token of [`Stage::USER`].
    pub token: String,
    env: Vec<(String, String)>,
}

impl Stage {
    /// The user who talks.
    pub const USER: &str = "alice";
    /// The character to whom that user talks.
    pub const CHARACTER: &str = "luna";

    /// Prepares a stage whose upstream replies "好".
    #[must_use]
    pub fn builder() -> StageBuilder {
        StageBuilder {
            scripts: vec![Script::reply(&["好"])],
            env: Vec::new(),
            deadline: None,
        }
    }

    /// Prepares another function on the same Redis.
    #[must_use]
    pub fn function(&self, name: &str) -> FunctionBuilder {
        function(&self.redis, &self.upstream, &self.env, name)
    }

    /// Sends a message to the character and returns the whole answer.
    pub async fn say(&self, message: &str) -> Answer {
        self.say_to(Self::CHARACTER, message).await
    }

    /// Sends a message to any character and returns the whole answer.
    pub async fn say_to(&self, character: &str, message: &str) -> Answer {
        let event = events::chat(&self.token, character, message);
        self.chat.invoke(&event).await
    }

    /// Sends a message to the character and returns the answer once it begins.
    pub async fn say_streaming(&self, message: &str) -> Streaming {
        let event = events::chat(&self.token, Self::CHARACTER, message);
        self.chat.invoke_streaming(&event).await
    }

    /// Returns a `POST` by the user whose body is declared as JSON and still missing.
    #[must_use]
    pub fn post(&self) -> Event {
        Event::stream()
            .token(&self.token)
            .header("content-type", "application/json")
    }

    /// Asserts that an event is answered, that the turn is saved, and that the upstream was asked once, with this
    /// message last.
    ///
    /// # Panics
    /// If one of them is not so.
    pub async fn assert_answers(&self, event: &Value, message: &str, case: &str) {
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

    /// Asserts that an event is refused with this problem and that the upstream was not asked.
    ///
    /// # Panics
    /// If one of them is not so.
    pub async fn assert_refuses(&self, event: &Value, problem: &Problem, case: &str) {
        let before = self.upstream.requests().len();
        let answer = self.chat.invoke(event).await;
        assert_eq!(answer.problem(), *problem, "{case}");
        assert_eq!(self.upstream.requests().len(), before, "{case}");
    }

    /// Sends messages until one is answered with memory, and returns the `start` event of that answer. Every answer
    /// until then must have this reply.
    ///
    /// # Panics
    /// If an answer has another reply, or memory does not come back within 10 s.
    pub async fn say_until_memory_is_back(&self, reply: &str) -> Value {
        let started = Instant::now();
        loop {
            let answer = self.say("你还在吗").await;
            assert_eq!(answer.reply(), reply);
            if answer.start()["memory"] != "unavailable" {
                return answer.start();
            }
            assert!(
                started.elapsed() < MEMORY_BACK_WITHIN,
                "memory did not come back"
            );
        }
    }
}

fn function(
    redis: &Server,
    upstream: &Upstream,
    env: &[(String, String)],
    name: &str,
) -> FunctionBuilder {
    Function::builder(name)
        .env("REDIS_URL", redis.url())
        .env("JWT_SECRET", secret())
        .envs(upstream.env())
        .envs(env.iter().cloned())
}
