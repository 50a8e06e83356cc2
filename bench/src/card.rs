//! What a character card costs a turn: a card with a lorebook, and a plain character, in turns.

use serde_json::{Value, json};
use testkit::events;
use testkit::redis::Server;
use testkit::tokens::token;
use testkit::upstream::Upstream;

use super::report::{Report, Series, heading};
use super::{Effort, PLAIN, chat_stream, first_text, process, reply, store_with};

/// Entries of the lorebook, each with three keys.
const ENTRIES: usize = 200;

/// Measures first text and CPU with a card of 200 entries, of which two match, and with a plain character.
pub(crate) async fn cards(report: &mut Report, effort: Effort) {
    heading("A card with a lorebook of 200 entries, and a plain character");
    let redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
    let chat = chat_stream(&redis, &upstream).start().await;
    let characters = [("card", card().to_string()), ("plain", PLAIN.to_owned())];
    for (id, json) in &characters {
        redis
            .command::<String>(&["SET", &format!("character:{id}"), json])
            .await;
    }
    let [mut first, mut cpu]: [[Series; 2]; 2] = Default::default();
    for round in 0..effort.turns {
        let mut order = [(0, "card"), (1, "plain")];
        if round % 2 == 1 {
            order.reverse();
        }
        for (number, character) in order {
            store_with(&redis, "cards", character, 50).await;
            let before = process::cpu_time(chat.pid());
            let event = events::chat(
                &token("cards"),
                character,
                "你好，还记得第7件事和第9件事吗？",
            );
            let answer = chat.invoke(&event).await;
            chat.wait_idle().await;
            let used = process::cpu_time(chat.pid()).saturating_sub(before);
            // What the first rounds warm up is not a warm turn.
            if round >= effort.turns / 10 {
                first[number].push_time(first_text(&answer));
                cpu[number].push_time(used);
            }
        }
    }
    for (figure, series) in [("first text", &first), ("CPU a turn", &cpu)] {
        for (who, series) in ["card", "plain"].into_iter().zip(series) {
            report.measured("card", &format!("{figure}, {who}"), "µs", series);
        }
        let more = series[0].median() - series[1].median();
        report.single("card", &format!("{figure}, card - plain"), "µs", more);
    }
}

fn card() -> Value {
    let entry = |number: usize| {
        json!({
            "keys": [format!("第{number}件事"), format!("topic-{number}-of-many"), format!("thing {number}!")],
            "content": format!("第{number}件事发生在海边的小镇，那天的风很轻，大家都还记得。"),
            "enabled": true, "insertion_order": number, "use_regex": false, "extensions": {},
        })
    };
    let plain: Value = serde_json::from_str(PLAIN).expect("JSON");
    json!({
        "spec": "chara_card_v3",
        "spec_version": "3.0",
        "data": {
            "name": "Luna",
            "description": plain["system_prompt"],
            "extensions": { "companion_chat": { "temperature": 0.8, "max_tokens": 800 } },
            "character_book": {
                "extensions": {},
                "entries": (0..ENTRIES).map(entry).collect::<Vec<_>>(),
            },
        },
    })
}
