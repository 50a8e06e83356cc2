//! What is a reply, however it is spelled.

use serde_json::{Value, json};
use testkit::answer::Answer;
use testkit::upstream::{Script, Step, chunk, delta};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::{House, assert_done, once, said};

/// The deltas as the client got them, without the last frame.
fn deltas(answer: &Answer) -> Vec<String> {
    let events = answer.events().into_iter();
    events
        .filter(|event| event.event == "message" && event.data["done"] == false)
        .map(|event| event.data["content"].as_str().expect("text").to_owned())
        .collect()
}

fn text(lines: &str) -> Step {
    Step::Bytes(lines.to_owned().into())
}

fn with_delta(delta: &Value) -> Step {
    Step::Bytes(chunk(
        &json!({ "choices": [{ "index": 0, "delta": delta, "finish_reason": null }] }),
    ))
}

#[tokio::test]
async fn bytes_that_come_one_by_one_are_the_same_reply() {
    let parts = ["你", "好呀，", "👨‍👩‍👧", "é\"\\\n", "🙂"];
    let house = House::new(vec![Script::reply(&parts).byte_by_byte()]).await;

    let answer = house.say("晚上好呀").await;
    assert_done(&answer, &parts.concat());
    assert_eq!(deltas(&answer), parts);
    assert_eq!(house.stored().await[1]["content"], parts.concat());
}

const THIRTY: usize = 30;

/// An upstream that sends each delta as a chunk of HTTP, and all of them, the end included, in one write, so that one
/// read of the function receives them. Returns its URL.
async fn thirty_chunks_in_one_write() -> String {
    let end = "data: [DONE]\n\n".into();
    let chunks = std::iter::repeat_n(delta("你"), THIRTY).chain([end]);
    let mut answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                       connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        .to_vec();
    for chunk in chunks {
        answer.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        answer.extend(chunk);
        answer.extend(b"\r\n");
    }
    answer.extend(b"0\r\n\r\n");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            // The prompt ends the request, whose head and body may come apart.
            let mut request = Vec::new();
            while !request.ends_with(b"}") && client.read_buf(&mut request).await.is_ok() {}
            let _ = client.write_all(&answer).await;
        }
    });
    format!("http://{address}")
}

