//! An upstream's count of a reply, and the counts that are stored already.

use serde_json::{Value, json};
use testkit::upstream::{Script, Step, chunk};

use crate::{House, element};

/// The tokens of `好。`, counted here.
const COUNTED: i64 = 2;

fn thought(text: &str) -> Step {
    Step::Bytes(chunk(&json!({
        "choices": [{ "index": 0, "delta": { "content": "", "reasoning_content": text }, "finish_reason": null }],
    })))
}

/// A reply of one delta, after some thought, with this usage.
fn script(thinking: &str, reply: &str, usage: &Value) -> Script {
    let mut steps = vec![];
    if !thinking.is_empty() {
        steps.push(thought(thinking));
    }
    Script::raw(steps)
        .then_delta(reply)
        .finish("stop")
        .then(Step::Bytes(chunk(
            &json!({ "choices": [], "usage": usage }),
        )))
        .done()
}

#[tokio::test]
async fn a_model_that_thinks_without_saying_how_much_forgets_nothing() {
    let thinking = "想".repeat(500);
    for usage in [
        json!({ "prompt_tokens": 40, "completion_tokens": 21_000 }),
        json!({ "prompt_tokens": 40, "completion_tokens": 21_000, "completion_tokens_details": { "reasoning_tokens": 0 } }),
        json!({ "prompt_tokens": 40, "completion_tokens": 1_000_000_000_000_000_u64 }),
        json!({ "prompt_tokens": 40, "completion_tokens": 5 }),
        json!({ "prompt_tokens": 40, "completion_tokens": 3, "completion_tokens_details": { "reasoning_tokens": 500 } }),
    ] {
        let house = House::new(vec![script(&thinking, "好。", &usage)]).await;
        for turn in 0..4 {
            let answer = house.say("你在吗？").await;
            assert_eq!(answer.start()["history_messages"], 2 * turn, "{usage}");
            assert_eq!(
                answer.last()["usage"],
                json!({ "prompt_tokens": 40, "completion_tokens": usage["completion_tokens"] })
            );
        }
        for message in house.stored().await {
            if message["role"] == "assistant" {
                // The exact count, or the estimate where the tables took too long.
                let counted = message["token_count"].as_i64().expect("a number");
                assert!((1..=COUNTED).contains(&counted), "{counted}: {usage}");
            }
        }
    }
}

#[tokio::test]
async fn thought_that_is_split_out_is_not_counted_as_said() {
    let usage = json!({
        "prompt_tokens": 40, "completion_tokens": 503,
        "completion_tokens_details": { "reasoning_tokens": 500 },
    });
    let house = House::new(vec![script("想", "好。", &usage)]).await;
    assert_eq!(house.say("你在吗？").await.last()["saved"], true);
    assert_eq!(house.stored().await[1]["token_count"], 3);
}

#[tokio::test]
async fn a_usage_that_counts_nothing_does_not_lift_the_limit() {
    let reply = "字".repeat(6_000);
    for usage in [
        json!({ "prompt_tokens": 0, "completion_tokens": 0 }),
        json!({ "prompt_tokens": 9 }),
        json!({ "prompt_tokens": 9, "completion_tokens": 1 }),
        json!({ "prompt_tokens": 1_000_000_000_000_000_u64, "completion_tokens": null }),
    ] {
        let house = House::new(vec![script("", &reply, &usage)]).await;
        for _ in 0..5 {
            let answer = house.say("说下去").await;
            assert_eq!(answer.last()["saved"], true);
            // What the client is told is the upstream's, where it sent something.
            assert_eq!(
                answer.last()["usage"]["prompt_tokens"],
                usage["prompt_tokens"]
            );
        }
        let stored = house.stored().await;
        let counted = stored[1]["token_count"].as_i64().expect("a number");
        assert!((6_000..=18_000).contains(&counted), "{counted}: {usage}");
        let ideographs: usize = house
            .sent_history()
            .iter()
            .map(|(_, content)| content.chars().count())
            .sum();
        assert!(ideographs <= 20_000, "{ideographs}: {usage}");
    }
}

#[tokio::test]
async fn a_stored_count_that_cannot_be_neither_empties_the_history_nor_lifts_the_limit() {
    let long = "字".repeat(6_000);
    let cases = [
        json!(0),
        json!(-1),
        json!(21_000),
        json!(i64::MAX),
        json!(1e300),
        json!("many"),
        json!(null),
    ];
    for count in &cases {
        let house = House::new(vec![Script::reply(&["好"])]).await;
        for _ in 0..3 {
            house
                .store(&[
                    element("user", "q", &json!(1)),
                    element("assistant", "好。", count),
                ])
                .await;
        }
        let answer = house.say("你好").await;
        assert_eq!(answer.start()["history_messages"], 6, "{count}");
    }
    for count in [json!(0), json!(1), json!(-5), json!(null)] {
        let house = House::new(vec![Script::reply(&["好"])]).await;
        for _ in 0..26 {
            house
                .store(&[
                    element("user", "q", &json!(1)),
                    element("assistant", &long, &count),
                ])
                .await;
        }
        let answer = house.say("你好").await;
        // Two replies of about 9,000 tokens each are within 20,000.
        assert_eq!(answer.start()["history_messages"], 4, "{count}");
    }
}

#[tokio::test]
async fn the_limit_holds_for_a_language_that_is_neither_chinese_nor_latin() {
    let house = House::new(vec![Script::reply(&["네"])]).await;
    let text = "가나다라마바사아자차".repeat(200);
    for _ in 0..25 {
        house
            .store(&[
                element("user", &text, &json!(0)),
                element("assistant", &text, &json!(0)),
            ])
            .await;
    }
    let answer = house.say("안녕").await;
    // A message is over 2,000 tokens.
    let sent = answer.start()["history_messages"]
        .as_u64()
        .expect("a number");
    assert!((4..=8).contains(&sent), "{sent}");
}

#[tokio::test]
async fn counts_are_exact_again_once_the_tables_stand() {
    let house = House::new(vec![script(
        "想",
        "好。",
        &json!({ "prompt_tokens": 1, "completion_tokens": 99 }),
    )])
    .await;
    for _ in 0..2 {
        assert_eq!(house.say("hello world").await.last()["saved"], true);
    }
    let stored = house.stored().await;
    // The user's message is counted with the reply.
    assert_eq!(stored[2]["token_count"], 2);
    assert_eq!(stored[3]["token_count"], COUNTED);
}
