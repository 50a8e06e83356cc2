//! Many streams in one process.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use testkit::events;
use testkit::redis::Server;
use testkit::tokens::token;
use testkit::upstream::{Script, Upstream};

use super::report::{Report, Series, heading};
use super::{Effort, chat_stream, delays, process};

/// One process, many streams: 20 deltas a second each.
pub(crate) async fn many_at_once(report: &mut Report, effort: Effort) {
    heading("Many streams in one process, 20 deltas a second each");
    for streams in effort.streams {
        let redis = Server::start().await;
        let script = Script::deltas(&["x"; 40])
            .paced(Duration::from_millis(50))
            .finish("stop")
            .usage(1, 40)
            .done();
        let upstream = Upstream::start(script).await;
        let chat = chat_stream(&redis, &upstream)
            .concurrency(*streams)
            .start()
            .await;
        // Connections and code are warm after this.
        chat.invoke(&events::chat(&token("warm"), "luna", "你好"))
            .await;
        let idle = process::memory(chat.pid(), "VmRSS");
        let cpu = process::cpu_time(chat.pid());
        upstream.note_sent();
        let said: Vec<String> = (0..*streams).map(|user| format!("你好 {user}")).collect();
        let turns: Vec<_> = said
            .iter()
            .enumerate()
            .map(|(user, said)| events::chat(&token(&format!("u{user}")), "luna", said))
            .collect();
        let answers = join_all(turns.iter().map(|event| chat.invoke(event))).await;
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
            &format!("{streams}: a delta, from the upstream's write to the platform"),
            "µs",
            &added,
        );
        report.single(
            "streams",
            &format!("{streams}: the same, 99th percentile"),
            "µs",
            added.quantile(0.99),
        );
        report.single(
            "streams",
            &format!("{streams}: memory a stream"),
            "kB",
            grown / *streams as f64,
        );
        report.single(
            "streams",
            &format!("{streams}: CPU a stream"),
            "ms",
            used.as_secs_f64() * 1e3 / *streams as f64,
        );
    }
}
