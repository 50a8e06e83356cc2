//! The prompt that the upstream receives.

use serde_json::{Value, json};
use testkit::stage::Stage;
use testkit::upstream::Script;

use super::House;

/// Returns an entry of a lorebook.
fn entry(key: &str, content: &str) -> Value {
    json!({ "keys": [key], "content": content, "enabled": true, "insertion_order": 0, "use_regex": false, "extensions": {} })
}

#[tokio::test]
async fn a_card_gives_the_prompt_that_its_specification_asks_for() {
    let house = House::of(Stage::builder().env("DEFAULT_SYSTEM_PROMPT", "Play {{char}}.")).await;
    let mut constant = entry("", "The hotel is old.");
    constant["constant"] = true.into();
    constant["position"] = "before_char".into();
    let understood = house
        .put(&json!({
            "name": "Mira Stone",
            "nickname": "Mira",
            "system_prompt": "{{original}} Be brief, <BOT>.",
            "description": " {{char}} works at night. {{// a secret}}",
            "personality": "Calm.",
            "scenario": "{{USER}} cannot sleep; {{unknown:x}} stays.",
            "mes_example": "<START>\n{{user}}: Long day.\n{{char}}: Sit down.\n<start>\n{{char}}: {{reverse:ab}}",
            "first_mes": "Hello.",
            "alternate_greetings": [],
            "post_history_instructions": "At most three sentences.",
            "creator_notes": "NEVER-IN-A-PROMPT",
            "creator": "NEVER-IN-A-PROMPT",
            "tags": ["NEVER-IN-A-PROMPT"],
            "character_version": "NEVER-IN-A-PROMPT",
            "extensions": { "companion_chat": { "temperature": 0.25, "model": "mira-model" } },
            "character_book": { "extensions": {}, "entries": [
                constant,
                entry("kettle", "The kettle whistles for {{user}}."),
                entry("KETTLE", "@@depth 1\n@@role user\n\nA hiss."),
                entry("garden", "There is no garden."),
            ] },
        }))
        .await;
    assert_eq!(understood["name"], "Mira");
    assert_eq!(understood["warnings"], json!([]));

    let named = json!({ "user_name": "{{char}} Ann" });
    house.prompt_with("Hi {{char}}", named.clone()).await;
    let prompt = house.prompt_with("Is the Kettle on?", named).await;
    assert_eq!(
        prompt,
        [
            "system: Play Mira. Be brief, Mira.\n\n\
             The hotel is old.\n\n\
             Mira works at night.\n\n\
             Calm.\n\n\
             {{char}} Ann cannot sleep; {{unknown:x}} stays.\n\n\
             <START>\n{{char}} Ann: Long day.\nMira: Sit down.\n\n\
             <START>\nMira: ba",
            "user: Hi {{char}}",
            "assistant: 好",
            "system: The kettle whistles for {{char}} Ann.",
            "user: A hiss.",
            "user: Is the Kettle on?",
            "system: At most three sentences.",
        ]
    );
    let body = &house.stage.upstream.requests()[1].body;
    assert_eq!(body["temperature"], 0.25);
    assert_eq!(body["model"], "mira-model");
}

/// Returns the blocks of JSON in a page, in order.
fn examples(page: &str) -> Vec<Value> {
    let blocks = page.split("```json\n").skip(1);
    let blocks = blocks.filter_map(|block| block.split("```").next());
    blocks
        .filter_map(|block| serde_json::from_str(block).ok())
        .collect()
}

#[tokio::test]
async fn the_example_in_the_docs_is_true() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/characters.md");
    let examples = examples(&std::fs::read_to_string(page).expect("a page"));
    let [answer, card, body, messages] = examples.as_slice() else {
        panic!("{examples:#?}");
    };
    let house = House::start().await;
    let understood = house.put_card(card).await;
    assert_eq!(
        understood["fields"].as_array().expect("a list")[..2],
        answer["fields"].as_array().expect("a list")[..2]
    );
    for field in [
        "character_id",
        "name",
        "spec",
        "lore_entries",
        "greetings",
        "fixed_tokens",
        "warnings",
    ] {
        assert_eq!(understood[field], answer[field], "{field}");
    }
    let event = testkit::events::Event::stream()
        .token(&house.stage.token)
        .json(body);
    let told = house.stage.chat.invoke(&event.http()).await;
    assert_eq!(told.last()["saved"], true, "{}", told.text());
    let sent = &house.stage.upstream.requests()[0].body;
    assert_eq!(sent["messages"], *messages);
}

#[tokio::test]
async fn a_plain_character_is_sent_to_the_letter() {
    let house = House::start().await;
    let plain =
        json!({ "name": "Mira", "system_prompt": " You are {{char}}. <START> ", "first_mes": "x" });
    let understood = house.put_card(&plain).await;
    assert_eq!(understood["spec"], "plain");
    let prompt = house.prompt("Hi").await;
    assert_eq!(prompt, ["system:  You are {{char}}. <START> ", "user: Hi"]);
}

