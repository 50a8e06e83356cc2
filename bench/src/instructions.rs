//! Instructions and allocations of a turn without a record, counted by callgrind: on machines of one kind they are
//! always the same, under any load.
//!
//! The real binary runs under valgrind behind the stand-ins, once for a few turns and once for more. The difference,
//! divided by the number of additional turns, is the cost of one: starting and warming up cancel out. The upstream is
//! slow enough for each delta to arrive separately.
//!
//! `BENCH_PROFILE=file` keeps the profile for `callgrind_annotate`.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::binary::binary;
use testkit::events;
use testkit::redis::Server;
use testkit::runtime::Function;
use testkit::tokens::token;
use testkit::upstream::{Script, Upstream};

use super::binaries::zipped_bytes;
use super::report::{Report, heading};
use super::{DELTAS, settings, store};

const FEW: usize = 3;
const MANY: usize = 8;
const PACE: Duration = Duration::from_millis(20);
/// The share by which a turn may exceed the accepted figures. Without a change of the code they vary by less than 2%,
/// because the kernel does not always deliver the same bytes together.
const MARGIN: f64 = 0.05;
/// The share by which the zip may exceed the accepted size, which varies only with the compiler.
const ZIP_MARGIN: f64 = 0.02;

/// The cost of a turn.
struct Turn {
    instructions: f64,
    allocations: f64,
}

/// Adds the cost of a turn to the report.
pub(crate) async fn measure(report: &mut Report) {
    heading("A warm turn by callgrind: 50 deltas, 50 messages stored");
    match turn().await {
        Some(turn) => {
            report.single(
                "instructions",
                "instructions a turn",
                "M",
                turn.instructions / 1e6,
            );
            report.single("instructions", "allocations a turn", "", turn.allocations);
        }
        None => println!("  not measured: there is no valgrind"),
    }
}

/// Compares the cost of a turn, and the size of the zip, with those that were accepted. `BENCH_INSTRUCTIONS=accept`
/// accepts the current ones instead.
///
/// # Panics
/// If one of them exceeds what was accepted and the margin allows, or if nothing can be measured.
pub(crate) async fn check() {
    let turn = turn().await.expect("valgrind is installed");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.json");
    let measured = json!({
        "instructions": turn.instructions.round(), "allocations": turn.allocations.round(),
        "zipped_bytes": zipped_bytes(&binary("chat-stream")).expect("gzip works"),
    });
    if std::env::var("BENCH_INSTRUCTIONS").is_ok_and(|value| value == "accept") {
        std::fs::write(path, format!("{measured:#}\n")).expect("the file can be written");
        println!("accepted: {measured}");
        return;
    }
    let accepted: Value = serde_json::from_slice(&std::fs::read(path).expect("accepted figures"))
        .expect("accepted figures are JSON");
    let mut more = false;
    for (name, what, margin) in [
        ("instructions", "instructions a turn", MARGIN),
        ("allocations", "allocations a turn", MARGIN),
        ("zipped_bytes", "bytes of the zip", ZIP_MARGIN),
    ] {
        let (now, before) = (
            measured[name].as_f64().expect("a number"),
            accepted[name].as_f64().expect("a number"),
        );
        let change = now / before - 1.0;
        println!(
            "{what}: {now:.0}, {:+.1}% of the {before:.0} accepted, {:.0}% allowed",
            change * 100.0,
            margin * 100.0
        );
        more |= change > margin;
    }
    assert!(
        !more,
        "that is more than was accepted; `make instructions ACCEPT=1` accepts it"
    );
}

async fn turn() -> Option<Turn> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let valgrind = std::env::split_paths(&path)
        .map(|folder| folder.join("valgrind"))
        .find(|file| file.exists())?;
    let few = run(&valgrind, FEW).await;
    let many = run(&valgrind, MANY).await;
    let each = |many: f64, few: f64| (many - few) / (MANY - FEW) as f64;
    Some(Turn {
        instructions: each(many.instructions, few.instructions),
        allocations: each(many.allocations, few.allocations),
    })
}

async fn run(valgrind: &Path, turns: usize) -> Turn {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("callgrind.out");
    let redis = Server::start().await;
    let script = Script::deltas(&["x"; DELTAS])
        .paced(PACE)
        .finish("stop")
        .usage(1, DELTAS)
        .done();
    let upstream = Upstream::start(script).await;
    let arguments = [
        "--tool=callgrind".to_owned(),
        format!("--callgrind-out-file={}", out.display()),
        binary("chat-stream").display().to_string(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let builder = Function::builder_of(valgrind.to_owned()).arguments(&arguments);
    // A record is written by time and not by deltas, so its cost depends on the machine. `BENCH_ONLY=record` measures
    // it.
    let chat = settings(builder, &redis, &upstream)
        .env("TURN_TTL_SECONDS", "0")
        .start()
        .await;
    for _ in 0..turns {
        store(&redis, "u50", 50).await;
        let answer = chat
            .invoke(&events::chat(&token("u50"), "luna", "你好"))
            .await;
        assert_eq!(answer.last()["saved"], true);
        chat.wait_idle().await;
    }
    chat.lose_platform().await;
    let profile = std::fs::read_to_string(&out).expect("callgrind wrote its profile");
    if let Some(path) = std::env::var_os("BENCH_PROFILE") {
        std::fs::write(path, &profile).expect("the file can be written");
    }
    parse(&profile)
}

/// Returns the total of a profile and the number of calls to functions that allocate. A profile spells each name once,
/// with a number, and refers to it by that number afterwards.
fn parse(profile: &str) -> Turn {
    const ALLOCATE: [&str; 5] = [
        "malloc",
        "calloc",
        "realloc",
        "aligned_alloc",
        "posix_memalign",
    ];
    let mut allocating = Vec::new();
    let (mut instructions, mut allocations, mut called) = (0.0, 0.0, false);
    for line in profile.lines() {
        let number = |text: &str| {
            text.split_whitespace()
                .next()
                .and_then(|word| word.parse::<f64>().ok())
        };
        if let Some(totals) = line
            .strip_prefix("totals:")
            .or_else(|| line.strip_prefix("summary:"))
        {
            instructions = number(totals).unwrap_or(instructions);
        } else if let Some(name) = line
            .strip_prefix("cfn=")
            .or_else(|| line.strip_prefix("fn="))
        {
            let (id, name) = name.split_once(' ').unwrap_or((name, ""));
            if ALLOCATE.contains(&name) {
                allocating.push(id);
            }
            called = line.starts_with("cfn=") && allocating.contains(&id);
        } else if let Some(calls) = line.strip_prefix("calls=")
            && called
        {
            allocations += number(calls).unwrap_or_default();
        }
    }
    assert!(
        instructions > 0.0 && allocations > 0.0,
        "a profile without totals"
    );
    Turn {
        instructions,
        allocations,
    }
}
