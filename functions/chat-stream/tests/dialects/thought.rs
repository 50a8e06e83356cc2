//! Thought, wherever a model puts it, is neither shown nor stored.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::events;
use testkit::tokens::token;
use testkit::upstream::{Gate, Script, Step};

use crate::{Stage, deltas, good, with_delta};

#[tokio::test]
async fn thought_under_any_name_is_a_sign_of_life_and_not_shown() {
    let thoughts: [fn(&str) -> Value; 7] = [
        |thought| json!({ "reasoning_content": thought }),
        |thought| json!({ "reasoning": thought, "content": "" }),
        |thought| json!({ "reasoning_details": [{ "type": "reasoning.text", "text": thought }] }),
        |thought| json!({ "reasoning_text": thought, "content": null }),
        |thought| json!({ "thinking": thought }),
        |thought| json!({ "thinking_blocks": [{ "type": "thinking", "thinking": thought }] }),
        |thought| json!({ "content": [{ "type": "thinking", "thinking": [{ "type": "text", "text": thought }] }] }),
    ];
    let scripts = thoughts.map(|thought| {
        let steps = (0..6).flat_map(|n| {
            let delta = with_delta(&thought(&format!("她说你好，第{n}次")));
            [Step::Delay(Duration::from_millis(150)), delta]
        });
        Script::raw(steps.collect())
            .then_delta("你好")
            .finish("stop")
            .done()
    });
    let stage = Stage::with(&[("LLM_IDLE_TIMEOUT_MS", "600")], scripts.to_vec()).await;
    for (at, thought) in thoughts.iter().enumerate() {
        let case = format!("{}: {}", at, thought("…"));
        let answer = stage.replies("你好", &case).await;
        assert!(!answer.text().contains("她说"), "{case}");
    }
}

/// The text in deltas of so many characters.
fn split(text: &str, size: usize) -> Script {
    let characters: Vec<char> = text.chars().collect();
    let parts: Vec<Value> = characters
        .chunks(size)
        .map(|part| json!({ "content": part.iter().collect::<String>() }))
        .collect();
    deltas(&parts)
}

#[tokio::test]
async fn thought_inside_the_text_is_left_out_however_it_is_split() {
    let texts = [
        "<think>她说\n你好</think>\n\n你好\n呀",
        "\n <think>\n她说 a < b </thin\n</think>你好\n呀",
        "<think></think>\n你好\n呀",
        "<thinking>她说</thinking>你好\n呀",
        "<thought>她说</thought>你好\n呀",
        "<seed:think>她说</seed:think>你好\n呀",
        "[THINK]她说[/THINK]你好\n呀",
    ];
    let cases: Vec<(&str, usize)> = texts
        .iter()
        .flat_map(|text| [1, 2, 3, 1_000].map(|size| (*text, size)))
        .collect();
    let scripts = cases.iter().map(|(text, size)| split(text, *size));
    let stage = Stage::new(scripts.collect()).await;
    for (text, size) in &cases {
        let case = format!("{text} by {size}");
        let answer = stage.replies("你好\n呀", &case).await;
        assert!(!answer.text().contains("她说"), "{case}");
    }
}

#[tokio::test]
async fn a_template_that_opens_the_thought_itself_is_named_by_a_setting() {
    let env = [("LLM_STARTS_THINKING", "true")];
    let scripts = vec![
        split("她说\n</think>\n\n你好", 2),
        split("<think>她说</think>你好", 3),
        // An upstream that splits the two leaves no tag in the text.
        deltas(&[
            json!({ "reasoning_content": "她说" }),
            json!({ "content": "\n\n你好" }),
        ]),
    ];
    let stage = Stage::with(&env, scripts).await;
    for turn in 0..3 {
        stage.replies("你好", &turn.to_string()).await;
    }
}

#[tokio::test]
async fn thought_alone_is_no_reply_and_is_not_stored() {
    for (env, text) in [
        ("false", "<think>她说"),
        ("false", "<think>她说</think>\n\n"),
        ("false", "<think>她说</thi"),
        ("true", "她说，说个不停"),
    ] {
        let scripts = vec![split(text, 2), good()];
        let stage = Stage::with(&[("LLM_STARTS_THINKING", env)], scripts).await;
        let answer = stage.say("你在吗？").await;
        assert_eq!(answer.reply(), "", "{text}");
        let last = answer.last();
        assert_eq!(
            (&last["done"], &last["saved"]),
            (&json!(true), &json!(false)),
            "{text}: {last}"
        );
        assert!(stage.stored().await.is_empty(), "{text}");
    }
}

#[tokio::test]
async fn text_that_only_looks_like_thought_is_shown_whole() {
    let texts = [
        "a < b",
        "<3",
        "<",
        "<thinker>想",
        "你好<think>想</think>",
        "我在想\n<think>想</think>",
        "</think>你好",
        "\n\n你好",
        "[T",
    ];
    let cases: Vec<(&str, usize)> = texts
        .iter()
        .flat_map(|text| [1, 1_000].map(|size| (*text, size)))
        .collect();
    let scripts = cases.iter().map(|(text, size)| split(text, *size));
    let stage = Stage::new(scripts.collect()).await;
    for (text, size) in &cases {
        stage.replies(text, &format!("{text} by {size}")).await;
    }
}

#[tokio::test]
async fn what_cannot_be_a_tag_is_shown_at_once() {
    let gate = Gate::new();
    let script = Script::deltas(&["<3"])
        .gated(gate.clone())
        .then_delta("！")
        .finish("stop")
        .done();
    let stage = Stage::new(vec![script]).await;
    let mut answer = stage
        .chat
        .invoke_streaming(&events::chat(&token("alice"), "luna", "你在吗？"))
        .await;
    // Nothing more comes from the upstream until the text was seen.
    loop {
        let event = answer.next_event().await.expect("an event");
        if event.event == "message" {
            assert_eq!(event.data["content"], "<3");
            break;
        }
    }
    gate.open();
    assert_eq!(answer.finish().await.last()["done"], true);
}
