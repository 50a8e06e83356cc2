//! Cold starts, at full speed and at shares of a CPU, compared with a function that does nothing and with a build
//! without the SDK, and with TLS to Redis and to the model.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use testkit::events;
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tls::TlsServer;
use testkit::tokens::token;
use testkit::upstream::{Front, Upstream};

use super::cgroup::{Held, can_hold};
use super::report::{Report, Series, heading};
use super::{
    Effort, chat_stream, chat_stream_by_tls, empty_function, first_text, process, reply, settings,
    store,
};

/// Measures from the start of the process, at full speed and at shares of a CPU.
pub(crate) async fn starts(report: &mut Report, effort: Effort) {
    heading("Cold start");
    let redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
    // Makes the function count, which builds the tokenizer's tables in a new process.
    let without_usage = Upstream::start(reply().without_usage()).await;
    let (tls_redis, tls_model) = (TlsServer::start().await, Front::tls(upstream.port()).await);
    let empty = empty_function();
    let without_sdk = std::env::var_os("BENCH_WITHOUT_SDK")
        .map(PathBuf::from)
        .filter(|path| path.exists());
    for (name, share) in [
        ("full speed", 1.0),
        ("1/3.5 CPU (512 MB)", 1.0 / 3.5),
        ("1/7 CPU (256 MB)", 1.0 / 7.0),
        ("1/14 CPU (128 MB)", 1.0 / 14.0),
    ] {
        if !can_hold(name, share) {
            continue;
        }
        let [mut ours, mut of_empty, mut of_without]: [Starts; 3] = Default::default();
        let [mut told, mut counted, mut by_tls]: [FirstTurns; 3] = Default::default();
        let (mut whole, mut warm) = (Series::default(), Series::default());
        for _ in 0..effort.starts {
            store(&redis, "u50", 50).await;
            let held = ours.start(share, chat_stream(&redis, &upstream)).await;
            let first = told.turn(&held.function).await;
            whole.push_time(held.function.started_to_next() + first);
            for _ in 0..5 {
                warm.push_time(first_text(&held.function.invoke(&event()).await));
            }
            drop(held);
            let mut others = Starts::default();
            let held = others
                .start(share, chat_stream(&redis, &without_usage))
                .await;
            counted.turn(&held.function).await;
            drop(held);
            store(tls_redis.server(), "u50", 50).await;
            let by_tls_only = chat_stream_by_tls(&tls_redis, &upstream, &tls_model);
            let held = others.start(share, by_tls_only).await;
            by_tls.turn(&held.function).await;
            drop(held);
            if let Some(empty) = &empty {
                of_empty
                    .start(share, Function::builder_of(empty.clone()))
                    .await;
            }
            if let Some(path) = &without_sdk {
                let builder = Function::builder_of(path.clone());
                let builder = settings(builder, &redis, &upstream);
                of_without.start(share, builder).await;
            }
        }
        let figure = |what: &str| format!("{name}: {what}");
        let mut measured = |what: &str, series: &Series| {
            report.measured("cold", &figure(what), "µs", series);
        };
        measured("process start to first next", &ours.to_next);
        for (what, other) in [
            ("the same, an empty function", &of_empty),
            ("the same, without the AWS SDK", &of_without),
        ] {
            if !other.to_next.is_empty() {
                measured(what, &other.to_next);
            }
        }
        measured("first turn, to its first text", &told.text);
        measured("first turn, CPU to its first text", &told.text_cpu);
        measured("first turn, whole", &told.whole);
        measured("with TLS to both, to its first text", &by_tls.text);
        measured("with TLS to both, CPU to its first text", &by_tls.text_cpu);
        measured("where it must count, to its first text", &counted.text);
        measured(
            "where it must count, CPU to its first text",
            &counted.text_cpu,
        );
        measured("where it must count, whole", &counted.whole);
        measured("start and first turn, to its first text", &whole);
        measured("a warm turn, to its first text", &warm);
        let ratios = [
            ("to next, over an empty function's", &of_empty),
            ("to next, over that without the SDK", &of_without),
        ];
        for (what, other) in ratios.iter().filter(|(_, other)| !other.to_next.is_empty()) {
            let ratio = ours.to_next.median() / other.to_next.median();
            report.single("cold", &figure(what), "x", ratio);
            // In a cgroup the process was a shell before, whose CPU is in it.
            if share >= 1.0 {
                let ratio = ours.cpu.median() / other.cpu.median();
                report.single("cold", &figure(&format!("CPU {what}")), "x", ratio);
            }
        }
        let over = told.text.median() - warm.median();
        report.single("cold", &figure("first turn over a warm one"), "µs", over);
        let over = by_tls.text.median() - told.text.median();
        report.single(
            "cold",
            &figure("TLS to both, in the first text"),
            "µs",
            over,
        );
        let counting = counted.text_cpu.median() - told.text_cpu.median();
        let what = "counting, in the CPU before the first text";
        report.single("cold", &figure(what), "µs", counting);
    }
}

fn event() -> Value {
    events::chat(&token("u50"), "luna", "你好")
}

/// Measured starts of one program.
#[derive(Default)]
struct Starts {
    to_next: Series,
    cpu: Series,
}

impl Starts {
    async fn start(&mut self, share: f64, builder: FunctionBuilder) -> Held {
        let held = Held::start(builder, share).await;
        self.to_next.push_time(held.function.started_to_next());
        self.cpu.push_time(process::cpu_time(held.function.pid()));
        held
    }
}

/// Measured first turns of processes.
#[derive(Default)]
struct FirstTurns {
    text: Series,
    text_cpu: Series,
    whole: Series,
}

impl FirstTurns {
    /// Runs the first turn and returns the time to its first text.
    async fn turn(&mut self, function: &Function) -> Duration {
        let before = process::cpu_time(function.pid());
        let mut answer = function.invoke_streaming(&event()).await;
        while let Some(event) = answer.next_event().await {
            if event.event == "message" {
                // At full speed the upstream pauses now. A process that is held back may be further.
                let cpu = process::cpu_time(function.pid());
                self.text_cpu.push_time(cpu.saturating_sub(before));
                break;
            }
        }
        let answer = answer.finish().await;
        self.text.push_time(first_text(&answer));
        self.whole.push_time(answer.ended - answer.handed_over);
        first_text(&answer)
    }
}
