//! What the record of a turn costs: the same turns with records and without (`TURN_TTL_SECONDS=0`), in turns.

use std::time::Duration;

use testkit::events::{self, Event};
use testkit::redis::Server;
use testkit::runtime::Function;
use testkit::tokens::token;
use testkit::upstream::{Script, Upstream};

use super::report::{Report, Series, heading};
use super::{DELTAS, Effort, chat_stream, first_text, process, reply, store};

/// The time between two deltas that come one by one.
const ONE_BY_ONE: Duration = Duration::from_millis(20);

/// Time to the first text of a small model that runs locally. Hosted models take at least ten times as long.
const QUICK_MODEL: Duration = Duration::from_millis(10);

/// 40 bytes, so that a reply has 2,000: one that has grown in Redis must not take more than it needs.
const LONG_DELTA: &str = "刚刚在海边散步，风很轻呀。!";

/// Measures first text, CPU, commands and memory with records and without, and the first byte of a resumption.
pub(crate) async fn record(report: &mut Report, effort: Effort) {
    heading("The record of a turn: with records, and without (TURN_TTL_SECONDS=0)");
    let one_by_one = Script::deltas(&[LONG_DELTA; DELTAS])
        .paced(ONE_BY_ONE)
        .finish("stop")
        .usage(310, DELTAS)
        .done();
    for (what, script, turns) in [
        ("deltas at once", reply(), effort.turns),
        (
            "deltas after 10 ms",
            reply().after(QUICK_MODEL),
            effort.turns.div_ceil(2),
        ),
        ("deltas every 20 ms", one_by_one, effort.turns.div_ceil(5)),
    ] {
        compare(report, what, script, turns).await;
    }
    resumption(report, effort).await;
}

async fn compare(report: &mut Report, what: &str, script: Script, turns: usize) {
    let redis = Server::start().await;
    let upstream = Upstream::start(script).await;
    let with = chat_stream(&redis, &upstream).start().await;
    let without = chat_stream(&redis, &upstream)
        .env("TURN_TTL_SECONDS", "0")
        .start()
        .await;
    let [mut first, mut cpu]: [[Series; 2]; 2] = Default::default();
    let (mut commands, mut bytes) = (Series::default(), Series::default());
    for round in 0..turns {
        let mut chats = [(0, &with), (1, &without)];
        if round % 2 == 1 {
            chats.reverse();
        }
        for (number, chat) in chats {
            store(&redis, "record", 50).await;
            let before = process::cpu_time(chat.pid());
            let asked = redis.calls("evalsha").await;
            let answer = chat
                .invoke(&events::chat(&token("record"), "luna", "你好"))
                .await;
            chat.wait_idle().await;
            let used = process::cpu_time(chat.pid()).saturating_sub(before);
            // What the first rounds warm up is not a warm turn.
            if round < turns / 10 {
                continue;
            }
            first[number].push_time(first_text(&answer));
            cpu[number].push_time(used);
            if number == 0 {
                commands.push((redis.calls("evalsha").await - asked) as f64);
                bytes.push(record_bytes(&redis, &answer.last()["turn_id"]).await);
            }
        }
    }
    let mut ratio = |figure: &str, [with, without]: &[Series; 2]| {
        for (how, series) in [("with", with), ("without", without)] {
            report.measured(
                "record",
                &format!("{what}: {figure}, {how} records"),
                "µs",
                series,
            );
        }
        let ratio = with.median() / without.median();
        report.single(
            "record",
            &format!("{what}: {figure}, with / without"),
            "x",
            ratio,
        );
    };
    ratio("first text", &first);
    ratio("CPU a turn", &cpu);
    report.measured(
        "record",
        &format!("{what}: scripts a turn with a record"),
        "",
        &commands,
    );
    report.measured(
        "record",
        &format!("{what}: memory of a record, without its text"),
        "B",
        &bytes,
    );
}

async fn record_bytes(redis: &Server, turn: &serde_json::Value) -> f64 {
    let record = format!("chat:record:luna:turn:{}", turn.as_str().expect("an id"));
    let text = format!("{record}:text");
    let mut bytes = 0.0;
    for key in [&record, &text] {
        bytes += redis.command::<f64>(&["MEMORY", "USAGE", key]).await;
    }
    bytes - redis.command::<f64>(&["STRLEN", &text]).await
}

/// Measures the first byte of a resumption, from the request of the reader.
async fn resumption(report: &mut Report, effort: Effort) {
    let redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
    let [owner, reader]: [Function; 2] = [
        chat_stream(&redis, &upstream).start().await,
        chat_stream(&redis, &upstream).start().await,
    ];
    let token = token("record");
    let answer = owner.invoke(&events::chat(&token, "luna", "你好")).await;
    let turn = answer.last()["turn_id"].as_str().expect("an id").to_owned();
    let event = Event::resume()
        .token(&token)
        .query("character_id", "luna")
        .query("turn_id", &turn)
        .http();
    let mut first = Series::default();
    for round in 0..effort.turns {
        let answer = reader.invoke(&event).await;
        reader.wait_idle().await;
        if round >= effort.turns / 10 {
            first.push_time(answer.chunks[0].at - answer.handed_over);
        }
    }
    report.measured("record", "first byte of a resumption", "µs", &first);
}
