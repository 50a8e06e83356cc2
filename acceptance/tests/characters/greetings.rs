//! Greetings: what the character says before the user's first message.

use serde_json::{Value, json};
use testkit::events::Event;
use testkit::stage::Stage;

use super::{House, MIRA, contents};

fn greeter() -> Value {
    json!({
        "name": "Mira",
        "system_prompt": "Be brief.",
        "first_mes": "Hello, {{user}}. {{random:One,Two,Three,Four,Five}}.",
        "alternate_greetings": ["", "Good evening."],
    })
}

#[tokio::test]
async fn a_greeting_is_shown_answered_and_stored_once_before_the_first_turn() {
    let house = House::start().await;
    house.put(&greeter()).await;
    let event = house
        .about(Event::get("/api/v1/chat/character"))
        .query("user_name", "Ann");
    let shown = house.character.invoke(&event.rest()).await.json();
    assert_eq!(shown["name"], "Mira");
    let greetings = shown["greetings"].as_array().expect("a list");
    assert_eq!(greetings[1..], [json!(""), json!("Good evening.")]);
    let greeting = greetings[0].as_str().expect("text");
    assert!(greeting.starts_with("Hello, Ann. "), "{greeting}");

    let page = house.page("50").await;
    assert_eq!(page["messages"], json!([]));
    assert_eq!(page["greeting"], greeting.replace("Ann", "User"));

    let fields = json!({ "greeting": 0, "user_name": "Ann" });
    let prompt = house.prompt_with("Hi", fields.clone()).await;
    let expected = [
        "system: Be brief.",
        &format!("assistant: {greeting}"),
        "user: Hi",
    ];
    assert_eq!(prompt, expected);
    // Later turns have it from the history, whatever the client sends.
    for fields in [json!({}), fields, json!({ "greeting": 2 })] {
        let prompt = house.prompt_with("And?", fields).await;
        assert_eq!(prompt[..3], expected);
    }
    let page = house.page("50").await;
    assert!(page.get("greeting").is_none());
    let stored = contents(&page);
    assert_eq!(stored[..3], [greeting, "Hi", "好"]);
    assert_eq!(stored.len(), 1 + 2 * 4);
    assert_eq!(page["messages"][0]["metadata"], json!({ "greeting": 0 }));
}

#[tokio::test]
async fn a_greeting_belongs_to_the_first_turn() {
    let house = House::of(Stage::builder().env("MEMORY_MAX_MESSAGES", "6")).await;
    house.put(&greeter()).await;
    let first = house.say("1", json!({ "greeting": 2 })).await;
    house.say("2", json!({})).await;
    // A page has all of it, and the next page begins behind it.
    let page = house.page("2").await;
    assert_eq!(contents(&page), ["2", "好"]);
    assert_eq!(contents(&house.page("4").await), ["2", "好"]);
    assert_eq!(
        contents(&house.page("5").await),
        ["Good evening.", "1", "好", "2", "好"]
    );

    // A regenerated first turn keeps it.
    let id = first.last()["user_msg_id"].clone();
    let again = house.say("1b", json!({ "replaces": id })).await;
    assert_eq!(again.last()["saved"], true);
    assert_eq!(
        house.last_prompt(),
        ["system: Be brief.", "assistant: Good evening.", "user: 1b"]
    );
    assert_eq!(
        contents(&house.page("50").await),
        ["Good evening.", "1b", "好"]
    );

    // A first turn that had none may get one.
    let event = house.about(Event::clear()).http();
    assert_eq!(house.clear.invoke(&event).await.status, 200);
    let first = house.say("1", json!({})).await;
    let id = first.last()["user_msg_id"].clone();
    let fields = json!({ "replaces": id, "greeting": 2 });
    assert_eq!(house.say("1c", fields).await.last()["saved"], true);
    assert_eq!(
        contents(&house.page("50").await),
        ["Good evening.", "1c", "好"]
    );

    // Trimming takes it together with the first turn.
    house.say("2", json!({})).await;
    house.say("3", json!({})).await;
    assert_eq!(contents(&house.page("50").await), ["2", "好", "3", "好"]);

    // What takes the place of the oldest message that is left does not begin the session.
    let id = house.page("50").await["messages"][0]["msg_id"].clone();
    let fields = json!({ "replaces": id, "greeting": 2 });
    assert_eq!(house.say("2b", fields).await.last()["saved"], true);
    assert_eq!(house.last_prompt(), ["system: Be brief.", "user: 2b"]);
    assert_eq!(contents(&house.page("50").await), ["2b", "好"]);
}

#[tokio::test]
async fn a_session_that_has_room_for_one_turn_stores_no_greeting() {
    let house = House::of(Stage::builder().env("MEMORY_MAX_MESSAGES", "2")).await;
    house.put(&greeter()).await;
    let answer = house.say("1", json!({ "greeting": 2 })).await;
    assert_eq!(answer.last()["saved"], true);
    assert_eq!(contents(&house.page("50").await), ["1", "好"]);
}