/// How many deltas each part of the body has that has any.
fn deltas_of_parts(answer: &Answer) -> Vec<usize> {
    let deltas = answer.chunks.iter().map(|chunk| {
        let text = String::from_utf8_lossy(&chunk.bytes);
        text.matches(r#""done":false"#).count()
    });
    deltas.filter(|deltas| *deltas > 0).collect()
}

#[tokio::test]
async fn where_many_share_the_threads_each_delta_leaves_alone() {
    let url = thirty_chunks_in_one_write().await;
    let env = [
        ("LLM_BASE_URL", url.as_str()),
        ("AWS_LAMBDA_MAX_CONCURRENCY", "2"),
    ];
    let house = House::with(&env, Vec::new()).await;

    let answer = house.say("晚上好呀").await;
    assert_eq!(deltas(&answer), ["你"; THIRTY]);
    assert_eq!(deltas_of_parts(&answer), [1; THIRTY], "{answer:?}");
}

#[tokio::test]
async fn the_first_words_leave_alone_and_what_comes_at_once_after_them_together() {
    let url = thirty_chunks_in_one_write().await;
    let house = House::with(&[("LLM_BASE_URL", &url)], Vec::new()).await;

    let mut fewest = THIRTY;
    for _ in 0..10 {
        let answer = house.say("晚上好呀").await;
        assert_eq!(deltas(&answer), ["你"; THIRTY]);
        let deltas = deltas_of_parts(&answer);
        assert_eq!(deltas.first(), Some(&1), "{answer:?}");
        fewest = fewest.min(deltas.len());
    }
    // A process that has to wait for its CPU takes what comes for a slow stream.
    assert!(fewest < 10, "{THIRTY} deltas in {fewest} parts at least");
}

#[tokio::test]
async fn lines_may_end_in_any_of_the_three_ways() {
    let stream = |end: &str| {
        let lines = [
            r#"data: {"choices":[{"index":0,"delta":{"content":"你"}}]}"#,
            "",
            r#"data: {"choices":[{"index":0,"delta":{"content":"好"},"finish_reason":"stop"}]}"#,
            "",
            "data: [DONE]",
            "",
            "",
        ];
        Script::raw(vec![text(&lines.join(end))])
    };
    let ends = ["\n", "\r\n", "\r"];
    let whole = ends.map(stream);
    let by_byte = ends.map(|end| stream(end).byte_by_byte());
    let house = House::new([whole, by_byte].concat()).await;

    for _ in 0..6 {
        let answer = house.say("晚上好呀").await;
        assert_done(&answer, "你好");
        assert_eq!(deltas(&answer), ["你", "好"]);
    }
    assert_eq!(house.upstream.requests().len(), 6);
}

#[tokio::test]
async fn comments_and_fields_other_than_data_say_nothing() {
    let script = Script::raw(vec![
        text(": connected\n\n:\n\nretry: 3000\n\nevent: ping\nid: 7\n\n"),
        Step::Bytes(delta("你")),
        text(": PROCESSING\n\nevent: completion\nid: 8\n"),
        Step::Bytes(delta("好")),
        text("database: x\n\n: data: {\"choices\":[{\"delta\":{\"content\":\"不\"}}]}\n\n"),
    ])
    .finish("stop")
    .done();
    let house = House::new(vec![script]).await;

    assert_done(&house.say("晚上好呀").await, "你好");
}

#[tokio::test]
async fn several_data_lines_are_one_event() {
    let script = Script::raw(vec![text(
        "data: {\"choices\":\ndata: [{\"index\":0,\ndata:\ndata: \"delta\":{\"content\":\"你好\"}}]}\n\n",
    )])
    .finish("stop")
    .done();
    let house = House::new(vec![script]).await;

    assert_done(&house.say("晚上好呀").await, "你好");
}

#[tokio::test]
async fn a_proxy_may_drop_the_content_type_and_the_space_after_data() {
    let script = Script::raw(vec![text(concat!(
        "data:{\"choices\":[{\"index\":0,\"delta\":{\"content\":\" 你好\"}}]}\n\n",
        "data:{\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        "data:[DONE]\n\n",
    ))])
    .without_header("content-type");
    let house = House::new(vec![script]).await;

    assert_done(&house.say("晚上好呀").await, " 你好");
}

#[tokio::test]
async fn chunks_without_content_say_nothing() {
    let script = Script::raw(vec![
        // As Azure begins, and as everybody sends the role.
        Step::Bytes(chunk(
            &json!({ "choices": [], "prompt_filter_results": [] }),
        )),
        with_delta(&json!({ "role": "assistant" })),
        with_delta(&json!({ "role": "assistant", "content": null, "refusal": null })),
        with_delta(&json!({})),
        with_delta(&json!(null)),
        Step::Bytes(chunk(&json!({ "choices": [{ "index": 0 }] }))),
        Step::Bytes(chunk(&json!({ "choices": null }))),
        Step::Bytes(chunk(&json!({}))),
        with_delta(&json!({ "content": "你" })),
        with_delta(&json!({ "content": "" })),
        Step::Bytes(chunk(&json!({
            "choices": [{ "index": 0, "delta": { "content": "好" }, "logprobs": null }],
            "usage": null, "error": null, "system_fingerprint": "x",
        }))),
        // A choice that nobody asked for.
        Step::Bytes(chunk(
            &json!({ "choices": [{ "index": 1, "delta": { "content": "不" } }] }),
        )),
    ])
    .finish("stop")
    .done();
    let house = House::new(vec![script]).await;

    let answer = house.say("晚上好呀").await;
    assert_done(&answer, "你好");
    assert_eq!(deltas(&answer), ["你", "好"]);
}

#[tokio::test]
async fn reasoning_is_neither_shown_nor_stored() {
    let script = Script::raw(vec![
        with_delta(&json!({ "role": "assistant", "content": null, "reasoning_content": "她说" })),
        with_delta(&json!({ "content": "", "reasoning_content": "你好，" })),
        with_delta(&json!({ "reasoning_content": "我该怎么回" })),
        with_delta(&json!({ "content": "你好", "reasoning_content": null })),
    ])
    .finish("stop")
    .done();
    let house = House::new(vec![script]).await;

    let answer = house.say("你在吗？").await;
    assert_done(&answer, "你好");
    assert_eq!(deltas(&answer), ["你好"]);
    let stored = house.stored().await;
    assert_eq!(
        said(&stored),
        [
            ("user", "你在吗？", Value::Null),
            ("assistant", "你好", Value::Null)
        ]
    );
    assert!(!answer.text().contains("我该怎么回"));
    let elements: Vec<String> = house
        .redis
        .command(&["LRANGE", "chat:alice:luna:messages", "0", "-1"])
        .await;
    assert!(!elements.concat().contains("我该怎么回"));
}

#[tokio::test]
async fn a_reply_whose_finish_reason_came_needs_no_done() {
    let house = House::new(vec![
        Script::deltas(&["你", "好"]).finish("stop"),
        // The last event has no blank line after it either.
        Script::deltas(&["你"]).then(text(
            r#"data: {"choices":[{"index":0,"delta":{"content":"好"},"finish_reason":"stop"}]}"#,
        )),
        Script::deltas(&["你", "好"]).finish("stop").cut(),
    ])
    .await;

    for _ in 0..3 {
        assert_done(&house.say("晚上好呀").await, "你好");
    }
    assert_eq!(house.stored().await.len(), 6);
}

#[tokio::test]
async fn why_a_reply_ended_is_passed_on_and_stored_unless_it_is_complete() {
    let cases = [
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("stop", "stop"),
        ("tool_calls", "stop"),
    ];
    let scripts = cases.map(|(word, _)| Script::deltas(&["嗯"]).finish(word).done());
    let house = House::new(scripts.into()).await;

    for (turn, (word, told)) in cases.into_iter().enumerate() {
        let answer = house.say("晚上好呀").await;
        let last = answer.last();
        assert_eq!(
            (&last["done"], &last["finish_reason"], &last["saved"]),
            (&json!(true), &json!(told), &json!(true)),
            "{word}"
        );
        let metadata = match told {
            "stop" => Value::Null,
            told => json!({ "finish_reason": told }),
        };
        let stored = house.stored().await;
        assert_eq!(
            said(&stored)[2 * turn..],
            [
                ("user", "晚上好呀", Value::Null),
                ("assistant", "嗯", metadata)
            ],
            "{word}"
        );
    }
}

#[tokio::test]
async fn an_empty_reply_is_done_and_not_stored() {
    let house = House::new(vec![
        Script::deltas(&[]).finish("stop").done(),
        Script::reply(&["好"]),
    ])
    .await;

    let answer = house.say("晚上好呀").await;
    let kinds: Vec<String> = answer
        .events()
        .into_iter()
        .map(|event| event.event)
        .collect();
    assert_eq!(kinds, ["start", "message"]);
    let last = answer.last();
    assert_eq!(
        (&last["done"], &last["finish_reason"], &last["saved"]),
        (&json!(true), &json!("stop"), &json!(false))
    );
    // Only the record of the turn, which says how it ended.
    let mut keys: Vec<String> = house.redis.command(&["KEYS", "*"]).await;
    keys.sort();
    let turn = last["turn_id"].as_str().expect("text");
    let record = format!("chat:alice:luna:turn:{turn}");
    assert_eq!(keys, [record.as_str(), "user:alice:turns"]);
    let end: String = house.redis.command(&["HGET", &record, "end"]).await;
    assert!(end.starts_with("empty 0 done "), "{end}");

    assert_done(&house.say("晚上好呀").await, "好");
}

#[tokio::test]
async fn the_upstreams_own_usage_is_told_and_its_hidden_reasoning_is_not_counted_as_said() {
    let usage = json!({
        "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
        "completion_tokens_details": { "reasoning_tokens": 44 },
    });
    let apart = Script::deltas(&["你好"])
        .finish("stop")
        .then(Step::Bytes(chunk(
            &json!({ "choices": [], "usage": usage }),
        )))
        .done();
    // Some send it with the finish reason, and a preliminary one before.
    let together = Script::raw(vec![
        Step::Bytes(chunk(&json!({
            "choices": [{ "index": 0, "delta": { "content": "你好" } }],
            "usage": { "prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101 },
        }))),
        Step::Bytes(chunk(&json!({
            "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }], "usage": usage,
        }))),
    ])
    .done();
    let house = House::new(vec![apart, together]).await;

    for turn in 0..2 {
        let answer = house.say("晚上好呀").await;
        assert_done(&answer, "你好");
        assert_eq!(
            answer.last()["usage"],
            json!({ "prompt_tokens": 100, "completion_tokens": 50 })
        );
        assert_eq!(house.stored().await[2 * turn + 1]["token_count"], 6);
    }
}

#[tokio::test]
async fn a_reply_over_256_kib_ends_as_if_at_its_limit() {
    const LIMIT: usize = 256 * 1024;
    let part = "很长的话。".repeat(1_000);
    let parts = vec![part.as_str(); 20];
    assert!(parts.concat().len() > LIMIT);
    // The upstream would go on and on.
    let house = House::new(vec![
        Script::deltas(&parts).then(Step::Silence),
        Script::reply(&["好"]),
    ])
    .await;

    let answer = house.say("说个没完").await;
    house.upstream.wait_until_no_streams().await;
    let last = answer.last();
    assert_eq!(
        (&last["done"], &last["finish_reason"], &last["saved"]),
        (&json!(true), &json!("length"), &json!(true))
    );
    let shown = answer.reply();
    assert!(
        shown.len() <= LIMIT && shown.len() + part.len() > LIMIT,
        "{}",
        shown.len()
    );
    let stored = house.stored().await;
    assert_eq!(
        said(&stored),
        [
            ("user", "说个没完", Value::Null),
            (
                "assistant",
                shown.as_str(),
                json!({ "finish_reason": "length" })
            ),
        ]
    );

    assert_done(&house.say("晚上好呀").await, "好");
}

#[tokio::test]
async fn an_empty_finish_reason_with_every_delta_and_a_usage_of_nulls_end_nothing() {
    let odd = |content: &str| {
        Step::Bytes(chunk(&json!({
            "choices": [{ "index": 0, "delta": { "content": content }, "finish_reason": "" }],
            "usage": { "prompt_tokens": null, "completion_tokens": null },
        })))
    };
    // The pause is longer than what is waited for a usage after the end of a reply.
    let pause = Step::Delay(std::time::Duration::from_millis(2_500));
    let script = Script::raw(vec![odd("你"), pause, odd("好")])
        .finish("stop")
        .usage(5, 2)
        .done();
    let house = House::new(vec![script]).await;

    let answer = house.say("晚上好呀").await;
    assert_done(&answer, "你好");
}

#[tokio::test]
async fn a_reply_that_the_upstream_gave_up_is_interrupted() {
    for word in ["error", "abort", "insufficient_system_resource"] {
        let house = House::new(once(Script::deltas(&["半"]).finish(word).done())).await;
        let answer = house.fails("upstream_interrupted", "半").await;
        assert_eq!(answer.last()["saved"], true);
        assert_eq!(
            house.stored().await[1]["metadata"]["finish_reason"],
            "interrupted"
        );
    }
}
