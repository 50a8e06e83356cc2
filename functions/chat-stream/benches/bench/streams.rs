//! Many streams in one process.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use testkit::events;
use testkit::redis::Server;
use testkit::tokens::token;
use testkit::upstream::{Script, Upstream};
use tokio::time::sleep;

use super::report::{Report, Series, heading};
use super::{Effort, chat_stream, delays, process};

/// Each stream has so many deltas, one every 50 ms.
const LONG: usize = 80;
/// Streams begin within so long, so that for as long again all of them are open.
const SPREAD: Duration = Duration::from_secs(2);

/// One process, many streams: 20 deltas a second each.
pub(crate) async fn many_at_once(report: &mut Report, effort: Effort) {
    heading(&format!(
        "Many streams in one process, 20 deltas a second each, begun within {} s",
        SPREAD.as_secs()
    ));
    for streams in effort.streams {
        measure(report, *streams, SPREAD, "").await;
    }
    let most = effort.streams.iter().max().copied().unwrap_or_default();
    measure(report, most, Duration::ZERO, ", begun in one moment").await;
}

async fn measure(report: &mut Report, streams: usize, spread: Duration, how: &str) {
    let redis = Server::start().await;
    let script = Script::deltas(&["x"; LONG])
        .paced(Duration::from_millis(50))
        .finish("stop")
        .usage(1, LONG)
        .done();
    let upstream = Upstream::start(script).await;
    let chat = chat_stream(&redis, &upstream)
        .concurrency(streams)
        .start()
        .await;
    // Connections and code are warm after this.
    chat.invoke(&events::chat(&token("warm"), "luna", "你好"))
        .await;
    let idle = process::memory(chat.pid(), "VmRSS");
    let cpu = process::cpu_time(chat.pid());
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
    let numbers: HashMap<String, usize> = upstream
        .requests()
        .iter()
        .enumerate()
        .filter_map(|(number, request)| Some((request.messages().pop()?.1, number)))
        .collect();
    let mut added = Series::default();
    for (answer, said) in answers.iter().zip(&said) {
        assert_eq!(answer.last()["saved"], true);
        delays(answer, &upstream, numbers[said], &mut added);
    }
    let used = process::cpu_time(chat.pid()).saturating_sub(cpu);
    let grown = (process::memory(chat.pid(), "VmHWM") - idle).max(0.0);
    report.measured(
        "streams",
        &format!("{streams}{how}: a delta, from the upstream to the platform"),
        "µs",
        &added,
    );
    report.single(
        "streams",
        &format!("{streams}{how}: the same, 99th percentile"),
        "µs",
        added.quantile(0.99),
    );
    report.single(
        "streams",
        &format!("{streams}{how}: memory a stream"),
        "kB",
        grown / streams as f64,
    );
    report.single(
        "streams",
        &format!("{streams}{how}: CPU a stream of {LONG} deltas"),
        "ms",
        used.as_secs_f64() * 1e3 / streams as f64,
    );
}
