//! One turn on a warm process: first byte, whole turn, gap, CPU, memory.

use std::time::Instant;

use serde_json::json;
use testkit::events;
use testkit::redis::Server;
use testkit::runtime::Function;
use testkit::tokens::{secret, token};
use testkit::upstream::{Script, Upstream};

use super::raw::Raw;
use super::report::{Report, Series, heading};
use super::streams::deltas;
use super::{
    AFTER_FIRST_WORDS, DELTAS, Effort, PACE, chat_stream, first_text, paced_reply, process, reply,
    store,
};

/// Measures first byte, whole turn, CPU and memory, compared with the upstream and Redis alone.
pub(crate) async fn turns(report: &mut Report, effort: Effort) {
    heading(&format!(
        "A warm turn: {DELTAS} deltas, of which the first comes at once and the others {} ms later",
        AFTER_FIRST_WORDS.as_millis()
    ));
    let redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
    let chat = chat_stream(&redis, &upstream).start().await;
    let address = format!("127.0.0.1:{}", upstream.port());
    let mut alone = Raw::connect(&address).await;
    let mut redis_alone = redis.connection().await;
    let stored = [0, 50, 100];
    let mut first = vec![Series::default(); stored.len()];
    let mut whole = first.clone();
    let (mut upstream_first, mut upstream_whole, mut lrange) =
        (Series::default(), Series::default(), Series::default());
    let mut cpu = Series::default();
    for round in 0..effort.turns {
        for (number, messages) in stored.into_iter().enumerate() {
            let user = format!("u{messages}");
            store(&redis, &user, messages).await;
            let before = process::cpu_time(chat.pid());
            let answer = chat
                .invoke(&events::chat(&token(&user), "luna", "你好"))
                .await;
            chat.wait_idle().await;
            // What the first rounds warm up is not a warm turn.
            if round < effort.turns / 10 {
                continue;
            }
            first[number].push_time(first_text(&answer));
            whole[number].push_time(answer.ended - answer.handed_over);
            if messages == 50 {
                cpu.push_time(process::cpu_time(chat.pid()).saturating_sub(before));
            }
        }
        let body = json!({ "messages": [{ "role": "user", "content": "你好" }] }).to_string();
        let (begun, ended) = alone.post("/v1/chat/completions", "x", &body).await;
        upstream_first.push_time(begun);
        upstream_whole.push_time(ended);
        let asked = Instant::now();
        let elements: Vec<Vec<u8>> = redis::cmd("LRANGE")
            .arg(&["chat:u50:luna:messages", "0", "49"])
            .query_async(&mut redis_alone)
            .await
            .expect("Redis answers");
        assert!(elements.len() >= 50);
        lrange.push_time(asked.elapsed());
    }
    for (number, messages) in stored.into_iter().enumerate() {
        report.measured(
            "turn",
            &format!("first text, {messages} messages stored"),
            "µs",
            &first[number],
        );
        report.measured(
            "turn",
            &format!("whole turn, {messages} messages stored"),
            "µs",
            &whole[number],
        );
    }
    report.measured(
        "turn",
        "the upstream alone, first text",
        "µs",
        &upstream_first,
    );
    report.measured(
        "turn",
        "the upstream alone, whole reply",
        "µs",
        &upstream_whole,
    );
    report.measured("turn", "a bare LRANGE of 50 messages", "µs", &lrange);
    report.measured("turn", "CPU a turn, deltas at once", "µs", &cpu);
    let over = |series: &Series, alone: &Series| series.median() - alone.median();
    for (number, messages) in stored.into_iter().enumerate() {
        for (what, series, alone) in [
            ("first text", &first[number], &upstream_first),
            ("whole turn", &whole[number], &upstream_whole),
        ] {
            report.single(
                "turn",
                &format!("{what} over the upstream's own, {messages} messages"),
                "µs",
                over(series, alone),
            );
        }
    }
    let bare = lrange.median() + upstream_first.median();
    report.single(
        "turn",
        "first text over the upstream's own / (a bare LRANGE + a bare upstream)",
        "x",
        over(&first[1], &upstream_first) / bare,
    );
}