#[tokio::test]
async fn a_rewind_to_the_first_message_takes_the_greeting_with_it() {
    let house = House::start().await;
    house.put(&greeter()).await;
    let first = house.say("1", json!({ "greeting": 2 })).await;
    let rewind = house
        .about(Event::clear())
        .query("from", first.last()["user_msg_id"].as_str().expect("an id"));
    assert_eq!(house.clear.invoke(&rewind.http()).await.status, 200);
    let page = house.page("50").await;
    assert_eq!(page["messages"], json!([]));
    assert!(page["greeting"].is_string());
}

#[tokio::test]
async fn concurrent_first_turns_store_one_greeting() {
    let house = House::start().await;
    house.put(&greeter()).await;
    let fields = json!({ "greeting": 2 });
    let say = |message| house.say(message, fields.clone());
    let (one, two) = tokio::join!(say("1"), say("2"));
    assert_eq!(
        (&one.last()["saved"], &two.last()["saved"]),
        (&json!(true), &json!(true))
    );
    let page = house.page("50").await;
    let greetings = contents(&page)
        .into_iter()
        .filter(|text| *text == "Good evening.");
    assert_eq!(greetings.count(), 1);
    assert_eq!(contents(&page)[0], "Good evening.");
    assert_eq!(contents(&page).len(), 5);
}

#[tokio::test]
async fn a_greeting_that_the_character_does_not_have_is_refused_by_name() {
    let house = House::start().await;
    house.put(&greeter()).await;
    for (greeting, detail) in [
        (
            json!(1),
            "greeting: must be the number of one of the character's greetings",
        ),
        (
            json!(3),
            "greeting: must be the number of one of the character's greetings",
        ),
        (json!(-1), "greeting: must be a whole number from 0"),
        (json!("0"), "greeting: must be a whole number from 0"),
    ] {
        let answer = house.say("Hi", json!({ "greeting": greeting })).await;
        assert_eq!(answer.status, 422, "{greeting}");
        assert_eq!(answer.json()["code"], "invalid_request");
        assert_eq!(answer.json()["detail"], detail);
    }
    for name in ["", "  ", "a\nb", &"x".repeat(65)] {
        let answer = house.say("Hi", json!({ "user_name": name })).await;
        assert_eq!(answer.status, 422, "{name:?}");
        assert!(
            answer.json()["detail"]
                .as_str()
                .expect("text")
                .starts_with("user_name: ")
        );
    }
    assert_eq!(house.stage.upstream.requests().len(), 0);
    let unknown = house
        .about(Event::get("/api/v1/chat/character"))
        .query("user_name", "");
    assert_eq!(house.character.invoke(&unknown.http()).await.status, 422);
}

#[tokio::test]
async fn requests_with_one_key_and_other_greetings_are_other_requests() {
    let house = House::start().await;
    house.put(&greeter()).await;
    let ask = async |greeting: usize| {
        let body = json!({ "character_id": MIRA, "message": "Hi", "greeting": greeting });
        let event = Event::stream()
            .token(&house.stage.token)
            .header("idempotency-key", "k")
            .json(&body);
        house.stage.chat.invoke(&event.http()).await.status
    };
    assert_eq!(ask(0).await, 200);
    assert_eq!(ask(0).await, 200);
    assert_eq!(ask(2).await, 422);
    assert_eq!(house.stage.upstream.requests().len(), 1);
}

/// How often the character has replied counts for lore. A greeting is no reply, and neither what was sent of the history
/// nor what is still stored matters.
#[tokio::test]
async fn replies_are_counted_without_the_greeting_whatever_is_still_stored() {
    let settings = [("CONTEXT_MAX_MESSAGES", "3"), ("MEMORY_MAX_MESSAGES", "6")];
    let stage = settings
        .into_iter()
        .fold(Stage::builder(), |stage, (name, value)| {
            stage.env(name, value)
        });
    let house = House::of(stage).await;
    let after = |replies: usize| {
        json!({
            "keys": [], "constant": true, "enabled": true, "insertion_order": replies,
            "content": format!("@@activate_only_after {replies}\n{replies} replies"),
        })
    };
    let mut card = greeter();
    let entries: Vec<Value> = (1..10).map(after).collect();
    card["character_book"] = json!({ "extensions": {}, "entries": entries });
    house.put(&card).await;
    for turn in 0..9 {
        let prompt = house
            .prompt_with("Hi", json!({ "greeting": 2 }))
            .await
            .join("\n");
        for replies in 1..10 {
            let is_there = prompt.contains(&format!("{replies} replies"));
            assert_eq!(is_there, replies <= turn, "turn {turn}: {prompt}");
        }
    }
}
