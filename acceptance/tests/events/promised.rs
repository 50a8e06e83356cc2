//! The answers to the samples, whole.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;
use testkit::answer::Answer;

use crate::TURN;
use crate::samples::read;

/// Asserts that this is the answer to the route's sample, which is the same behind each gateway.
pub(super) fn assert_promised(route: &str, answer: &str) {
    insta::allow_duplicates! {
        match route {
            "chat-stream.post" | "chat-stream.post.greeting" | "chat-stream.post.with-key" | "chat-stream.post.replaces" => insta::assert_snapshot!(answer, @r#"
            200
            cache-control: no-cache, no-transform
            content-type: text/event-stream; charset=utf-8
            x-accel-buffering: no

            id: 0
            event: start
            data: {"turn_id":"<turn>","memory":"empty","history_messages":0,"resumable":true}

            id: 12
            event: message
            data: {"content":"在看呀，","done":false}

            id: 27
            event: message
            data: {"content":"和你一起。","done":false}

            id: done
            event: message
            data: {"content":"","done":true,"turn_id":"<turn>","msg_id":"<message>","user_msg_id":"<user message>","finish_reason":"stop","saved":true,"usage":{"prompt_tokens":310,"completion_tokens":2}}
            "#),
            "chat-stream.post.ai-sdk" => insta::assert_snapshot!(answer, @r#"
            200
            cache-control: no-cache, no-transform
            content-type: text/event-stream; charset=utf-8
            x-accel-buffering: no
            x-vercel-ai-ui-message-stream: v1

            data: {"type":"start","messageId":"<message>"}

            data: {"type":"data-start","data":{"turn_id":"<turn>","memory":"empty","history_messages":0,"resumable":true,"msg_id":"<message>","user_msg_id":"<user message>"},"transient":true}

            data: {"type":"text-start","id":"text"}

            data: {"type":"text-delta","id":"text","delta":"在看呀，"}

            data: {"type":"text-delta","id":"text","delta":"和你一起。"}

            data: {"type":"text-end","id":"text"}

            data: {"type":"data-done","data":{"turn_id":"<turn>","msg_id":"<message>","user_msg_id":"<user message>","finish_reason":"stop","saved":true,"usage":{"prompt_tokens":310,"completion_tokens":2}}}

            data: {"type":"finish","finishReason":"stop"}

            data: [DONE]
            "#),
            // The sample has seen the first 12 bytes of the text.
            "chat-stream.get" => insta::assert_snapshot!(answer, @r#"
            200
            cache-control: no-cache, no-transform
            content-type: text/event-stream; charset=utf-8
            x-accel-buffering: no

            id: 27
            event: message
            data: {"content":"和你一起。","done":false}

            id: done
            event: message
            data: {"content":"","done":true,"turn_id":"<turn>","msg_id":"<turn>","user_msg_id":"<turn>","finish_reason":"stop","saved":true,"usage":{"prompt_tokens":310,"completion_tokens":2}}
            "#),
            "stop-stream" => insta::assert_snapshot!(answer, @r#"
            202
            cache-control: no-store
            content-type: application/json

            {"turn_id":"<turn>","state":"stopping"}
            "#),
            "clear-history" => insta::assert_snapshot!(answer, @r#"
            200
            cache-control: no-store
            content-type: application/json

            {"message":"历史已清空"}
            "#),
            "session-meta.get" => insta::assert_snapshot!(answer, @r#"
            200
            cache-control: no-store
            content-type: application/json

            {"character_id":"luna","state":"ACTIVE","last_active_at":1732431203,"message_count":2,"session_start":1732431200,"total_tokens":17,"stored_messages":2,"expires_in":<seconds>}
            "#),
            "session-meta.patch" => insta::assert_snapshot!(answer, @r#"
            200
            cache-control: no-store
            content-type: application/json

            {"character_id":"luna","state":"INACTIVE","last_active_at":1732431203,"message_count":2,"session_start":1732431200,"total_tokens":17,"stored_messages":2,"expires_in":<seconds>}
            "#),
            "read-history" => insta::assert_snapshot!(answer, @r#"
            200
            cache-control: no-store
            content-type: application/json

            {"character_id":"luna","messages":[{"msg_id":"m1","role":"user","content":"你好","timestamp":1732431200,"token_count":5,"metadata":null},{"msg_id":"m2","role":"assistant","content":"你好呀！","timestamp":1732431203,"token_count":12,"metadata":null}],"has_more":false}
            "#),
            "clear-history.rewind" => insta::assert_snapshot!(answer, @r#"
            200
            cache-control: no-store
            content-type: application/json

            {"message":"历史已回退"}
            "#),
            "session-meta.list" => insta::assert_snapshot!(answer, @r#"
            200
            cache-control: no-store
            content-type: application/json

            {"sessions":[{"character_id":"luna","state":"ACTIVE","last_active_at":1732431203,"message_count":2,"session_start":1732431200,"total_tokens":17,"stored_messages":2,"expires_in":<seconds>,"last_message":{"msg_id":"m2","role":"assistant","content":"你好呀！","timestamp":1732431203}}],"next":null}
            "#),
            "user-data.get" => insta::assert_snapshot!(answer, @r#"
            200
            cache-control: no-store
            content-type: application/x-ndjson

            {"type":"session","character_id":"luna","state":"ACTIVE","last_active_at":1732431203,"message_count":2,"session_start":1732431200,"total_tokens":17,"stored_messages":2,"expires_in":<seconds>}
            {"type":"message","character_id":"luna","msg_id":"m1","role":"user","content":"你好","timestamp":1732431200,"token_count":5,"metadata":null}
            {"type":"message","character_id":"luna","msg_id":"m2","role":"assistant","content":"你好呀！","timestamp":1732431203,"token_count":12,"metadata":null}
            {"type":"turn","turn_id":"<turn>","character_id":"luna","state":"ended","text":"在看呀，和你一起。"}
            {"type":"end","sessions":1,"messages":2,"turns":1}
            "#),
            "user-data.delete" => insta::assert_snapshot!(answer, @r#"
            200
            cache-control: no-store
            content-type: application/json

            {"message":"数据已删除","erased":{"sessions":1,"messages":2,"turns":1}}
            "#),
            "read-character" => insta::assert_snapshot!(answer, @r#"
            200
            cache-control: no-store
            content-type: application/json

            {"character_id":"mira","name":"Mira","greetings":["水刚烧开。小雨，房间太静了吗？","小雨，外面下雨了，进来坐。"],"creator":"companion-chat","creator_notes":"示例卡片。","character_version":"1.0","tags":["夜晚"]}
            "#),
            "put-character.put" => insta::assert_snapshot!(answer, @r#"{"character_id":"mira","name":"Mira","spec":"chara_card_v3","fields":["system_prompt","description","personality","scenario","mes_example","post_history_instructions","first_mes","alternate_greetings","character_book"],"lore_entries":1,"greetings":2,"fixed_tokens":106,"warnings":[]}"#),
            // The card is returned as it was sent.
            "put-character.get" => insta::assert_snapshot!(answer.replace(&card(), "<card>"), @r#"{"character_id":"mira","is_sample":false,"card":<card>}"#),
            "put-character.delete" => insta::assert_snapshot!(answer, @r#"{"character_id":"mira","deleted":true}"#),
            "put-character.list" => insta::assert_snapshot!(answer, @r#"{"characters":["mira"],"next":null}"#),
            other => panic!("no answer is promised for {other}"),
        }
    }
}

/// Returns the card of the sample that stores one, to the letter.
fn card() -> String {
    let event = read("put-character.put.json");
    let fields: BTreeMap<String, &RawValue> = serde_json::from_str(&event).expect("JSON");
    fields["card"].get().to_owned()
}

pub(super) fn headers(answer: &Answer) -> BTreeMap<String, String> {
    let headers: BTreeMap<String, String> = answer
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()))
        .collect();
    assert_eq!(headers.len(), answer.headers.len(), "a header is repeated");
    headers
}

/// Returns status, headers and body as text. What differs between runs is checked and replaced.
pub(super) fn printed(answer: &Answer) -> String {
    let mut body = answer.text();
    let is_turn = answer
        .header("content-type")
        .is_some_and(|kind| kind.starts_with("text/event-stream"));
    if is_turn {
        let events = answer.events().into_iter();
        // A UI message stream has it in a part.
        let mut said = events.map(|event| match event.data["data"] {
            Value::Null => event.data,
            ref said => said.clone(),
        });
        let done = said.rfind(|said| said["user_msg_id"].is_string());
        let done = done.expect("the end of a turn");
        body = body.replace(&uuid(&done["turn_id"]), "<turn>");
        for (field, name) in [("msg_id", "<message>"), ("user_msg_id", "<user message>")] {
            body = body.replace(&uuid(&done[field]), name);
        }
    } else {
        body = body.replace(TURN, "<turn>");
        for seconds in 86_300..=86_400 {
            body = body.replace(
                &format!(r#""expires_in":{seconds}"#),
                r#""expires_in":<seconds>"#,
            );
        }
    }
    let headers: String = headers(answer)
        .iter()
        .map(|(name, value)| format!("{name}: {value}\n"))
        .collect();
    format!("{}\n{headers}\n{body}", answer.status)
}

/// Returns the text of an id, which is a UUID in its usual form.
fn uuid(id: &Value) -> String {
    let text = id.as_str().expect("text");
    let is_uuid = text.len() == 36
        && text.char_indices().all(|(at, character)| match at {
            8 | 13 | 18 | 23 => character == '-',
            _ => character.is_ascii_hexdigit() && !character.is_ascii_uppercase(),
        });
    assert!(is_uuid, "{text}");
    text.to_owned()
}
