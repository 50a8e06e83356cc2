//! Storing characters: put, get, delete and list.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{House, MIRA};

#[tokio::test]
async fn what_is_put_is_read_back_to_the_letter() {
    let house = House::start().await;
    let card = r#"{ "spec":"chara_card_v9", "spec_version":"9.0", "data": {"name":"Mira", "n":1.00e2, "extensions":{"other/app":[1, 2,{}]},
        "future":"\u4f60\/", "name":"Mira"} }"#;
    let event = format!(r#"{{"action":"put","character_id":"{MIRA}","card":{card}}}"#);
    let understood: Value =
        serde_json::from_str(&house.put.invoke_text(&event).await).expect("JSON");
    assert_eq!(understood["spec"], "chara_card_v3");
    assert!(
        understood["warnings"].to_string().contains("newer"),
        "{understood}"
    );
    let event = json!({ "action": "get", "character_id": MIRA }).to_string();
    let read = house.put.invoke_text(&event).await;
    assert!(read.contains(card), "{read}");
    let stored: String = house.stage.redis.command(&["GET", "character:mira"]).await;
    assert_eq!(stored, card);
}

#[tokio::test]
async fn characters_are_listed_and_deleted_and_samples_remain() {
    let house = House::start().await;
    let ask = async |event: Value| house.put.invoke_direct(&event).await;
    let plain = json!({ "name": "x", "system_prompt": "p" });
    for id in ["b", "a", "luna", "c:d"] {
        ask(json!({ "action": "put", "character_id": id, "card": plain })).await;
    }
    let all = ask(json!({ "action": "list" })).await;
    assert_eq!(
        all,
        json!({ "characters": ["a", "b", "c:d", "luna"], "next": null })
    );
    let first = ask(json!({ "action": "list", "limit": 2 })).await;
    assert_eq!(first, json!({ "characters": ["a", "b"], "next": "b" }));
    let rest = ask(json!({ "action": "list", "limit": 3, "after": "b" })).await;
    assert_eq!(rest["characters"], json!(["c:d", "luna"]));
    // What is not an id is left out, and the list does not end there.
    let foreign = "b".repeat(129);
    let added: usize = house
        .stage
        .redis
        .command(&["ZADD", "character::ids", "0", &foreign])
        .await;
    assert_eq!(added, 1);
    let first = ask(json!({ "action": "list", "limit": 3 })).await;
    assert_eq!(first, json!({ "characters": ["a", "b"], "next": foreign }));
    let rest = ask(json!({ "action": "list", "limit": 3, "after": foreign })).await;
    assert_eq!(rest, json!({ "characters": ["c:d", "luna"], "next": null }));
    for deleted in [true, false] {
        let answer = ask(json!({ "action": "delete", "character_id": "luna" })).await;
        assert_eq!(
            answer,
            json!({ "character_id": "luna", "deleted": deleted })
        );
    }
    let sample = ask(json!({ "action": "get", "character_id": "luna" })).await;
    assert_eq!(sample["is_sample"], true);
    assert_eq!(sample["card"]["data"]["name"], "Luna");
    let unknown = ask(json!({ "action": "get", "character_id": "nobody" })).await;
    assert_eq!(unknown["status"], 404);
    assert_eq!(unknown["code"], "character_not_found");
    let all = ask(json!({ "action": "list" })).await;
    assert_eq!(all["characters"], json!(["a", "b", "c:d"]));
}

#[tokio::test]
async fn a_file_that_holds_no_card_is_refused_with_the_reason_and_nothing_is_stored() {
    let house = House::start().await;
    for (card, detail) in [
        (json!({ "x": 1 }), "not a character card"),
        (json!("cmNjfHxhYmM="), "encrypted by RisuAI"),
        (json!("iVBORw0KGgo="), "the PNG"),
        (json!("UEsDBA=="), "the CHARX"),
        (json!("/9j/4A=="), "not a PNG, a CHARX"),
        (json!("e30="), "not a character card"),
        (json!("bnVsbA=="), "card: "),
        // A PNG with {"x":1}.
        (
            json!("iVBORw0KGgoAAAANdEVYdGNoYXJhAHsieCI6MX0AAAAA"),
            "not a character card",
        ),
        (
            json!({ "name": "n", "system_prompt": "p", "top_p": 7 }),
            "top_p",
        ),
    ] {
        let event = json!({ "action": "put", "character_id": MIRA, "card": card });
        let refusal = house.put.invoke_direct(&event).await;
        assert_eq!(refusal["status"], 422, "{refusal}");
        assert_eq!(refusal["code"], "invalid_request");
        let said = refusal["detail"].as_str().expect("text");
        assert!(said.contains(detail), "{said}");
    }
    let keys: Vec<String> = house.stage.redis.command(&["KEYS", "*"]).await;
    assert_eq!(keys, Vec::<String>::new());
}

/// Cards of almost the size that is read, with as many faults as fit into it.
#[tokio::test]
async fn the_answer_to_a_hostile_card_is_small_and_quick_and_the_card_is_stored() {
    let house = House::start().await;
    let constant = json!({ "keys": [], "constant": true, "content": "some text", "enabled": true, "insertion_order": 0 });
    for (what, data) in [
        (
            "constant entries",
            json!({ "name": "Mira", "character_book": { "entries": vec![constant; 10_000] } }),
        ),
        (
            "examples",
            json!({ "name": "Mira", "mes_example": "<START>x".repeat(650_000) }),
        ),
        ("name", json!({ "name": "M".repeat(5_000_000) })),
        (
            "greetings",
            json!({ "name": "M".repeat(1_000_000), "alternate_greetings": vec!["<BOT>"; 20_000] }),
        ),
    ] {
        let began = Instant::now();
        let answer = house.put(&data).await;
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        let length = answer.to_string().len();
        assert!(length < 10_000, "{what}: {length}");
        let stored: usize = house
            .stage
            .redis
            .command(&["STRLEN", "character:mira"])
            .await;
        assert!(stored > data.to_string().len(), "{what}: {stored}");
    }
}

#[tokio::test]
async fn without_redis_it_is_said_and_a_known_character_goes_on() {
    let mut house = House::start().await;
    let known = house
        .put(&json!({ "name": "Mira", "first_mes": "Hello." }))
        .await;
    assert_eq!(known["greetings"], 1);
    let answer = house.say("Hi", json!({ "greeting": 0 })).await;
    assert_eq!(answer.last()["saved"], true);
    house.stage.redis.kill().await;
    for action in ["get", "delete", "list", "put"] {
        let event = json!({ "action": action, "character_id": MIRA, "card": { "name": "x", "system_prompt": "p" } });
        let refusal = house.put.invoke_direct(&event).await;
        assert_eq!(refusal["code"], "memory_unavailable", "{action}: {refusal}");
    }
    // The client says what it showed, so the turn has it, although nobody knows the history.
    let answer = house.say("Hi", json!({ "greeting": 0 })).await;
    assert_eq!(answer.start()["memory"], "unavailable");
    assert_eq!(house.last_prompt()[1..], ["assistant: Hello.", "user: Hi"]);
}
