//! The metrics of a turn, for each way in which it can end.

use super::*;

#[tokio::test]
async fn a_healthy_turn_tells_each_figure_once() {
    let redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
    let chat = chat(&redis, &upstream).start().await;
    assert_eq!(chat.invoke(&said("今天的晚霞")).await.last()["saved"], true);
    assert_eq!(chat.invoke(&said("今天的晚霞")).await.last()["saved"], true);
    let told = Told::by(chat);

    told.assert_requests("chat-stream", "200", 2);
    told.assert_in_all("requests_total", 2);
    told.assert("cold_starts_total", &[("function", "chat-stream")], &[1.0]);
    told.assert_operations("load", "success", 2);
    told.assert_operations("commit", "success", 2);
    // The second turn has a copy.
    told.assert_operations("character", "success", 1);
    told.assert_in_all(OPERATIONS, 5);
    for operation in ["load", "commit"] {
        let latency = told.values(LATENCY, &[("operation", operation)]);
        assert!(latency.len() == 2 && latency.iter().all(|seconds| *seconds > 0.0));
    }
    told.assert("short_memory_messages", &[], &[0.0, 2.0]);
    told.assert("short_memory_breaker_open", &[], &[0.0, 0.0]);
    told.assert_in_all(DEGRADATION, 0);
    told.assert("commits_total", &[("result", "saved")], &[1.0, 1.0]);
    told.assert("turns_total", &[], &[1.0, 1.0]);
    told.assert("prompt_tokens", &[], &[310.0, 310.0]);
    told.assert("completion_tokens", &[], &[2.0, 2.0]);
    told.assert_in_all("upstream_errors_total", 0);
    let (first, whole) = (
        told.values("first_delta_seconds", &[]),
        told.values("reply_seconds", &[]),
    );
    assert_eq!((first.len(), whole.len()), (2, 2));
    assert!(first.iter().zip(&whole).all(|(first, whole)| first < whole));

    let unit = |name: &str| {
        let sample = told.0.iter().find(|sample| sample.name == name);
        sample.expect("it is told").unit.clone()
    };
    assert_eq!(
        (unit(LATENCY), unit(OPERATIONS)),
        ("Seconds".into(), "Count".into())
    );
    assert_eq!(
        (unit("reply_seconds"), unit("prompt_tokens")),
        ("Seconds".into(), "Count".into())
    );
    assert!(
        told.0
            .iter()
            .all(|sample| sample.namespace == "CompanionChat")
    );
}

#[tokio::test]
async fn the_number_of_stored_messages_is_not_limited_by_what_a_turn_reads_of_them() {
    let redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
    let chat = chat(&redis, &upstream)
        .env("CONTEXT_MAX_MESSAGES", "2")
        .start()
        .await;
    for _ in 0..3 {
        chat.invoke(&said("今天的晚霞")).await;
    }
    Told::by(chat).assert("short_memory_messages", &[], &[0.0, 2.0, 4.0]);
}

#[tokio::test]
async fn first_delta_and_reply_are_measured_to_the_client_and_to_the_end() {
    let redis = Server::start().await;
    let pause = Duration::from_millis(300);
    let late = Script::raw(vec![Step::Delay(pause)])
        .then_delta("海风")
        .then(Step::Delay(pause))
        .finish("stop")
        .done();
    let upstream = Upstream::start(late).await;
    let chat = chat(&redis, &upstream).start().await;
    let answer = chat.invoke(&said("今天的晚霞")).await;
    let seen = answer.events()[1].at - answer.handed_over;
    let told = Told::by(chat);
    let first = told.values("first_delta_seconds", &[]);
    let whole = told.values("reply_seconds", &[]);
    assert!(
        matches!(first.as_slice(), [first] if (0.3..=seen.as_secs_f64()).contains(first)),
        "{first:?}, and the client saw it after {seen:?}"
    );
    assert!(
        matches!(whole.as_slice(), [whole] if *whole >= 0.6),
        "{whole:?}"
    );
}

#[tokio::test]
async fn an_upstream_error_is_told_by_its_code() {
    let redis = Server::start().await;
    let upstream = Upstream::start_sequence(vec![
        Script::status(503, "{}"),
        Script::status(400, "{}"),
        Script::raw(vec![Step::Silence]),
        Script::deltas(&["海风", "很轻"]).then_cut(),
    ])
    .await;
    let chat = chat(&redis, &upstream)
        .env("LLM_FIRST_TOKEN_TIMEOUT_MS", "300")
        .start()
        .await;
    let codes =
        ["unavailable", "rejected", "timeout", "interrupted"].map(|c| format!("upstream_{c}"));
    for code in &codes {
        assert_eq!(
            chat.invoke(&said("今天的晚霞")).await.last()["code"],
            code.as_str()
        );
    }
    let told = Told::by(chat);
    for code in &codes {
        told.assert("upstream_errors_total", &[("code", code)], &[1.0]);
    }
    told.assert("upstream_errors_total", &[], &[1.0; 4]);
    told.assert("turns_total", &[], &[1.0; 4]);
    told.assert_requests("chat-stream", "200", 4);
    // Only one of them said anything.
    told.assert("commits_total", &[("result", "saved")], &[1.0]);
    for name in ["prompt_tokens", "completion_tokens", "first_delta_seconds"] {
        told.assert_in_all(name, 1);
    }
    told.assert_in_all(DEGRADATION, 0);
}

#[tokio::test]
async fn a_panic_in_a_turn_is_told_like_any_end() {
    let redis = Server::start().await;
    let chat = function("chat-stream", &redis)
        .env("LLM_PROVIDER", "echo")
        .test_hooks()
        .start()
        .await;
    assert_eq!(
        chat.invoke(&said("/panic")).await.last()["code"],
        "internal"
    );
    let told = Told::by(chat);
    told.assert("turns_total", &[], &[1.0]);
    told.assert_requests("chat-stream", "200", 1);
    told.assert_operations("load", "success", 1);
    for name in ["commits_total", "upstream_errors_total", "reply_seconds"] {
        told.assert_in_all(name, 0);
    }
}

#[tokio::test]
async fn a_turn_whose_client_left_is_told_when_it_ends() {
    let redis = Server::start().await;
    let gate = Gate::new();
    let upstream = Upstream::start(reply().gated(gate.clone())).await;
    let chat = chat(&redis, &upstream).start().await;
    let mut left = chat.invoke_streaming(&said("今天的晚霞")).await;
    assert_eq!(left.next_event().await.expect("start").event, "start");
    left.drop_connection();
    chat.wait_idle().await;
    assert_eq!(emf::samples(&chat.output()), []);
    gate.open();
    // Its line in the log comes last.
    chat.printed("\"request\"").await;
    let told = Told::by(chat);
    told.assert("commits_total", &[("result", "saved")], &[1.0]);
    told.assert("turns_total", &[], &[1.0]);
    told.assert_requests("chat-stream", "200", 1);
}

#[tokio::test]
async fn nobody_is_told_of_in_metrics_and_a_turn_takes_few_lines() {
    let redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
    let chat = chat(&redis, &upstream).start().await;
    let answer = chat.invoke(&said("今天的晚霞")).await;
    let turn = answer.start()["turn_id"].as_str().expect("text").to_owned();
    let output = chat.stop();
    let lines = emf::lines(&output).count();
    assert!(
        (1..=MOST_LINES_A_TURN).contains(&lines),
        "{lines}:\n{output}"
    );
    for line in emf::lines(&output) {
        for told in ["alice", "luna", &turn, &answer.request_id] {
            assert!(!line.contains(told), "{told} in {line}");
        }
    }
}
