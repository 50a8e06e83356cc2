//! Characters whose stored form cannot be used.

use serde_json::{Value, json};
use testkit::upstream::Script;

use crate::House;

async fn house(character: &str) -> House {
    let house = House::new(vec![Script::reply(&["好"])]).await;
    let _: () = house
        .redis
        .command(&["SET", "character:odd", character])
        .await;
    house
}

fn character(setting: &str, value: Value) -> String {
    json!({ "name": "n", "system_prompt": "p", setting: value }).to_string()
}

#[tokio::test]
async fn a_key_of_another_type_is_a_defect_of_the_data() {
    let house = House::new(vec![Script::reply(&["好"])]).await;
    let _: i64 = house.redis.command(&["RPUSH", "character:odd", "x"]).await;
    for _ in 0..2 {
        let answer = house.say_to("odd", "你好").await;
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (500, &json!("internal"))
        );
        assert_eq!(answer.header("retry-after"), None);
    }
    let log = house.chat.stop();
    assert!(
        log.contains("character:<id>") && log.contains("another type"),
        "{log}"
    );
}

#[tokio::test]
async fn a_prompt_over_the_limit_is_not_blamed_on_the_message() {
    let prompt = json!("字".repeat(14_000));
    let house = house(&character("system_prompt", prompt)).await;
    let answer = house.say_to("odd", "你好").await;
    assert_eq!(
        (answer.status, answer.json()),
        (
            500,
            json!({
                "type": "about:blank", "title": "Internal Server Error", "status": 500,
                "detail": "this character's prompt does not fit into the context window",
                "code": "character_too_large",
            })
        )
    );
    let log = house.chat.stop();
    assert!(
        log.contains("21000") && log.contains("CONTEXT_MAX_TOKENS"),
        "{log}"
    );
}

#[tokio::test]
async fn a_message_that_does_not_fit_beside_a_large_prompt_is_what_is_blamed() {
    let house = house(&character("system_prompt", json!("字".repeat(13_000)))).await;
    let answer = house.say_to("odd", &"字".repeat(2_000)).await;
    assert_eq!(
        (answer.status, &answer.json()["code"]),
        (422, &json!("invalid_request"))
    );
    assert_eq!(house.say_to("odd", "你好").await.last()["saved"], true);
}

#[tokio::test]
async fn a_whole_number_may_be_written_with_a_fraction() {
    let house = house(&character("max_tokens", json!(256.0))).await;
    assert_eq!(house.say_to("odd", "你好").await.last()["saved"], true);
    assert_eq!(house.upstream.requests()[0].body["max_tokens"], 256);
}

#[tokio::test]
async fn a_setting_out_of_its_range_is_refused_and_logged_by_name() {
    for (setting, value) in [
        ("temperature", json!(99)),
        ("temperature", json!(-0.5)),
        ("top_p", json!(0)),
        ("top_p", json!(1.5)),
        ("max_tokens", json!(0)),
        ("max_tokens", json!(256.5)),
        ("model", json!(7)),
    ] {
        let house = house(&character(setting, value.clone())).await;
        let answer = house.say_to("odd", "你好").await;
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (500, &json!("internal")),
            "{setting} {value}"
        );
        assert!(house.upstream.requests().is_empty());
        let log = house.chat.stop();
        assert!(
            log.contains(&format!("{setting} must be")),
            "{setting}: {log}"
        );
    }
}
