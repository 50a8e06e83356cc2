//! Many streams in one process: the latency of deltas while all of them are open.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use testkit::answer::Answer;
use testkit::events;
use testkit::redis::Server;
use testkit::runtime::Function;
use testkit::tokens::token;
use testkit::upstream::{Script, Upstream};
use tokio::time::sleep;

use super::report::{Report, Series, heading};
use super::{Effort, begun_at_once, chat_stream, first_text, process};

/// The number of deltas of each stream, one every 50 ms.
const LONG: usize = 80;
const PACE: Duration = Duration::from_millis(50);
/// The time within which all streams begin. Each lasts twice as long, so for as long again all of them are open.
pub(crate) const SPREAD: Duration = Duration::from_secs(2);

/// Memory of the process, in MB. With less, it refuses streams.
const MEMORY: usize = 8_192;

/// Returns the reply of each stream. Its first delta comes at once, so that the first text is what the function takes.
pub(crate) fn script() -> Script {
    begun_at_once(LONG, PACE, PACE)
}

/// When a delta was sent, and how long it took.
#[derive(Clone, Copy)]
pub(crate) struct Delta {
    sent: Instant,
    pub(crate) took: Duration,
}

impl Delta {
    /// Makes one from the times at which it was written and read.
    pub(crate) fn new((sent, read): (Instant, Instant)) -> Self {
        Self {
            sent,
            took: read.saturating_duration_since(sent),
        }
    }
}

/// Returns the times of the deltas that were sent while all streams were open.
pub(crate) fn while_all_are_open(streams: &[Vec<Delta>]) -> Series {
    let first = |stream: &Vec<Delta>| stream.first().map(|delta| delta.sent);
    let last = |stream: &Vec<Delta>| stream.last().map(|delta| delta.sent);
    let from = streams.iter().filter_map(first).max();
    let until = streams.iter().filter_map(last).min();
    let mut series = Series::default();
    for delta in streams.iter().flatten() {
        if Some(delta.sent) >= from && Some(delta.sent) <= until {
            series.push_time(delta.took);
        }
    }
    series
}

/// Measures one process with many streams of 20 deltas a second each. It has a CPU of its own, and Redis and the stand-ins
/// share the others; in the last case, all of them share all CPUs.
pub(crate) async fn many_at_once(report: &mut Report, effort: Effort) {
    heading(&format!(
        "Many streams in one process, 20 deltas a second each, begun within {} s",
        SPREAD.as_secs()
    ));
    let most = effort.streams.iter().max().copied().unwrap_or_default();
    let mut cases: Vec<_> = effort
        .streams
        .iter()
        .map(|streams| Case::new(*streams, ""))
        .collect();
    cases.push(Case {
        spread: Duration::ZERO,
        ..Case::new(most, ", begun in one moment")
    });
    cases.push(Case {
        has_own_cpu: false,
        ..Case::new(most, ", on all CPUs")
    });
    for _ in 0..effort.processes {
        for case in &mut cases {
            case.measure().await;
        }
    }
    for case in &cases {
        let (streams, how, figures) = (case.streams, case.how, &case.figures);
        let figure = |what: &str| format!("{streams}{how}: {what}");
        for (what, unit, series) in [
            (
                "a delta, from the upstream to the platform",
                "µs",
                &figures.added,
            ),
            ("the same, 99th percentile", "µs", &figures.late),
            (
                "the slowest stream's 99th percentile / the median stream's",
                "",
                &figures.unfair,
            ),
            ("first text", "µs", &figures.first),
            ("first text, 99th percentile", "µs", &figures.first_late),
            ("turns stored", "%", &figures.stored),
            ("memory a stream", "kB", &figures.memory),
            (
                "memory a stream, with what it takes to wait for it",
                "kB",
                &figures.whole_memory,
            ),
            (
                &format!("CPU a stream of {LONG} deltas"),
                "ms",
                &figures.cpu,
            ),
        ] {
            report.measured("streams", &figure(what), unit, series);
        }
    }
}

/// Returns the deltas of an answer, from the upstream's write to the platform's read.
pub(crate) fn deltas(answer: &Answer, upstream: &Upstream, request: usize) -> Vec<Delta> {
    let events = answer.events();
    let read = events.iter().filter(|event| event.data["done"] == false);
    // The first piece is the role, which nobody is shown; and the first event is the start.
    let sent = upstream.sent_at(request).into_iter().skip(1);
    sent.zip(read.map(|event| event.at))
        .map(Delta::new)
        .collect()
}

/// A process to measure.
struct Case {
    streams: usize,
    /// What distinguishes it from cases with as many streams.
    how: &'static str,
    /// The time within which all streams begin.
    spread: Duration,
    /// Whether the function has a CPU that nothing else uses.
    has_own_cpu: bool,
    figures: Figures,
}

