//! Cold starts, at full speed and at shares of a CPU, against a function that does nothing and against a build without the SDK.

use std::path::PathBuf;

use testkit::events;
use testkit::redis::Server;
use testkit::runtime::{Function, FunctionBuilder};
use testkit::tokens::token;
use testkit::upstream::Upstream;

use super::report::{Report, Series, heading};
use super::{Effort, chat_stream, empty_function, first_text, reply, settings, store};

/// From the start of the process, at full speed and at shares of a CPU.
pub(crate) async fn starts(report: &mut Report, effort: Effort) {
    heading("Cold start");
    let redis = Server::start().await;
    let upstream = Upstream::start(reply()).await;
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
        let (mut to_text, mut warm) = (Series::default(), Series::default());
        for _ in 0..effort.starts {
            store(&redis, "u50", 50).await;
            let function = held(chat_stream(&redis, &upstream)).start().await;
            to_next.push_time(function.started_to_next());
            let cold = function.invoke(&event).await;
            to_text.push_time(first_text(&cold));
            for _ in 0..5 {
                warm.push_time(first_text(&function.invoke(&event).await));
            }
            drop(function);
            if let Some(empty) = &empty {
                let function = held(Function::builder_of(empty.clone())).start().await;
                empty_to_next.push_time(function.started_to_next());
            }
            if let Some(without_sdk) = &without_sdk {
                let builder =
                    settings(Function::builder_of(without_sdk.clone()), &redis, &upstream);
                let function = held(builder).start().await;
                without_sdk_to_next.push_time(function.started_to_next());
            }
        }
        report.measured(
            "cold",
            &format!("{name}: process start to first next"),
            "µs",
            &to_next,
        );
        if empty.is_some() {
            report.measured(
                "cold",
                &format!("{name}: the same, an empty function"),
                "µs",
                &empty_to_next,
            );
            report.single(
                "cold",
                &format!("{name}: ratio"),
                "x",
                to_next.median() / empty_to_next.median(),
            );
        }
        if without_sdk.is_some() {
            report.measured(
                "cold",
                &format!("{name}: the same, built without the AWS SDK"),
                "µs",
                &without_sdk_to_next,
            );
            report.single(
                "cold",
                &format!("{name}: with the SDK over without"),
                "ms",
                (to_next.median() - without_sdk_to_next.median()) / 1_000.0,
            );
        }
        report.measured(
            "cold",
            &format!("{name}: first turn, to its first text"),
            "µs",
            &to_text,
        );
        let over = (to_text.median() - warm.median()) / 1_000.0;
        report.single(
            "cold",
            &format!("{name}: first turn over a warm one"),
            "ms",
            over,
        );
    }
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