/// Measures the time of a delta through the function, and to a client that is connected to the upstream directly.
pub(crate) async fn gap(report: &mut Report, effort: Effort) {
    heading(&format!(
        "A delta that comes by itself, every {} ms",
        PACE.as_millis()
    ));
    let redis = Server::start().await;
    let upstream = Upstream::start(paced_reply()).await;
    let chat = chat_stream(&redis, &upstream).start().await;
    let mut alone = Raw::connect(&format!("127.0.0.1:{}", upstream.port())).await;
    let body = json!({ "messages": [{ "role": "user", "content": "你好" }] }).to_string();
    let [mut through, mut bare, mut cpu]: [Series; 3] = Default::default();
    upstream.note_sent();
    for _ in 0..effort.turns.div_ceil(10) {
        store(&redis, "gap", 50).await;
        let event = events::chat(&token("gap"), "luna", "你好");
        let before = process::cpu_time(chat.pid());
        let answer = chat.invoke(&event).await;
        chat.wait_idle().await;
        cpu.push_time(process::cpu_time(chat.pid()).saturating_sub(before));
        for delta in deltas(&answer, &upstream, upstream.requests().len() - 1) {
            through.push_time(delta.took);
        }
        let read = alone.post_noting("/v1/chat/completions", "x", &body).await;
        let sent = upstream.sent_at(upstream.requests().len() - 1);
        // The first piece is the role, which has no text.
        for (read, sent) in read.iter().zip(sent.iter().skip(1)) {
            bare.push_time(read.saturating_duration_since(*sent));
        }
    }
    report.measured(
        "turn",
        "from the upstream's write to the platform",
        "µs",
        &through,
    );
    report.measured(
        "turn",
        "from the upstream's write to a client of its own",
        "µs",
        &bare,
    );
    report.measured("turn", "CPU a turn, deltas one by one", "µs", &cpu);
    report.single(
        "turn",
        "what the function adds to a delta",
        "µs",
        through.median() - bare.median(),
    );
}

/// Measures the two functions that do not stream, on a session of 50 messages.
pub(crate) async fn whole_answers(report: &mut Report, effort: Effort) {
    heading("Whole answers: from the event handed over to the end of the answer");
    let redis = Server::start().await;
    let token = token("whole");
    for (name, event) in [
        ("session-meta", events::session(&token, "luna")),
        ("clear-history", events::clear(&token, "luna")),
    ] {
        let function = Function::builder(name)
            .env("REDIS_URL", redis.url())
            .env("JWT_SECRET", secret())
            .start()
            .await;
        let mut times = Series::default();
        for _ in 0..effort.turns {
            store(&redis, "whole", 50).await;
            let answer = function.invoke(&event).await;
            times.push_time(answer.ended - answer.handed_over);
        }
        report.measured("turn", &format!("{name}: whole answer"), "µs", &times);
    }
}

/// Measures the peak resident memory after many requests, with and without the tokenizer.
pub(crate) async fn peaks(report: &mut Report, effort: Effort) {
    heading("Peak resident memory");
    let redis = Server::start().await;
    let silent = Script::deltas(&["今天天气很好"; DELTAS])
        .finish("stop")
        .done();
    let (telling, silent) = (
        Upstream::start(reply()).await,
        Upstream::start(silent).await,
    );
    let token = token("peak");
    let chat = events::chat(&token, "luna", "你好");
    let subjects = [
        ("chat-stream", Some(&telling), &chat),
        ("chat-stream, the tokenizer included", Some(&silent), &chat),
        ("session-meta", None, &events::session(&token, "luna")),
        ("clear-history", None, &events::clear(&token, "luna")),
    ];
    let mut peaks: [Series; 4] = Default::default();
    for _ in 0..effort.processes {
        for ((name, upstream, event), peaks) in subjects.iter().zip(&mut peaks) {
            let function = match upstream {
                Some(upstream) => chat_stream(&redis, upstream),
                None => Function::builder(name)
                    .env("REDIS_URL", redis.url())
                    .env("JWT_SECRET", secret()),
            };
            let function = function.start().await;
            for _ in 0..effort.turns.min(50) {
                assert_eq!(function.invoke(event).await.status, 200);
            }
            peaks.push(process::memory(function.pid(), "VmHWM") / 1024.0);
        }
    }
    for ((name, ..), peaks) in subjects.iter().zip(&peaks) {
        report.measured("peak", name, "MB", peaks);
    }
}
