//! The cost of the stand-ins by themselves: a figure that is measured with them cannot be lower.

use std::collections::HashMap;
use std::time::Instant;

use futures_util::future::join_all;
use serde_json::json;
use testkit::events;
use testkit::runtime::Function;
use testkit::tokens::token;
use testkit::upstream::Upstream;
use tokio::time::sleep;

use super::raw::Raw;
use super::report::{Report, Series, heading};
use super::streams::{Delta, SPREAD, script, while_all_are_open};
use super::{Effort, quickest};

/// Measures the stand-in for the platform with the quickest function, and the upstream with clients that do nothing.
pub(crate) async fn stand_ins(report: &mut Report, effort: Effort) {
    heading("The stand-ins alone");
    let event = events::chat(&token("alone"), "luna", "你好");
    let quickest = std::env::current_exe().expect("this program");
    for (kind, figure, parts) in [
        (
            "buffered",
            "an event to the whole answer of the quickest function",
            1,
        ),
        (
            "streamed",
            "an event of a stream, of 1,000 without a pause",
            quickest::CHUNKS,
        ),
    ] {
        let function = Function::builder_of(quickest.clone())
            .env(quickest::KIND, kind)
            .start()
            .await;
        let mut series = Series::default();
        for _ in 0..effort.turns {
            let answer = function.invoke(&event).await;
            series.push_time((answer.ended - answer.handed_over).div_f64(parts as f64));
        }
        report.measured("alone", figure, "µs", &series);
    }
    for streams in effort.streams {
        let upstream = Upstream::start(script()).await;
        upstream.note_sent();
        let address = format!("127.0.0.1:{}", upstream.port());
        let clients = (0..*streams).map(|number| {
            let address = &address;
            async move {
                let said = format!("你好 {number}");
                let message = json!({ "role": "user", "content": said });
                let body = json!({ "messages": [message] }).to_string();
                sleep(SPREAD.mul_f64(number as f64 / *streams as f64)).await;
                let mut client = Raw::connect(address).await;
                (
                    said,
                    client.post_noting("/v1/chat/completions", "x", &body).await,
                )
            }
        });
        let read: HashMap<String, Vec<Instant>> = join_all(clients).await.into_iter().collect();
        let all = upstream.requests();
        let all = all.iter().enumerate().map(|(number, request)| {
            let (_, said) = request.messages().pop().expect("a message");
            // The first piece is the role, which has no text.
            let sent = upstream.sent_at(number).into_iter().skip(1);
            let read = read[&said].iter().copied();
            sent.zip(read).map(Delta::new).collect()
        });
        let added = while_all_are_open(&all.collect::<Vec<_>>());
        report.measured(
            "alone",
            &format!("{streams} streams: a delta, from the upstream's write to a bare client"),
            "µs",
            &added,
        );
        report.single(
            "alone",
            &format!("{streams}: the same, 99th percentile"),
            "µs",
            added.quantile(0.99),
        );
    }
}
