//! The alternatives, doing the same work: another service with the same interface, and libraries for chat memory.
//!
//! `PEER=http://…` measures any endpoint (`PEER_TOKEN=…` for one that does not know the benchmark's secret).
//! `PEER_DIR=…` starts the Python service in that folder with the same Redis and upstream, and alternates between it
//! and ours. The libraries come from PyPI (`bench/peers/peers.py`).

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use testkit::events;
use testkit::redis::Server;
use testkit::tokens::token;
use testkit::upstream::{self, Upstream};

use super::memory::Subject;
use super::raw::Raw;
use super::report::{Report, Series, heading};
use super::{Effort, chat_stream, first_text, paced_reply, process, reply, store};

const MESSAGES: usize = 50;
const BLOCKS: usize = 3;
const PATH: &str = "/api/v1/chat/stream";

/// Measures the peers that were requested and can be started.
pub(crate) async fn peers(report: &mut Report, effort: Effort) {
    if let Some(url) = setting("PEER") {
        endpoint(report, &url, effort).await;
    }
    if let Some(folder) = setting("PEER_DIR") {
        python_service(report, &folder, effort).await;
    }
    libraries(report, effort).await;
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn chat_body() -> String {
    json!({ "character_id": "luna", "message": "你好" }).to_string()
}

fn host(url: &str) -> &str {
    url.trim_start_matches("http://").trim_end_matches('/')
}

/// Alternates between the peer and ours. The peer uses an upstream of its own, so the comparison is rough.
async fn endpoint(report: &mut Report, url: &str, effort: Effort) {
    heading(&format!(
        "The peer at {url}, with whatever upstream it has, and ours"
    ));
    let redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
    let chat = chat_stream(&redis, &upstream).start().await;
    let mut client = Raw::connect(host(url)).await;
    let peers_token = setting("PEER_TOKEN").unwrap_or_else(|| token("peer"));
    let [mut first, mut whole, mut our_first, mut our_whole]: [Series; 4] = Default::default();
    for _ in 0..effort.turns {
        let (begun, ended) = client.post(PATH, &peers_token, &chat_body()).await;
        first.push_time(begun);
        whole.push_time(ended);
        let event = events::chat(&token("peer"), "luna", "你好");
        let answer = chat.invoke(&event).await;
        our_first.push_time(first_text(&answer));
        our_whole.push_time(answer.ended - answer.handed_over);
    }
    for (what, theirs, ours) in [
        ("first text", &first, &our_first),
        ("whole turn", &whole, &our_whole),
    ] {
        let figure = |name: &str| format!("any upstream: {name}");
        report.measured("peer", &figure(&format!("the peer: {what}")), "µs", theirs);
        report.measured("peer", &figure(&format!("ours: {what}")), "µs", ours);
        let ratio = theirs.median() / ours.median();
        report.single(
            "peer",
            &figure(&format!("{what}: the peer's over ours")),
            "x",
            ratio,
        );
    }
}

/// Alternates between the Python service and ours, with deltas that come at once and with deltas that come one by one.
async fn python_service(report: &mut Report, folder: &str, effort: Effort) {
    let few = Effort {
        turns: effort.turns.div_ceil(10),
        ..effort
    };
    for (how, script, effort) in [
        ("at once", reply(), effort),
        ("one by one", paced_reply(), few),
    ] {
        heading(&format!(
            "The Python service, and ours in the same minutes; deltas {how}"
        ));
        by_turns(report, folder, effort, script, how).await;
    }
}

async fn by_turns(
    report: &mut Report,
    folder: &str,
    effort: Effort,
    reply: upstream::Script,
    how: &str,
) {
    let redis = Server::start().await;
    let upstream = Upstream::start(reply).await;
    let (redis_url, upstream_url) = (redis.url(), upstream.base_url());
    let arguments = [
        "service",
        "--dir",
        folder,
        "--redis-url",
        &redis_url,
        "--llm-base-url",
        &upstream_url,
    ];
    let mut python = Command::new("python3");
    let Some(service) = Script::start(python.arg(script()).args(arguments)) else {
        println!("  not measured: it does not start");
        return;
    };
    let url = service.told["url"].as_str().expect("a URL");
    let pid = service.told["pid"]
        .as_u64()
        .and_then(|pid| u32::try_from(pid).ok())
        .expect("a pid");
    let mut client = Raw::connect(host(url)).await;
    let chat = chat_stream(&redis, &upstream).start().await;
    let mut alone = Raw::connect(&format!("127.0.0.1:{}", upstream.port())).await;
    let (mut upstream_first, mut upstream_whole) = (Series::default(), Series::default());
    let mut theirs: [Series; 3] = Default::default();
    let mut ours = theirs.clone();
    let body = json!({ "messages": [{ "role": "user", "content": "你好" }] }).to_string();
    for round in 0..effort.turns {
        let (begun, ended) = alone.post("/v1/chat/completions", "x", &body).await;

        // Its user id is the text of the token.
        store(&redis, "peer", MESSAGES).await;
        let before = process::cpu_time(pid);
        let (their_first, their_whole) = client.post(PATH, "peer", &chat_body()).await;
        let their_cpu = process::cpu_time(pid).saturating_sub(before);

        store(&redis, "ours", MESSAGES).await;
        let before = process::cpu_time(chat.pid());
        let answer = chat
            .invoke(&events::chat(&token("ours"), "luna", "你好"))
            .await;
        chat.wait_idle().await;
        let our_cpu = process::cpu_time(chat.pid()).saturating_sub(before);
        if round < effort.turns / 10 {
            continue;
        }
        upstream_first.push_time(begun);
        upstream_whole.push_time(ended);
        for (series, time) in theirs.iter_mut().zip([their_first, their_whole, their_cpu]) {
            series.push_time(time);
        }
        let whole = answer.ended - answer.handed_over;
        for (series, time) in ours.iter_mut().zip([first_text(&answer), whole, our_cpu]) {
            series.push_time(time);
        }
    }
    let names = ["first text", "whole turn", "CPU a turn"];
    for (name, (theirs, ours)) in names.iter().zip(theirs.iter().zip(&ours)) {
        report.measured(
            "peer",
            &format!("deltas {how}: the Python service: {name}"),
            "µs",
            theirs,
        );
        report.measured("peer", &format!("deltas {how}: ours: {name}"), "µs", ours);
        report.single(
            "peer",
            &format!("deltas {how}: {name}: the Python service's over ours"),
            "x",
            theirs.median() / ours.median(),
        );
    }
    for (number, alone) in [&upstream_first, &upstream_whole].into_iter().enumerate() {
        let over = |series: &Series| series.median() - alone.median();
        report.single(
            "peer",
            &format!(
                "deltas {how}: {} over the upstream's own: the Python service's over ours",
                names[number]
            ),
            "x",
            over(&theirs[number]) / over(&ours[number]),
        );
    }
    report.single(
        "peer",
        &format!("deltas {how}: the Python service: peak resident memory"),
        "MB",
        process::memory(pid, "VmHWM") / 1024.0,
    );
}

/// Measures the histories of LangChain and redisvl, and ours on the same server.
async fn libraries(report: &mut Report, effort: Effort) {
    heading("Libraries for the memory, 50 messages stored");
    let prepared = Command::new("python3")
        .arg(script())
        .arg("setup")
        .stdin(Stdio::null())
        .status();
    if !prepared.is_ok_and(|status| status.success()) {
        println!("  not measured: the libraries cannot be installed");
        return;
    }
    let python = root().join(".tools/bench-venv/bin/python");
    let Some(server) = Script::start(Command::new(&python).arg(script()).arg("server")) else {
        println!("  not measured: their server does not start");
        return;
    };
    let url = server.told["url"].as_str().expect("a URL");
    // By turns, in blocks: a library's block is a process of its own.
    let rounds = effort.turns / BLOCKS;
    let mut subject = Subject::new(url).await;
    let (mut load, mut commit) = (Series::default(), Series::default());
    let mut theirs: Vec<(String, Series)> = Vec::new();
    for _ in 0..BLOCKS {
        let ours = subject.measure(rounds, MESSAGES).await;
        load.push(ours.load.median());
        commit.push(ours.commit.median());
        let output = Command::new(&python)
            .arg(script())
            .args(["run", "--rounds", &rounds.to_string(), "--redis-url", url])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .expect("python runs");
        for line in output.stdout.split(|byte| *byte == b'\n') {
            let Ok(row) = serde_json::from_slice::<Value>(line) else {
                continue;
            };
            let peer = row["peer"].as_str().unwrap_or_default();
            let Some(operation) = row["operation"].as_str() else {
                println!("  {peer}: not measured: {}", row["not_measured"]);
                continue;
            };
            let name = format!("{peer}: {operation}");
            let median = row["median_us"].as_f64().expect("a figure");
            match theirs.iter_mut().find(|(known, _)| *known == name) {
                Some((_, series)) => series.push(median),
                None => {
                    let mut series = Series::default();
                    series.push(median);
                    theirs.push((name, series));
                }
            }
        }
    }
    report.measured("libraries", "companion-chat: load", "µs", &load);
    report.measured("libraries", "companion-chat: commit", "µs", &commit);
    for (name, series) in &theirs {
        report.measured("libraries", name, "µs", series);
        let own = if name.ends_with("load") {
            &load
        } else {
            &commit
        };
        let ratio = series.median() / own.median();
        report.single("libraries", &format!("{name}, over ours"), "x", ratio);
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/peers.py")
}

/// A script that serves until its standard input is closed, and what it printed when it was ready.
struct Script {
    child: Child,
    told: Value,
}

impl Script {
    fn start(command: &mut Command) -> Option<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut line = String::new();
        let output = child.stdout.take()?;
        let _ = BufReader::new(output).read_line(&mut line);
        match serde_json::from_str(&line) {
            Ok(told) => Some(Self { child, told }),
            Err(_) => {
                let _ = child.wait();
                None
            }
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
