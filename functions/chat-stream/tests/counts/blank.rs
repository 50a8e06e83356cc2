//! Messages that show nothing.

use serde_json::json;
use testkit::upstream::Script;

use crate::{House, element};

const BLANKS: [&str; 6] = [
    "\n\n",
    "\u{200B}",
    "\u{FEFF}\u{2060}",
    "\u{3000}\u{A0}",
    "\u{3164}",
    "\u{AD}\u{FE0F}",
];

#[tokio::test]
async fn a_blank_reply_is_not_stored_and_the_client_is_told_why() {
    let mut scripts: Vec<Script> = BLANKS.map(|blank| Script::reply(&[blank])).into();
    scripts.push(Script::deltas(&[]).finish("stop").usage(1, 0).done());
    scripts.push(Script::reply(&["好"]));
    let house = House::new(scripts).await;
    for _ in 0..=BLANKS.len() {
        let last = house.say("你在吗？").await.last();
        assert_eq!(
            (&last["done"], &last["saved"], &last["unsaved"]),
            (&json!(true), &json!(false), &json!("empty")),
            "{last}"
        );
        assert!(house.stored().await.is_empty());
    }
    let last = house.say("你在吗？").await.last();
    assert_eq!(last["saved"], true);
    assert_eq!(last.get("unsaved"), None);
}

#[tokio::test]
async fn why_a_turn_is_not_stored_is_told() {
    let gate = testkit::upstream::Gate::new();
    let mut house = House::new(vec![
        Script::reply(&["好", "。"]).gated(gate.clone()),
        Script::reply(&["好"]),
    ])
    .await;
    let event = testkit::events::chat(&testkit::tokens::token("alice"), "luna", "你好");
    let mut streaming = house.chat.invoke_streaming(&event).await;
    assert_eq!(streaming.next_event().await.expect("start").event, "start");
    let clear = testkit::runtime::Function::builder("clear-history")
        .env("REDIS_URL", house.redis.url())
        .env("JWT_SECRET", testkit::tokens::secret())
        .start()
        .await;
    let cleared = testkit::events::clear(&testkit::tokens::token("alice"), "luna");
    assert_eq!(clear.invoke(&cleared).await.status, 200);
    gate.open();
    assert_eq!(streaming.finish().await.last()["unsaved"], "cleared");

    house.redis.kill().await;
    assert_eq!(house.say("你好").await.last()["unsaved"], "memory");
}

#[tokio::test]
async fn a_blank_message_that_is_stored_already_is_skipped_with_its_turn() {
    let house = House::new(vec![Script::reply(&["好"])]).await;
    let counted = json!(1);
    for blank in BLANKS {
        house
            .store(&[
                element("user", "q", &counted),
                element("assistant", blank, &counted),
            ])
            .await;
    }
    house
        .store(&[
            element("user", "早", &counted),
            element("assistant", "早呀", &counted),
        ])
        .await;
    let answer = house.say("你好").await;
    assert_eq!(answer.start()["history_messages"], 2);
    assert_eq!(
        house.sent_history(),
        [
            ("user".to_owned(), "早".to_owned()),
            ("assistant".to_owned(), "早呀".to_owned())
        ]
    );
}

#[tokio::test]
async fn a_message_that_shows_nothing_is_refused() {
    let house = House::new(vec![Script::reply(&["好"])]).await;
    for blank in BLANKS {
        let answer = house.say(blank).await;
        assert_eq!(answer.status, 422, "{blank:?}");
        assert_eq!(answer.json()["detail"], "message: must not be empty");
    }
    assert!(house.upstream.requests().is_empty());
}
