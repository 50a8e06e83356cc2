//! What the stand-ins cost by themselves: what is measured with them cannot be less.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use testkit::events;
use testkit::runtime::Function;
use testkit::tokens::token;
use testkit::upstream::{Script, Upstream};

use super::raw::Raw;
use super::report::{Report, Series, heading};
use super::{Effort, quickest};

/// The platform's stand-in with the quickest function, and the upstream with clients that do nothing.
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
        ("streamed", "a chunk of a streamed answer", quickest::CHUNKS),
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
    let pace = Duration::from_millis(50);
    let script = Script::deltas(&["x"; 40]).paced(pace).finish("stop").done();
    for streams in effort.streams {
        let upstream = Upstream::start(script.clone()).await;
        upstream.note_sent();
        let address = format!("127.0.0.1:{}", upstream.port());
        let clients = (0..*streams).map(|number| {
            let address = &address;
            async move {
                let said = format!("你好 {number}");
                let message = json!({ "role": "user", "content": said });
                let body = json!({ "messages": [message] }).to_string();
                let mut client = Raw::connect(address).await;
                (
                    said,
                    client.post_noting("/v1/chat/completions", "x", &body).await,
                )
            }
        });
        let read: HashMap<String, Vec<Instant>> = join_all(clients).await.into_iter().collect();
        let mut added = Series::default();
        for (number, request) in upstream.requests().iter().enumerate() {
            let (_, said) = request.messages().pop().expect("a message");
            // The first piece is the role, which has no text.
            for (read, sent) in read[&said]
                .iter()
                .zip(upstream.sent_at(number).iter().skip(1))
            {
                added.push_time(read.saturating_duration_since(*sent));
            }
        }
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
