//! What a client shows and changes besides turns: history, sessions, rewinds, regenerated and edited turns, data,
//! limits.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

mod erase;
mod export;
mod history;
mod limits;
mod outage;
mod replace;
mod rewind;
mod sessions;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::answer::Answer;
use testkit::events::Event;
use testkit::redis::Server;
use testkit::runtime::Function;
use testkit::stage::{Stage, StageBuilder};
use testkit::upstream::{Gate, Script, Step};

/// The time that a test waits for something that takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// All functions around one Redis. The upstream of the stage replies "好" unless a test says otherwise.
struct Service {
    stage: Stage,
    clear: Function,
    history: Function,
    session: Function,
    data: Function,
}

impl Service {
    async fn start() -> Self {
        Self::of(Stage::builder()).await
    }

    async fn of(stage: StageBuilder) -> Self {
        let stage = stage.start().await;
        let start = async |name: &str| stage.function(name).start().await;
        Self {
            clear: start("clear-history").await,
            history: start("read-history").await,
            session: start("session-meta").await,
            data: start("user-data").await,
            stage,
        }
    }

    fn redis(&self) -> &Server {
        &self.stage.redis
    }

    /// Says something to the character and expects the turn to be saved. Returns the ids of its two messages.
    async fn say(&self, message: &str) -> [String; 2] {
        self.say_to(Stage::CHARACTER, message).await
    }

    async fn say_to(&self, character: &str, message: &str) -> [String; 2] {
        let answer = self.stage.say_to(character, message).await;
        assert_eq!(answer.last()["saved"], true, "{}", answer.text());
        ["user_msg_id", "msg_id"].map(|field| text(&answer.last()[field]))
    }

    /// Reads a page of the history.
    async fn page(&self, limit: &str, before: Option<&str>) -> Value {
        let answer = self.history.invoke(&self.read(limit, before).http()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Returns a request for a page of the history.
    fn read(&self, limit: &str, before: Option<&str>) -> Event {
        let event = Event::get("/api/v1/chat/history")
            .token(&self.stage.token)
            .query("character_id", Stage::CHARACTER)
            .query("limit", limit);
        match before {
            Some(id) => event.query("before", id),
            None => event,
        }
    }

    /// Returns the contents of all stored messages, oldest first.
    async fn contents(&self) -> Vec<String> {
        fields(&self.page("100", None).await, "content")
    }

    async fn rewind(&self, from: &str) -> Answer {
        let event = Event::clear()
            .token(&self.stage.token)
            .query("character_id", Stage::CHARACTER)
            .query("from", from);
        self.clear.invoke(&event.http()).await
    }

    /// Returns a part of the list of sessions.
    async fn list(&self, limit: &str, before: Option<&str>) -> Value {
        let event = Event::get("/api/v1/chat/sessions")
            .token(&self.stage.token)
            .query("limit", limit);
        let event = match before {
            Some(place) => event.query("before", place),
            None => event,
        };
        let answer = self.session.invoke(&event.rest()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Returns the characters of the newest 100 sessions, the newest first.
    async fn characters(&self) -> Vec<String> {
        let list = self.list("100", None).await;
        let sessions = list["sessions"].as_array().expect("a list");
        sessions
            .iter()
            .map(|session| text(&session["character_id"]))
            .collect()
    }

    async fn erase(&self) -> Answer {
        let event = Event::delete("/api/v1/chat/data").token(&self.stage.token);
        self.data.invoke(&event.http()).await
    }

    /// Returns the names of all keys in Redis, sorted.
    async fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.redis().command(&["KEYS", "*"]).await;
        keys.sort();
        keys
    }
}

/// Returns a request for a turn in the place of a message: with a new text, or with the same.
fn replacing(stage: &Stage, id: &str, message: Option<&str>) -> Event {
    let mut body = json!({ "character_id": Stage::CHARACTER, "replaces": id });
    if let Some(message) = message {
        body["message"] = message.into();
    }
    Event::stream().token(&stage.token).json(&body)
}

/// Returns a reply of two pieces that stops before the second one until the gate is open.
fn gated(gate: &Gate) -> Script {
    Script::deltas(&["好"])
        .then(Step::Wait(gate.clone()))
        .then_delta("的")
        .finish("stop")
        .usage(310, 2)
        .done()
}

/// Returns the number of scripts that Redis has run. One that it was asked for by digest and did not know counts once.
async fn scripts_run(redis: &Server) -> u64 {
    redis.calls("eval").await + redis.calls("evalsha").await
}

/// Waits until Redis has run this many scripts.
async fn wait_for_scripts(redis: &Server, count: u64) {
    let began = Instant::now();
    while scripts_run(redis).await < count {
        assert!(began.elapsed() < PATIENCE, "no {count} scripts");
        tokio::task::yield_now().await;
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

/// Returns a field of each message of a page.
fn fields(page: &Value, field: &str) -> Vec<String> {
    let messages = page["messages"].as_array().expect("a list");
    messages
        .iter()
        .map(|message| text(&message[field]))
        .collect()
}

/// Asserts that messages are whole turns.
fn assert_whole_turns(page: &Value) {
    let roles = fields(page, "role");
    let expected = ["user", "assistant"].into_iter().cycle().take(roles.len());
    assert!(roles.iter().eq(expected), "{roles:?}");
    assert!(roles.len().is_multiple_of(2), "{roles:?}");
}