#[derive(Default)]
struct Figures {
    added: Series,
    first: Series,
    /// The following have one value for each process.
    late: Series,
    first_late: Series,
    unfair: Series,
    memory: Series,
    whole_memory: Series,
    cpu: Series,
    stored: Series,
}

/// Returns a process that has one CPU or all, has served a turn, and waits for this many at once.
async fn warm(redis: &Server, upstream: &Upstream, cpu: Option<usize>, streams: usize) -> Function {
    let chat = chat_stream(redis, upstream)
        .memory(MEMORY)
        .concurrency(streams);
    let chat = match cpu {
        Some(cpu) => chat.on_cpu(cpu),
        None => chat,
    };
    let chat = chat.start().await;
    chat.invoke(&events::chat(&token("warm"), "luna", "你好"))
        .await;
    chat.wait_for_polls(streams).await;
    chat
}

/// Returns the resident memory, in kB, of a process that waits for one invocation.
async fn idle_alone(cpu: Option<usize>) -> f64 {
    let redis = Server::start().await;
    let upstream = Upstream::start(script()).await;
    let chat = warm(&redis, &upstream, cpu, 1).await;
    process::memory(chat.pid(), "VmRSS")
}

impl Case {
    fn new(streams: usize, how: &'static str) -> Self {
        Self {
            streams,
            how,
            spread: SPREAD,
            has_own_cpu: true,
            figures: Figures::default(),
        }
    }

    /// Measures one process more.
    async fn measure(&mut self) {
        let (streams, spread) = (self.streams, self.spread);
        let pinned = self.has_own_cpu.then(process::Pinned::to_all_but_the_first);
        let cpu = pinned.as_ref().map(|pinned| pinned.left);
        let alone = idle_alone(cpu).await;
        let redis = Server::start().await;
        let upstream = Upstream::start(script()).await;
        let chat = warm(&redis, &upstream, cpu, streams).await;
        let idle = process::memory(chat.pid(), "VmRSS");
        let before = process::cpu_time(chat.pid());
        upstream.note_sent();
        let said: Vec<String> = (0..streams).map(|user| format!("你好 {user}")).collect();
        let turns = said.iter().enumerate().map(|(user, said)| {
            let event = events::chat(&token(&format!("u{user}")), "luna", said);
            let chat = &chat;
            async move {
                sleep(spread.mul_f64(user as f64 / streams as f64)).await;
                chat.invoke(&event).await
            }
        });
        let answers = join_all(turns).await;
        let used = process::cpu_time(chat.pid()).saturating_sub(before);
        let most = process::memory(chat.pid(), "VmHWM");
        let numbers: HashMap<String, usize> = upstream
            .requests()
            .iter()
            .enumerate()
            .filter_map(|(number, request)| Some((request.messages().pop()?.1, number)))
            .collect();
        let mut first = Series::default();
        let all = answers.iter().zip(&said).map(|(answer, said)| {
            // A turn that failed is one that is not stored, and perhaps one that the model was never asked for.
            if answer.last()["saved"] == true {
                first.push_time(first_text(answer));
            }
            let request = numbers.get(said);
            request.map_or_else(Vec::new, |request| deltas(answer, &upstream, *request))
        });
        let all: Vec<Vec<Delta>> = all.collect();
        let mut stored = 0.0;
        for (user, answer) in answers.iter().enumerate() {
            let key = format!("chat:u{user}:luna:messages");
            let messages: usize = redis.command(&["LLEN", &key]).await;
            let is_saved = answer.last()["saved"] == true;
            // Of one that is reported as not saved, the reply of Redis may have come too late.
            assert!(messages == 2 || !is_saved, "{key}");
            stored += f64::from(is_saved);
        }
        let added = if spread.is_zero() {
            // How they begin is what this is about.
            let mut added = Series::default();
            all.iter()
                .flatten()
                .for_each(|delta| added.push_time(delta.took));
            added
        } else {
            while_all_are_open(&all)
        };
        let mut late_by_stream = Series::default();
        for stream in all.iter().filter(|stream| !stream.is_empty()) {
            let mut series = Series::default();
            stream.iter().for_each(|delta| series.push_time(delta.took));
            late_by_stream.push(series.quantile(0.99));
        }
        let streams = streams as f64;
        let figures = &mut self.figures;
        figures.late.push(added.quantile(0.99));
        figures.first_late.push(first.quantile(0.99));
        let slowest = late_by_stream.quantile(1.0);
        figures.unfair.push(slowest / late_by_stream.median());
        figures.memory.push((most - idle).max(0.0) / streams);
        figures.whole_memory.push((most - alone).max(0.0) / streams);
        figures.stored.push(stored * 100.0 / streams);
        figures.cpu.push(used.as_secs_f64() * 1e3 / streams);
        figures.added.append(added);
        figures.first.append(first);
    }
}