/// What does not fit is left out in this order: examples, history, lore, scenario, personality, description.
#[tokio::test]
async fn what_does_not_fit_is_left_out_in_order() {
    let letters = |letter: &str, count: usize| letter.repeat(count);
    for (max_tokens, expected) in [
        ("2000", "PDRSE uauau"),
        ("260", "PDRS uauau"),
        ("225", "PDRS uau"),
        ("190", "PDRS u"),
        ("140", "PDR u"),
        ("90", "PD u"),
        ("60", "P u"),
    ] {
        let house = House::of(Stage::builder().env("CONTEXT_MAX_TOKENS", max_tokens)).await;
        house
            .put(&json!({
                "name": "Mira",
                "system_prompt": letters("P", 100),
                "description": letters("D", 100),
                "personality": letters("R", 150),
                "scenario": letters("S", 150),
                "mes_example": letters("E", 600),
            }))
            .await;
        for message in ["u", "u"] {
            house
                .prompt(&format!("{message}{}", letters("x", 60)))
                .await;
        }
        let prompt = house.prompt("u").await;
        let system = prompt[0].replace("system: ", "").replace("<START>\n", "");
        let parts = system.split("\n\n").filter_map(|part| part.chars().next());
        let roles = prompt
            .iter()
            .skip(1)
            .filter_map(|message| message.chars().next());
        let found: String = parts.chain([' ']).chain(roles).collect();
        assert_eq!(found, expected, "{max_tokens}");
    }
}

/// A provider caches the beginnings of prompts. Each prompt of a long session begins as the one before it, but for a few.
#[tokio::test]
async fn consecutive_prompts_of_a_session_share_their_beginning() {
    let reply = "The tram has left, and the lobby is quiet. Sit down; I was about to make tea, if you like.";
    let house = House::of(Stage::builder().upstream(reply)).await;
    house
        .put(&json!({
            "name": "Mira",
            "description": "{{char}} works at the night desk of a small hotel. {{random:Red,Blue,Green}} is her colour.",
            "post_history_instructions": "At most three sentences.",
            "character_book": { "extensions": {}, "entries": [entry("number 1", "One is her number."), entry("number 7", "Seven is not.")] },
        }))
        .await;
    let mut shares = Vec::new();
    let mut before = String::new();
    for turn in 0..60 {
        let prompt = house
            .prompt(&format!(
                "This is the question number {turn}, and nothing else."
            ))
            .await;
        assert!(prompt.len() <= 50 + 4, "{}", prompt.len());
        let text = prompt.join("\n");
        if turn > 0 {
            let common = before
                .bytes()
                .zip(text.bytes())
                .take_while(|(one, other)| one == other);
            #[expect(clippy::cast_precision_loss, reason = "a few thousand bytes")]
            shares.push(common.count() as f64 / before.len() as f64);
        }
        before = text;
    }
    #[expect(clippy::cast_precision_loss, reason = "60")]
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    assert!(mean > 0.9, "{mean}: {shares:?}");
}

#[tokio::test]
async fn an_upstream_that_wants_the_user_first_gets_the_greeting_in_the_system_prompt() {
    let refusal = r#"{"error":{"message":"Conversation roles must alternate user/assistant"}}"#;
    let scripts = vec![Script::status(400, refusal), Script::reply(&["好"])];
    let house = House::of(Stage::builder().upstream_scripts(scripts)).await;
    house
        .put(&json!({
            "name": "Mira", "system_prompt": "Be brief.", "first_mes": "The kettle is on.",
            "post_history_instructions": "Three sentences.",
        }))
        .await;
    let prompt = house.prompt_with("Hi", json!({ "greeting": 0 })).await;
    assert_eq!(
        prompt,
        [
            "system: Be brief.\n\nYou have opened the conversation with these words:\nThe kettle is on.",
            "user: Hi\n\nThree sentences."
        ]
    );
    // The model's dialect is remembered.
    let before = house.stage.upstream.requests().len();
    house.prompt("Again").await;
    assert_eq!(house.stage.upstream.requests().len(), before + 1);
}

/// A description of a megabyte is left out, and a chat goes on without it.
#[tokio::test]
async fn a_part_that_no_prompt_has_room_for_is_named_when_it_is_stored() {
    let house = House::start().await;
    let understood = house
        .put(&json!({
            "name": "Mira", "system_prompt": "Be brief.", "description": "d".repeat(1_000_000),
            "character_book": { "extensions": {}, "entries": [entry("tea", &"t".repeat(200_000))] },
        }))
        .await;
    let warnings = understood["warnings"].to_string();
    assert!(
        warnings.contains("description of about 300002 tokens"),
        "{warnings}"
    );
    assert!(
        warnings.contains("data.character_book.entries[0] of about 60000 tokens"),
        "{warnings}"
    );
    assert_eq!(
        house.prompt("tea").await,
        ["system: Be brief.", "user: tea"]
    );
}
