//! Ids with any text, and the literal keys that they result in.

use std::collections::BTreeSet;

use serde_json::json;
use testkit::events::{self, Event};
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tokens::{secret, token};
use testkit::upstream::{Script, Upstream};

/// An id, and what a key has in its place.
fn ids() -> Vec<(String, String)> {
    let mut ids: Vec<(String, String)> = [
        ("user_123", "user_123"),
        ("auth0|x@y.z-1", "auth0|x@y.z-1"),
        ("a:b", "a%3Ab"),
        ("{x}", "%7Bx%7D"),
        ("}{", "%7D%7B"),
        ("100%", "100%25"),
        ("%3A", "%253A"),
        (" a b ", "%20a%20b%20"),
        ("灵", "%E7%81%B5"),
        ("🙂", "%F0%9F%99%82"),
        (
            "~/\\*?[a]+&=#,;'\"",
            "%7E%2F%5C%2A%3F%5Ba%5D%2B%26%3D%23%2C%3B%27%22",
        ),
        ("\r\n\0", "%0D%0A%00"),
    ]
    .map(|(id, key)| (id.to_owned(), key.to_owned()))
    .into();
    ids.push(("é".repeat(64), "%C3%A9".repeat(64)));
    ids
}

struct Service {
    redis: Server,
    upstream: Upstream,
    layout: &'static str,
}

impl Service {
    async fn start(layout: &'static str) -> Self {
        Self {
            redis: Server::start().await,
            upstream: Upstream::start(Script::reply(&["好"])).await,
            layout,
        }
    }

    fn function(&self, name: &str) -> FunctionBuilder {
        Function::builder(name)
            .env("REDIS_URL", self.redis.url())
            .env("REDIS_KEY_LAYOUT", self.layout)
            .env("JWT_SECRET", secret())
            .envs(self.upstream.env())
    }

    async fn character(&self, key: &str) {
        let character = json!({ "name": "灵", "system_prompt": "你是灵。" }).to_string();
        let _: () = self
            .redis
            .command(&["SET", &format!("character:{key}"), &character])
            .await;
    }

    /// All keys but those of characters.
    async fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.redis.command(&["KEYS", "*"]).await;
        keys.retain(|key| !key.starts_with("character:"));
        keys.sort();
        keys
    }
}

#[tokio::test]
async fn any_text_is_an_id_and_its_keys_are_those_of_the_contract() {
    for layout in ["plain", "tagged"] {
        let service = Service::start(layout).await;
        let chat = service.function("chat-stream").start().await;
        let session = service.function("session-meta").start().await;
        let clear = service.function("clear-history").start().await;
        for (id, key) in ids() {
            service.character(&key).await;
            let user = match layout {
                "tagged" => format!("{{{key}}}"),
                _ => key.clone(),
            };
            let prefix = format!("chat:{user}:{key}");
            let token = token(&id);
            let body = json!({ "character_id": id, "message": "晚上好呀" });
            let event = Event::stream().token(&token).json(&body);
            let turn = chat
                .invoke(&event.header("idempotency-key", "\"a:{b}%\"").http())
                .await;
            assert_eq!(turn.last()["saved"], true, "{id:?}");
            let record = turn.last()["turn_id"].as_str().expect("text").to_owned();
            let record = format!("{prefix}:turn:{record}");
            let remembered = [
                record.clone(),
                format!("{record}:text"),
                format!("user:{user}:key:a%3A%7Bb%7D%25"),
                format!("user:{user}:turns"),
            ];
            let mut expected = vec![format!("{prefix}:messages"), format!("{prefix}:meta")];
            expected.extend_from_slice(&remembered);
            expected.push(format!("user:{user}:sessions"));
            expected.sort();
            assert_eq!(service.keys().await, expected, "{id:?}");

            let shown = session.invoke(&events::session(&token, &id)).await.json();
            assert_eq!(
                (&shown["character_id"], &shown["message_count"]),
                (&json!(id), &json!(2))
            );
            let ended = session
                .invoke(&events::set_state(&token, &id, "ENDED"))
                .await
                .json();
            assert_eq!(
                (&ended["character_id"], &ended["state"]),
                (&json!(id), &json!("ENDED"))
            );

            assert_eq!(
                clear.invoke(&events::clear(&token, &id)).await.status,
                200,
                "{id:?}"
            );
            // What is remembered of the turn expires by itself, and is not returned any more.
            let mut expected = vec![format!("{prefix}:cleared")];
            expected.extend_from_slice(&remembered);
            assert_eq!(service.keys().await, expected, "{id:?}");
            let _: () = service.redis.command(&["FLUSHALL"]).await;
        }
    }
}

#[tokio::test]
async fn no_two_pairs_of_ids_share_a_session() {
    for layout in ["plain", "tagged"] {
        let service = Service::start(layout).await;
        let chat = service.function("chat-stream").start().await;
        let pairs = [
            ("a:b", "c"),
            ("a", "b:c"),
            ("a%3Ab", "c"),
            ("{a}", "c"),
            ("a", "c"),
            ("a:c:messages", "c"),
            ("A", "c"),
            ("a ", "c"),
        ];
        for key in ["c", "b%3Ac"] {
            service.character(key).await;
        }
        let mut users = BTreeSet::new();
        for (n, (user, character)) in pairs.into_iter().enumerate() {
            let turn = chat
                .invoke(&events::chat(&token(user), character, "晚上好呀"))
                .await;
            assert_eq!(turn.start()["memory"], "empty", "{user} {character}");
            users.insert(user);
            // The two of the session, and two of the turn: its record and its text. And two of the user: the lists of
            // sessions and of turns.
            let keys = service.keys().await.len();
            assert_eq!(keys, 4 * (n + 1) + 2 * users.len(), "{user} {character}");
        }
    }
}
