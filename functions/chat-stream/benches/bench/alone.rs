//! What the stand-ins cost by themselves: what is measured with them cannot be less.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use testkit::events;
use testkit::runtime::Function;
use testkit::tokens::token;
use testkit::upstream::{Script, Upstream};

use super::raw::Raw;
use super::report::{Report, Series, heading};
use super::{Effort, empty_function};

/// The platform's stand-in with a function that does nothing, and the upstream with clients that do nothing.
pub(crate) async fn stand_ins(report: &mut Report, effort: Effort) {
    heading("The stand-ins alone");
    if let Some(empty) = empty_function() {
        let function = Function::builder_of(empty).start().await;
        let event = events::chat(&token("alone"), "luna", "你好");
        let mut series = Series::default();
        for _ in 0..effort.turns {
            let answer = function.invoke(&event).await;
            series.push_time(answer.ended - answer.handed_over);
        }
        report.measured(
            "alone",
            "an event to the whole answer of an empty function",
            "µs",
            &series,
        );
    }
    let pace = Duration::from_millis(50);
    let script = Script::deltas(&["x"; 40]).paced(pace).finish("stop").done();
    let body = json!({ "messages": [{ "role": "user", "content": "你好" }] }).to_string();
    for streams in effort.streams {
        let upstream = Upstream::start(script.clone()).await;
        let address = format!("127.0.0.1:{}", upstream.port());
        let clients = (0..*streams).map(|_| async {
            let mut client = Raw::connect(&address).await;
            client.post_noting("/v1/chat/completions", "x", &body).await
        });
        let mut added = Series::default();
        for times in join_all(clients).await {
            for pair in times.windows(2).take(39) {
                added.push_time((pair[1] - pair[0]).saturating_sub(pace));
            }
        }
        report.measured(
            "alone",
            &format!("{streams} streams from the upstream: added between two deltas"),
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
