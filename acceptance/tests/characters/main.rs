//! Character cards: the prompts that they give, to the byte, their greetings, and how operators store them.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a test")]

mod greetings;
mod prompt;
mod stored;

use serde_json::{Value, json};
use testkit::answer::Answer;
use testkit::events::Event;
use testkit::runtime::Function;
use testkit::stage::{Stage, StageBuilder};

/// The id of the character of these tests.
const MIRA: &str = "mira";

/// `chat-stream` and the functions around characters, on one Redis.
struct House {
    stage: Stage,
    put: Function,
    character: Function,
    history: Function,
    clear: Function,
}

impl House {
    async fn start() -> Self {
        Self::of(Stage::builder()).await
    }

    async fn of(stage: StageBuilder) -> Self {
        let stage = stage.start().await;
        let start = async |name: &str| stage.function(name).start().await;
        Self {
            put: start("put-character").await,
            character: start("read-character").await,
            history: start("read-history").await,
            clear: start("clear-history").await,
            stage,
        }
    }

    /// Stores Mira as a V3 card with these fields, and returns what was understood.
    async fn put(&self, data: &Value) -> Value {
        self.put_card(&json!({ "spec": "chara_card_v3", "spec_version": "3.0", "data": data }))
            .await
    }

    /// Stores Mira as a card: an object, or a file in base64.
    async fn put_card(&self, card: &Value) -> Value {
        let event = json!({ "action": "put", "character_id": MIRA, "card": card });
        let understood = self.put.invoke_direct(&event).await;
        assert_eq!(understood["character_id"], MIRA, "{understood}");
        understood
    }

    /// Says something to Mira, with more fields of the body.
    async fn say(&self, message: &str, fields: Value) -> Answer {
        let mut body = json!({ "character_id": MIRA, "message": message });
        let more = fields.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(more);
        let event = Event::stream().token(&self.stage.token).json(&body);
        self.stage.chat.invoke(&event.http()).await
    }

    /// Says something to Mira and returns the messages that the upstream received, `role: content`.
    async fn prompt(&self, message: &str) -> Vec<String> {
        self.prompt_with(message, json!({})).await
    }

    async fn prompt_with(&self, message: &str, fields: Value) -> Vec<String> {
        let answer = self.say(message, fields).await;
        assert_eq!(answer.last()["saved"], true, "{}", answer.text());
        self.last_prompt()
    }

    /// Returns the messages that the upstream received last.
    fn last_prompt(&self) -> Vec<String> {
        let requests = self.stage.upstream.requests();
        let messages = requests.last().expect("a request").messages();
        let said = messages.into_iter();
        said.map(|(role, content)| format!("{role}: {content}"))
            .collect()
    }

    /// Returns a request of the user about Mira.
    fn about(&self, event: Event) -> Event {
        event.token(&self.stage.token).query("character_id", MIRA)
    }

    async fn page(&self, limit: &str) -> Value {
        let event = self
            .about(Event::get("/api/v1/chat/history"))
            .query("limit", limit);
        let answer = self.history.invoke(&event.http()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }
}

/// Returns the contents of the messages of a page.
fn contents(page: &Value) -> Vec<&str> {
    let messages = page["messages"].as_array().expect("a list");
    let contents = messages.iter().map(|message| &message["content"]);
    contents.map(|text| text.as_str().expect("text")).collect()
}
