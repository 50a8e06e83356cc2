//! Cold starts, at full speed and at shares of a CPU, against a function that does nothing and against a build without the SDK.

use std::path::PathBuf;

use serde_json::Value;
use testkit::events;
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tokens::token;
use testkit::upstream::Upstream;

use super::report::{Report, Series, heading};
use super::{Effort, chat_stream, empty_function, first_text, process, reply, settings, store};

/// From the start of the process, at full speed and at shares of a CPU.
pub(crate) async fn starts(report: &mut Report, effort: Effort) {
    heading("Cold start");
    let redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
    // Makes the function count, which builds the tokenizer's tables in a new process.
    let without_usage = Upstream::start(reply().without_usage()).await;
    let empty = empty_function();
    let without_sdk = std::env::var_os("BENCH_WITHOUT_SDK")
        .map(PathBuf::from)
        .filter(|path| path.exists());
    let event = events::chat(&token("u50"), "luna", "你好");
    for (name, share) in [
        ("full speed", 1.0),
        ("1/3.5 CPU (512 MB)", 1.0 / 3.5),
        ("1/7 CPU (256 MB)", 1.0 / 7.0),
        ("1/14 CPU (128 MB)", 1.0 / 14.0),
    ] {
        let group = (share < 1.0).then(|| Cgroup::new(share)).flatten();
        if share < 1.0 && group.is_none() {
            println!("  {name}: this machine has no cgroup that can be written");
            continue;
        }
        let held = |builder: FunctionBuilder| match &group {
            Some(group) => builder.cgroup(group.processes()),
            None => builder,
        };
        let (mut to_next, mut empty_to_next, mut without_sdk_to_next) =
            (Series::default(), Series::default(), Series::default());
        let [mut to_text, mut to_text_cpu, mut warm]: [Series; 3] = Default::default();
        let [mut counting, mut counting_cpu]: [Series; 2] = Default::default();
        let [mut cpu, mut empty_cpu, mut without_sdk_cpu]: [Series; 3] = Default::default();
        for _ in 0..effort.starts {
            store(&redis, "u50", 50).await;
            let function = held(chat_stream(&redis, &upstream)).start().await;
            to_next.push_time(function.started_to_next());
            cpu.push_time(process::cpu_time(function.pid()));
            first_turn(&function, &event, &mut to_text, &mut to_text_cpu).await;
            for _ in 0..5 {
                warm.push_time(first_text(&function.invoke(&event).await));
            }
            drop(function);
            let function = held(chat_stream(&redis, &without_usage)).start().await;
            first_turn(&function, &event, &mut counting, &mut counting_cpu).await;
            drop(function);
            if let Some(empty) = &empty {
                let function = held(Function::builder_of(empty.clone())).start().await;
                empty_to_next.push_time(function.started_to_next());
                empty_cpu.push_time(process::cpu_time(function.pid()));
            }
            if let Some(without_sdk) = &without_sdk {
                let builder =
                    settings(Function::builder_of(without_sdk.clone()), &redis, &upstream);
                let function = held(builder).start().await;
                without_sdk_to_next.push_time(function.started_to_next());
                without_sdk_cpu.push_time(process::cpu_time(function.pid()));
            }
        }
        let figure = |what: &str| format!("{name}: {what}");
        report.measured(
            "cold",
            &figure("process start to first next"),
            "µs",
            &to_next,
        );
        report.measured("cold", &figure("CPU until then"), "µs", &cpu);
        for (what, other, other_cpu) in [
            ("an empty function", &empty_to_next, &empty_cpu),
            (
                "built without the AWS SDK",
                &without_sdk_to_next,
                &without_sdk_cpu,
            ),
        ] {
            if other.is_empty() {
                continue;
            }
            report.measured("cold", &figure(&format!("{what}, to next")), "µs", other);
            report.measured("cold", &figure(&format!("{what}, CPU")), "µs", other_cpu);
            let ratio = |ours: &Series, other: &Series| ours.median() / other.median();
            let over = figure(&format!("over {what}"));
            report.single("cold", &over, "x", ratio(&to_next, other));
            report.single("cold", &format!("{over}, CPU"), "x", ratio(&cpu, other_cpu));
        }
        for (what, wall, cpu) in [
            ("first turn, to its first text", &to_text, &to_text_cpu),
            ("the same where it must count", &counting, &counting_cpu),
        ] {
            report.measured("cold", &figure(what), "µs", wall);
            report.measured("cold", &figure(&format!("{what}, CPU")), "µs", cpu);
        }
        let over = (to_text.median() - warm.median()) / 1_000.0;
        report.single(
            "cold",
            &format!("{name}: first turn over a warm one"),
            "ms",
            over,
        );
    }
}

/// The first turn of a process: its time and its CPU until the first text, after which the upstream waits.
async fn first_turn(function: &Function, event: &Value, time: &mut Series, cpu: &mut Series) {
    let before = process::cpu_time(function.pid());
    let mut answer = function.invoke_streaming(event).await;
    while let Some(event) = answer.next_event().await {
        if event.event == "message" {
            cpu.push_time(process::cpu_time(function.pid()).saturating_sub(before));
            break;
        }
    }
    time.push_time(first_text(&answer.finish().await));
}

/// A share of a CPU, by the kernel's bandwidth control; removed on drop.
struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    fn new(share: f64) -> Option<Self> {
        let path = PathBuf::from(format!(
            "/sys/fs/cgroup/cpu/companion-chat-bench-{}",
            std::process::id()
        ));
        std::fs::create_dir(&path).ok()?;
        let group = Self { path };
        let period = 20_000.0;
        std::fs::write(group.path.join("cpu.cfs_period_us"), format!("{period}")).ok()?;
        std::fs::write(
            group.path.join("cpu.cfs_quota_us"),
            format!("{:.0}", period * share),
        )
        .ok()?;
        Some(group)
    }

    fn processes(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It can only be removed once its processes are gone, and they are: their owners wait for them.
        let _ = std::fs::remove_dir(&self.path);
    }
}
